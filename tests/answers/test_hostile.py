"""Responses are hostile input: they never crash, hang or run anything, nor harm their neighbours.

`SI_HOSTILE=2000` sets the number of generated batches (default 200).
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from si.answers import Judge, MathPool, Policy, Verdict, case
from si.answers.case import KINDS, REASONS

BATCHES = int(os.environ.get("SI_HOSTILE", "200"))
CANARY = "/tmp/si-hostile-canary"

SANE = [
    (case("Answer: 12", "12"), True),
    (case("Answer: 13", "12"), False),
    (case(r"\boxed{\frac{\sqrt{3}}{2}}", r"\sqrt{3}/2"), True),
    (case(r"\boxed{\sqrt{3}}", r"\sqrt{3}/2"), False),
    (case("The correct option is **B**.", "B", "choice", ["1", "2", "3"]), True),
    (case(r"Answer: $\int_0^2 x\,dx$", "2"), True),  # nothing short of math-verify knows it
    (case(r"Answer: $\int_0^2 x\,dx$", "3"), False),
]

TOWERS = [
    "9^9^9^9^9",
    "9^{9^{9^{9^9}}}",
    "10**10**10",
    "10^{10^{10}}",
    "2^{2^{2^{2^{2^{2}}}}}",
    "99999999999!",
    "((9!)!)!",
    r"\binom{10^9}{5 \cdot 10^8}",
    r"\sum_{n=1}^{10^{12}} \frac{1}{n}",
    r"\prod_{n=1}^{10^9} n",
    r"\int_0^1 e^{e^{e^{e^{x^{x^x}}}}} dx",
    r"\lim_{x \to 0} \frac{\sin(\sin(\sin(\sin x)))}{x^{99}}",
    r"\sqrt[999999999]{10^{999999999}}",
    r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}^{1000000000}",
    r"(x+y+z)^{100000}",
    r"\frac{x^{100000}-1}{x-1}",
    "1e999999999",
    "1e-999999999",
    r"1.5 \times 10^{999999999999}",
    "0." + "0" * 3000 + "1",
    "9" * 400 + "^" + "9" * 50,
    r"\tan(10^{10^{10}})",
    r"\log_{0} 0",
    "1/0",
    "0/0",
    r"\frac{1}{\frac{1}{\frac{1}{0}}}",
    r"\infty - \infty",
    "NaN",
    "x_{x_{x_{x_{x_{x_{x}}}}}}",
    "sin sin sin sin sin sin sin x",
    "a" * 500,
    "abcdefghijklmnopqrstuvwxyz^abcdefghijklmnopqrstuvwxyz",
]

CODE = [
    f"__import__('os').system('touch {CANARY}')",
    f"exec(\"open('{CANARY}','w')\")",
    f"open('{CANARY}', 'w').write('x')",
    f"eval(compile('open(\"{CANARY}\",\"w\")','','exec'))",
    f"(lambda: __import__('subprocess').run(['touch','{CANARY}']))()",
    f"[].__class__.__base__.__subclasses__()[0]('{CANARY}')",
    f"\\input{{{CANARY}}}",
    f"\\immediate\\write18{{touch {CANARY}}}",
    f"$(touch {CANARY})",
    f"`touch {CANARY}`",
    "${7*7}",
    "{{7*7}}",
    "%s%s%s%n",
    "'; DROP TABLE verdicts; --",
    '{"answer": {"$gt": ""}}',
    "!!python/object/apply:os.system ['true']",
    "import os; os.abort()",
    "raise SystemExit(1)",
    "sys.exit()",
    "exit()",
    "quit()\n42",
]

BROKEN = [
    "\\boxed{" * 2000,
    "\\boxed" * 2000,
    "\\frac{" * 300 + "1" + "}" * 300,
    "(" * 1000 + "1" + ")" * 1000,
    "{" * 1000 + "1" + "}" * 1000,
    "\\left(" * 400 + "1" + "\\right)" * 400,
    "\\sqrt{" * 200 + "2" + "}" * 200,
    "}" * 5000,
    "$" * 5000,
    "\\" * 5000,
    "\\text{" * 500 + "12",
    "**" * 3000 + "12" + "**" * 3000,
    "`" * 5000,
    "<answer>" * 2000,
    "<think>" * 2000,
    "</think>" * 2000,
    "<answer>" + "<think>" * 500 + "</answer>",
    "Answer: " * 2000,
    "The answer is " * 2000,
    "#### " * 2000,
    '{"answer": ' * 1000,
    '{"answer": "' + "\\" * 2000,
    "[" * 3000,
    "A, " * 3000,
    "A. x " * 2000,
    "A or B or " * 1000,
    "1," * 3000,
    "1/" * 3000,
    "1 = " * 2000,
    "-" * 5000 + "1",
    "+-" * 2500 + "1",
    "." * 5000,
    "," * 5000,
    "%" * 3000,
    "^" * 3000,
    "_" * 3000,
    "&" * 3000,
    "x" * 3000 + "!",
    " " * 5000 + "12",
    "\n" * 5000 + "12",
    "a" * 3000 + "b",
    "\\begin{pmatrix}" * 300,
    "\\begin{cases} 1 & 2 \\\\ " * 200,
    "答案：" * 2000,
    "故选" * 2000,
    "not " * 2000 + "12",
]

STRANGE = [
    "\x00" * 1000 + "12",
    "Answer: 1\x002",
    "Answer: \x1b[2J\x1b[H12",
    "Answer: \udc80\ud800",
    "Answer: \ud83d",
    "Answer: \u202e21\u202c",
    "Answer: \u2066\u2067\u2068" * 50,
    "Answer: " + "1" + "\u0300" * 2000,
    "Answer: " + "\u200b" * 5000 + "12",
    "Answer: \ufeff12\ufeff",
    "Answer: \U000e0041\U000e0042",
    "Answer: ①②③",
    "Answer: ⅠⅡⅢ",
    "Answer: ٣٤",
    "Answer: १२",
    "Answer: 𝟏𝟐",
    "Answer: 1２",
    "Answer: ½⅓¼",
    "Answer: ²³",
    "Answer: ²^²",
    "Answer: √√√√√2",
    "Answer: −−12",
    "Answer: ∞∞",
    "Answer: ﷽" * 200,
    "Answer: ß" * 200,
    "Answer: İ" * 200,
    "\r" * 3000 + "12",
    "\u2028" * 3000 + "12",
    "\x85\x0b\x0c12",
]

BIG = {
    "letters": "x" * 3_000_000,
    "digits": "Answer: " + "9" * 3_000_000,
    "fraction": "Answer: " + "9" * 200_000 + "/" + "7" * 200_000,
    "marks": "Answer: " * 300_000,
    "boxes": "\\boxed{" * 300_000,
    "closed-boxes": "\\boxed{1}" * 200_000,
    "money": "$" * 1_000_000,
    "backslashes": "\\" * 1_000_000,
    "braces": "{" * 1_000_000,
    "brackets": "(" * 1_000_000,
    "lines": "\n" * 1_000_000 + "answer is",
    "options": "A. 1\nB. 2\n" * 100_000,
    "list": "Answer: " + "1, " * 300_000,
    "chain": "Answer: " + "1 = " * 300_000,
    "thinking": "<think>" * 150_000 + "</think>" * 150_000,
    "tags": "<answer>" * 150_000 + "</answer>" * 150_000,
    "json": '{"answer": ' * 150_000 + "}" * 150_000,
    "stars": "**" * 700_000,
    "words": "the answer is " * 150_000,
    "not": "not " * 500_000 + "12",
    "chinese": "答案是" * 300_000,
    "blanks": "Answer:" + " " * 2_000_000 + "13",
    "surds": "Answer: " + "\\sqrt{2}+" * 100_000 + "1",
    "fractions": "Answer: " + "\\frac{1}{2}+" * 100_000 + "1",
    "powers": "Answer: " + "x^2+" * 200_000 + "1",
    "colons": "Answer" + ":" * 1_000_000,
    "hashes": "#" * 1_000_000,
    "quotes": '"' * 1_000_000,
    "tokens": "<|im_end|>" * 200_000,
    "minus": "Answer: " + "-" * 1_000_000 + "1",
}


@pytest.fixture(scope="module")
def judges() -> Iterator[tuple[Judge, Judge]]:
    """Two judges that share nothing, with little time for math-verify."""
    with MathPool(timeout=1.0, size=1) as one, MathPool(timeout=1.0, size=1) as other:
        yield Judge(Policy(), one), Judge(Policy(), other)


def check(verdict: Verdict) -> None:
    """A verdict that can be stored, and says why it is what it is."""
    assert verdict.kind in KINDS
    assert (verdict.reason is None) == verdict.correct
    assert verdict.correct or verdict.reason in REASONS
    for text in (verdict.extracted, verdict.normal):
        assert len(text or "") <= 4096
        (text or "").encode()


def judged(judge: Judge, responses: list[str], reference: str, kind: str | None) -> list[Verdict]:
    """Verdicts of hostile responses, after a look at those of the sane ones among them."""
    hostile = [case(response, reference, kind) for response in responses]
    sane, expected = zip(*SANE, strict=True)
    # Sane ones stand between hostile ones, so that each has one before it and one behind it.
    cases = [one for pair in zip(hostile, sane, strict=False) for one in pair]
    cases += [*hostile[len(sane) :], *sane]
    verdicts = judge.judge_all(cases)
    found = {id(one): verdict for one, verdict in zip(cases, verdicts, strict=True)}
    assert tuple(found[id(one)].correct for one in sane) == expected
    assert not Path(CANARY).exists()
    for verdict in verdicts:
        check(verdict)
    return [found[id(one)] for one in hostile]


@pytest.mark.parametrize("frame", ["Answer: @", r"\boxed{@}", "@", "The answer is $@$."])
@pytest.mark.parametrize("corpus", [TOWERS, CODE, BROKEN, STRANGE], ids=["t", "c", "b", "s"])
@pytest.mark.timeout(240)
def test_hostile_corpus(judges: tuple[Judge, Judge], corpus: list[str], frame: str) -> None:
    """Towers of powers, code, broken LaTeX and strange characters are wrong, and nothing else."""
    responses = [frame.replace("@", text) for text in corpus]
    verdicts = judged(judges[0], responses, "7654321", None)
    assert not any(verdict.correct for verdict in verdicts)


@pytest.mark.parametrize("reference", TOWERS[:12] + CODE[:6] + BROKEN[:6], ids=lambda t: t[:16])
@pytest.mark.timeout(120)
def test_hostile_references(judges: tuple[Judge, Judge], reference: str) -> None:
    """A reference is no more trusted than a response."""
    responses = ["Answer: 12", r"\boxed{x}", "Answer: B", ""]
    assert not any(verdict.correct for verdict in judged(judges[0], responses, reference, None))


@pytest.mark.parametrize("text", BIG.values(), ids=BIG)
@pytest.mark.parametrize("profile", ["strict", "lenient"])
@pytest.mark.timeout(60)  # milliseconds each; anything quadratic would take minutes
def test_megabytes_are_cheap(text: str, profile: str) -> None:
    """A response of megabytes is judged in linear time, without a process for it."""
    judge = Judge(Policy(profile=profile))  # type: ignore[arg-type]
    for kind in ("number", "choice", None):
        verdict = judge.judge(case(text, "7654321" if kind != "choice" else "D", kind))
        check(verdict)
        assert not verdict.correct


PIECES = st.sampled_from(
    [
        *("Answer:", "answer is", "\\boxed{", "}", "{", "$", "$$", "\\(", "\\)", "\\[", "\\]"),
        *("\\frac", "\\sqrt", "\\text{", "\\left(", "\\right)", "\\pi", "\\infty", "\\pm", "\\cup"),
        *("9^", "^{", "_", "!", "1,000", "0.5", "12", "99999999999", "1e999", "/0", "%", "°", "√"),
        *("(B)", "A.", "B or C", "**", "`", "not ", "cm", "cm^2", " m", "x", "=", "≈", "<", "\\le"),
        *(
            "<think>",
            "</think>",
            "<answer>",
            "</answer>",
            "#### ",
            '{"answer": "',
            '"}',
            "答案：",
            "故选",
        ),
        *(
            "\n",
            "\n\n",
            " ",
            ", ",
            " and ",
            "[",
            ")",
            "\\{",
            "\\}",
            "\x00",
            "\u202e",
            "\u200b",
            "\ud800",
        ),
        *(
            "<|im_end|>",
            "</s>",
            "<|begin_of_box|>",
            "<|end_of_box|>",
            "__import__('os')",
            "lambda:",
        ),
        *TOWERS[:8],
        *CODE[:4],
    ]
)
ANY = st.text(st.characters(codec=None, categories=None), max_size=40)
FORMULA = st.recursive(
    st.sampled_from(["1", "2", "x", "\\pi", "10", "99", "0", "0.5", "n", "i", "e"]),
    lambda part: st.one_of(
        st.builds("\\frac{{{}}}{{{}}}".format, part, part),
        st.builds("{}^{{{}}}".format, part, part),
        st.builds("\\sqrt{{{}}}".format, part),
        st.builds("({}+{})".format, part, part),
        st.builds("{}\\cdot {}".format, part, part),
        st.builds("({})!".format, part),
        st.builds("\\sin({})".format, part),
        st.builds("({}, {})".format, part, part),
        st.builds("\\{{{}, {}\\}}".format, part, part),
        st.builds("{} = {}".format, part, part),
    ),
    max_leaves=12,
)
SCRAPS = st.lists(PIECES | ANY, max_size=14).map("".join)
FRAMED = st.builds(
    lambda frame, text: frame.replace("@", text),
    st.sampled_from(["Answer: @", "\\boxed{@}", "@", "The answer is $@$.", "<answer>@</answer>"]),
    FORMULA | SCRAPS,
)
REFERENCES = st.sampled_from(["12", "B", "A, C", r"\frac{1}{2}", "[1, 2)", r"\{1, 2\}", "red"])


@pytest.mark.slow  # as many batches as SI_HOSTILE says
@pytest.mark.timeout(0 if BATCHES > 200 else 280)
@settings(
    max_examples=BATCHES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    st.lists(FRAMED, min_size=1, max_size=4),
    REFERENCES | FORMULA,
    st.none() | st.sampled_from(KINDS),
    st.booleans(),
)
def test_any_batch_is_judged(
    judges: tuple[Judge, Judge], responses: list[str], reference: str, kind: str | None, cut: bool
) -> None:
    """Whatever the responses: storable verdicts, sane neighbours, and the same ones again."""
    first, again = (judged(judge, responses, reference, kind) for judge in judges)
    for one, other in zip(first, again, strict=True):
        assert one == other or "timeout" in (one.reason, other.reason)
    lenient = Judge(Policy(profile="lenient"), judges[0].pool)
    reason = "length" if cut else "stop"
    for response in responses:
        check(lenient.judge(case(response, reference, kind, finish_reason=reason)))
