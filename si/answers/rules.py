"""The judge's rules by name, each with one example; `docs/judging.md` is written from them.

python -m si.answers.rules > docs/judging.md
"""

from dataclasses import dataclass
from typing import Any

from si.answers.case import REASONS, Policy, Tolerance, Verdict, case
from si.answers.judge import Judge


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule and an example of it.

    Attributes:
        name: as a recipe's `verify.off` and a verdict's `where`, `rule` or `reason` have it.
        part: `find`, `compare` or `reject`.
        says: what the rule does, one sentence.
        response, reference: the example.
        correct: its verdict.
        policy: what the example is judged with; the default policy where None.
        more: choices, kind or finish reason of the example.
    """

    name: str
    part: str
    says: str
    response: str
    reference: str
    correct: bool = True
    policy: Policy | None = None
    more: tuple[tuple[str, Any], ...] = ()

    def verdict(self) -> Verdict:
        """The example's verdict."""
        made = case(self.response, self.reference, **dict(self.more))
        return Judge(self.policy or Policy()).judge(made)

    @property
    def where(self) -> str:
        """The field of a verdict in which the rule's name stands."""
        return {"find": "where", "compare": "rule", "reject": "reason"}[self.part]


_ANIMALS = (("choices", ("a dog", "a cat", "a horse")),)
_LENIENT = Policy(profile="lenient")

RULES = (
    Rule(
        "tag",
        "find",
        "The last `<answer>` counts before all other marks; so do `<conclusion>` and "
        "`<final_answer>`.",
        "The answer is 13?\n<answer>12</answer>",
        "12",
    ),
    Rule(
        "glm_box",
        "find",
        "The box that GLM models write counts before all marks but the tag.",
        "<|begin_of_box|>12<|end_of_box|>",
        "12",
    ),
    Rule(
        "boxed",
        "find",
        "The last `\\boxed{}`; boxes in one row are joined where the reference has as many values.",
        "$x=\\boxed{1}$ and $y=\\boxed{3}$",
        "1, 3",
    ),
    Rule(
        "answer",
        "find",
        "`Answer:`, `the answer is`, `the answer to ... would be` and the like; an empty line is "
        "followed by the next one. A remark such as `the answer is correct` is not a mark.",
        "**Answer:** 12 cm, because 3 times 4 is 12.",
        "12",
    ),
    Rule(
        "option",
        "find",
        "`The correct option is`, `Option:`, `I choose`, `which corresponds to option`.",
        "Therefore, the correct option is **B**.",
        "B",
    ),
    Rule(
        "named",
        "find",
        "`Option B is correct`, `(B) is the correct answer`, `both A and C are correct`; for "
        "choices only.",
        "Option B is correct.",
        "B",
    ),
    Rule("json", "find", 'The value of `"answer"` in JSON.', '{"answer": "B"}', "B"),
    Rule("hash", "find", "What follows `####` on the last line.", "3 + 4 = 7\n#### 7", "7"),
    Rule("heading", "find", "The line below a heading `Answer`.", "### Final Answer\n\n12", "12"),
    Rule("chinese", "find", "答案, 故选, 正确选项 and the like.", "所以答案是B。", "B"),
    Rule(
        "conclusion",
        "find",
        "Without a mark: a last sentence that begins with `Therefore`, `So` or the like and "
        "names one answer.",
        "I add them.\nTherefore, the total is 12.",
        "12",
    ),
    Rule(
        "last_line",
        "find",
        "Without a mark: a last line that is nothing but an answer, or such a line before its "
        "explanation.",
        "I multiply 3 and 4.\n\n12",
        "12",
    ),
    Rule(
        "last_number",
        "find",
        "Lenient only: the number that the last sentence comes to.",
        "The total number of cubes is 7.",
        "7",
        policy=_LENIENT,
    ),
    Rule(
        "last_formula",
        "find",
        "Lenient only: the last formula of the last sentence that has one.",
        "The ratio of both is $\\frac{1}{2}$.",
        "\\frac{1}{2}",
        policy=_LENIENT,
    ),
    Rule(
        "named_option",
        "find",
        "Lenient only: the one option that the last sentences name, by letter or text.",
        "The picture shows a cat on a sofa.",
        "B",
        policy=_LENIENT,
        more=_ANIMALS,
    ),
    Rule(
        "exact",
        "compare",
        "Equal once markup, fonts, layout and the final stop are gone.",
        "The answer is **$x^2$**.",
        "x^2",
    ),
    Rule(
        "number",
        "compare",
        "Equal values, exactly: decimals, fractions, mixed numbers, thousands, powers of ten, "
        "number words. A decimal of ten digits or more may be the rounding of a value without a "
        "finite decimal.",
        "Answer: 0.75",
        "\\frac{3}{4}",
    ),
    Rule(
        "tolerance",
        "compare",
        "Near enough, by the recipe's or row's tolerance (absolute, relative or decimals).",
        "Answer: 104",
        "100",
        policy=Policy(tolerance=Tolerance(relative=0.05)),
    ),
    Rule(
        "percent",
        "compare",
        "`50%` equals 0.5 and, since questions ask for a percentage, 50.",
        "Answer: 50%",
        "0.5",
    ),
    Rule(
        "unit",
        "compare",
        "Units must agree where both have one; any noun behind a number is a unit, a single letter "
        "is not. With `convert`, units of one dimension are compared by value.",
        "Answer: 120 cm",
        "1.2 m",
        policy=Policy(convert=True),
    ),
    Rule(
        "choice",
        "compare",
        "An option's letter, text or number; a letter that the question lacks is not an answer.",
        "Answer: a cat",
        "B",
        more=_ANIMALS,
    ),
    Rule(
        "choices",
        "compare",
        "Several options are compared as a set.",
        "Answer: C and A",
        "A, C",
        more=_ANIMALS,
    ),
    Rule(
        "formula",
        "compare",
        "Equal values to forty digits; with variables, at several points.",
        "Answer: $(x+1)^2$",
        "x^2 + 2x + 1",
    ),
    Rule(
        "set",
        "compare",
        "Lists and sets, without order but with multiplicity.",
        "Answer: x = 3 or x = 1",
        "\\{1, 3\\}",
    ),
    Rule("tuple", "compare", "In order.", "Answer: x = 1, y = 2", "(1, 2)"),
    Rule(
        "interval",
        "compare",
        "Intervals, unions and inequalities as sets of numbers.",
        "Answer: $1 \\le x < 2$",
        "[1, 2)",
    ),
    Rule(
        "equation",
        "compare",
        "Equations up to a factor.",
        "Answer: $2x - y = -1$",
        "y = 2x + 1",
    ),
    Rule("boolean", "compare", "Yes is true, no is false.", "Answer: Yes, it is.", "True"),
    Rule(
        "text",
        "compare",
        "Words without case, articles and quotes, alone or with a reason behind them. Dates, "
        "times, ranges, codes and names are text, not arithmetic.",
        "Answer: The red cube, because it is in front.",
        "red cube",
    ),
    Rule(
        "geometry",
        "compare",
        "Names and relations of geometry; the ends of a segment may be exchanged.",
        "Answer: $CD \\parallel AB$",
        "AB \\parallel CD",
    ),
    Rule("no_answer", "reject", REASONS["no_answer"] + ".", "I do not know.", "12", False),
    Rule(
        "truncated",
        "reject",
        REASONS["truncated"] + ".",
        "So the answer is 12",
        "12",
        False,
        more=(("finish_reason", "length"),),
    ),
    Rule(
        "several_answers", "reject", REASONS["several_answers"] + ".", "Answer: A or B", "A", False
    ),
    Rule(
        "thinking_only",
        "reject",
        REASONS["thinking_only"] + ".",
        "<think>The answer is 12.</think>",
        "12",
        False,
    ),
    Rule("different", "reject", REASONS["different"] + ".", "Answer: 13", "12", False),
    Rule(
        "not_comparable",
        "reject",
        REASONS["not_comparable"] + ".",
        "Answer: many cubes",
        "12",
        False,
    ),
    Rule("too_long", "reject", REASONS["too_long"] + ".", "Answer: 9^{9^{9^{9}}}", "12", False),
)
NAMES = frozenset(rule.name for rule in RULES)
_INTRO = """# How answers are judged

    si-ctl verify rollouts.jsonl                                   # judge a file
    si-ctl verify rollouts.jsonl --profile lenient --truth reward  # compare with a column
    si-ctl verify rollouts.jsonl --explain 3                       # show why, for query 3

The same rules judge in the verify stage, in `si-ctl verify`, in `data import` (kinds and
references) and in `si.answers.rewards`. This page is written from the table in
`si/answers/rules.py`; a test holds each example to its verdict.

Two profiles: `strict` (the default, for training) reads an answer only after a mark, from a
concluding sentence, or from a last line that is nothing but an answer. `lenient` (for evaluation)
adds the last number, the last formula and the option that the last sentences name. Set
`verify.profile` in the recipe. A rule that finds is switched off by name in `verify.off`.

A closed `<think>` is removed and an unclosed one leaves no answer. What a sentence denies or
supposes is not an answer. An echoed list of options is not an answer. A response that its token
limit cut counts only if its mark is complete.
"""
_PARTS = {
    "find": (
        "Finding the answer",
        "`tag` and `glm_box` count before all other marks; of these the last one counts, so that a "
        "response that corrects itself means its last word. The rest apply without a mark, in this "
        "order.",
    ),
    "compare": (
        "Comparing it",
        "The kind (`choice`, `choices`, `number`, `expression`, `set`, `interval`, `tuple`, "
        "`equation`, `boolean`, `text`) is inferred from the reference and the choices. What the "
        "rules cannot read as mathematics is asked of math-verify (`math_verify`), in a process "
        "that can be killed.",
    ),
    "reject": ("Why an answer is incorrect", "The `reason` of a verdict that is not correct."),
}
_OUTRO = """## Conventions

| question | convention |
|---|---|
| 3.33 for 10/3 | incorrect; set a tolerance |
| a bare list for a tuple | correct in the same order |
| several letters for one choice | `several_answers` |
| a letter with another option's text | `several_answers` |
| `12_3` for `12` | incorrect: the base belongs to the number |
| `x` for `X` | incorrect: they are two variables |
| `2a` for `2` | incorrect: a single letter is a variable |
| `300 K` for `300` | correct: a letter behind a blank, outside of a formula, is a unit |
| `12 or 13` for `12` | incorrect |
| several references | any of them |
| `1\\frac{1}{2}` | a mixed number |
| `3,14` | a list of two numbers: the decimal sign is a point |
"""


def page() -> str:
    """The text of `docs/judging.md`."""
    made = [_INTRO]
    for part, (title, words) in _PARTS.items():
        made.append(f"## {title}\n\n{words}\n")
        made.append(
            "| rule | what it does | reference | response | verdict |\n|---|---|---|---|---|"
        )
        made += [_row(rule) for rule in RULES if rule.part == part]
        made.append("")
    return "\n".join([*made, _OUTRO])


def _row(rule: Rule) -> str:
    cells = (
        _code(rule.reference),
        _code(rule.response),
        "correct" if rule.correct else "incorrect",
    )
    return f"| `{rule.name}` | {rule.says} | {' | '.join(cells)} |"


def _code(text: str) -> str:
    return "`" + text.replace("\n", "⏎").replace("|", "\\|") + "`"


if __name__ == "__main__":
    print(page(), end="")
