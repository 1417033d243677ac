"""Judging rollouts, against plain math-verify on the same responses in the same run.

    python benchmarks/judge.py [--queries 300] [--seed N] [--differences]

Rollouts are generated from a seed: K = 16 a query, some 180 words each, in the forms in which
vision models end their answers. 60 % of the queries have a letter, a number or a number with a unit
as reference, 40 % a formula. Plain math-verify parses each whole response and compares it with the
reference, parsed once a query. Both run on one pinned core and are measured in processor seconds,
child processes included. The memo remembers comparisons of the same answer with the same reference.
The generator knows which responses are correct, so each verdict that differs is attributed.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

K = 16
TEXT = (
    "the of to we is in and that angle line triangle so since by from length image shows value "
    "side circle bar chart label which gives point between equal therefore given figure height "
    "base red blue area first next total each step find look right left above below number count"
)
WORDS = TEXT.split()
LETTERS = "ABCD"


class Rollout(NamedTuple):
    """A response with its reference, the choices of its question, and the truth."""

    query: int
    part: str
    response: str
    reference: str
    kind: str | None
    choices: tuple[str, ...]
    correct: bool


class Question(NamedTuple):
    """A reference, spellings of it, and answers that are not equal to it."""

    reference: str
    spellings: list[str]
    wrong: list[str]
    kind: str | None = None
    choices: tuple[str, ...] = ()


# --- questions ------------------------------------------------------------------------------


def choice(rng: random.Random) -> Question:
    first, step = rng.randrange(10, 90), rng.randrange(2, 15)
    choices = tuple(f"{first + i * step}°" for i in range(4))
    right = rng.randrange(4)

    def forms(i: int) -> list[str]:
        letter, text = LETTERS[i], choices[i]
        return [letter, f"({letter})", f"{letter}. {text}", f"{letter}", f"({letter}) {text}"]

    wrong = [form for i in range(4) if i != right for form in forms(i)]
    return Question(LETTERS[right], forms(right), wrong, "choice", choices)


def integer(rng: random.Random) -> Question:
    n = rng.randrange(2, 2000)
    wrong = [n + 1, n - 1, 2 * n, n + 10, n * 10]
    spellings = [str(n), f"{n}", f"{n:,}", f"{n}.0"]
    return Question(str(n), spellings, [str(other) for other in wrong], "number")


def decimal(rng: random.Random) -> Question:
    n = Fraction(rng.randrange(11, 999), 10)
    wrong = [n + Fraction(1, 10), n * 10, n - 1, n / 10]
    return Question(
        f"{float(n)}", [f"{float(n)}", f"{float(n):.2f}"], [str(float(x)) for x in wrong]
    )


def measured(rng: random.Random) -> Question:
    n, (short, long) = rng.randrange(2, 200), rng.choice([("cm", "centimeters"), ("m", "meters")])
    spellings = [f"{n} {short}", f"{n}", f"{n} {long}", rf"{n}\text{{ {short}}}"]
    return Question(f"{n} {short}", spellings, [f"{n + 2} {short}", f"{2 * n} {short}", f"{n - 1}"])


def pi_fraction(rng: random.Random) -> Question:
    a, b = rng.choice([(1, 3), (2, 3), (3, 4), (5, 6), (7, 4), (5, 3), (4, 3), (5, 4)])
    spellings = [rf"\frac{{{a}\pi}}{{{b}}}", rf"\frac{{{a}}}{{{b}}}\pi", rf"{a}\pi/{b}"]
    wrong = [rf"\frac{{{b}\pi}}{{{a}}}", rf"\frac{{{a}}}{{{b}}}", rf"\frac{{{a + b}\pi}}{{{b}}}"]
    return Question(spellings[0], spellings, wrong)


def root(rng: random.Random) -> Question:
    a, b = rng.randrange(2, 13), rng.choice([2, 3, 5, 6, 7, 10])
    spellings = [rf"{a}\sqrt{{{b}}}", rf"{a} \sqrt{{{b}}}", rf"\sqrt{{{a * a * b}}}"]
    wrong = [rf"{a}\sqrt{{{b + 1}}}", rf"{a + 1}\sqrt{{{b}}}", rf"{a * b}", rf"\sqrt{{{a * b}}}"]
    return Question(spellings[0], [*spellings, rf"{a} \cdot \sqrt{{{b}}}"], wrong)


def surd(rng: random.Random) -> Question:
    a, b, c = rng.randrange(1, 9), rng.choice([2, 3, 5, 7, 11]), rng.choice([2, 3, 4])
    right = rf"\frac{{{a}+\sqrt{{{b}}}}}{{{c}}}"
    spellings = [right, rf"\frac{{\sqrt{{{b}}} + {a}}}{{{c}}}"]
    wrong = [rf"\frac{{{a}-\sqrt{{{b}}}}}{{{c}}}", rf"{a}+\frac{{\sqrt{{{b}}}}}{{{c}}}"]
    return Question(right, spellings, wrong)


def polynomial(rng: random.Random) -> Question:
    p, q = rng.randrange(1, 7), rng.randrange(1, 7)
    spellings = [f"x^2+{p + q}x+{p * q}", f"x^2 + {p + q}x + {p * q}", f"(x+{p})(x+{q})"]
    wrong = [f"x^2+{p + q + 1}x+{p * q}", f"x^2-{p + q}x+{p * q}", f"(x+{p})(x-{q})"]
    return Question(spellings[0], spellings, wrong)


def interval(rng: random.Random) -> Question:
    a, b = rng.randrange(-9, 3), rng.randrange(4, 20)
    spellings = [f"[{a},{b})", f"[{a}, {b})", rf"{a} \le x < {b}", rf"\left[{a}, {b}\right)"]
    wrong = [f"[{a},{b}]", f"({a},{b})", rf"{a} < x < {b}", f"[{a}, {b + 1})"]
    return Question(spellings[0], spellings, wrong)


def pair(rng: random.Random) -> Question:
    a, b = rng.randrange(-9, 10), rng.randrange(1, 9)
    spellings = [
        rf"(\frac{{{b}}}{{2}}, {a})",
        rf"\left(\frac{{{b}}}{{2}},{a}\right)",
        f"({b}/2, {a})",
    ]
    wrong = [rf"({a}, \frac{{{b}}}{{2}})", rf"(\frac{{{b + 1}}}{{2}}, {a})", f"({b}, {a})"]
    return Question(spellings[0], spellings, wrong if 2 * a != b else wrong[1:])


def area(rng: random.Random) -> Question:
    n = rng.randrange(2, 80)
    spellings = [rf"{n}\pi \text{{ cm}}^2", rf"{n}\pi", rf"{n} \pi \text{{ cm}}^2"]
    wrong = [rf"{n}", rf"{n + 1}\pi \text{{ cm}}^2", rf"{2 * n}\pi"]
    return Question(spellings[0], spellings, wrong)


def line(rng: random.Random) -> Question:
    m, b = rng.randrange(2, 9), rng.randrange(1, 9)
    spellings = [f"y={m}x+{b}", f"y = {m}x + {b}", f"{m}x - y + {b} = 0"]
    wrong = [f"y={m}x-{b}", f"y = {m + 1}x + {b}", f"y = {b}x" if b != m else "y = x"]
    return Question(spellings[0], spellings, wrong)


PLAIN = (choice, choice, choice, integer, decimal, measured)
FORMULA = (pi_fraction, root, surd, polynomial, interval, pair, area, line)


# --- responses ------------------------------------------------------------------------------

FRAMES = {
    "plain": ["Answer: @", "**Answer: @**", r"\boxed{@}", "The answer is @.", "<answer>@</answer>"],
    "choice": [
        "The correct option is **@**.",
        r"\boxed{\text{@}}",
        "Therefore, the answer is **@**.",
    ],
    "number": ["The final answer is **@**.", r"Thus, the answer is $\boxed{@}$.", "Answer: @."],
    "formula": [
        r"The final answer is $\boxed{@}$.",
        r"Therefore, the answer is:\n\n\[\n\boxed{@}\n\]".replace(r"\n", "\n"),
        r"**Answer:** $@$",
        "Answer: $@$",
        r"Thus, the answer is \(@\).",
        r"<answer>\boxed{@}</answer>",
    ],
}


def response(rng: random.Random, part: str, question: Question, correct: bool) -> str:
    """Some 170 words of reasoning, then the answer in one of the forms that models use."""
    sentences = []
    for _ in range(rng.randrange(10, 18)):
        words = [rng.choice(WORDS) for _ in range(rng.randrange(7, 16))]
        if rng.random() < 0.4:
            a, b = rng.randrange(2, 60), rng.randrange(2, 60)
            words.insert(rng.randrange(len(words)), f"${a} + {b} = {a + b}$")
        elif rng.random() < 0.2:
            words.insert(rng.randrange(len(words)), rf"$\frac{{{rng.randrange(9)}}}{{7}} x$")
        sentences.append(" ".join(words).capitalize() + ".")
    answer = rng.choice(question.spellings if correct else question.wrong)
    kinds = ["formula"] if part == "formula" else ["plain", question.kind or "number"]
    frames = [frame for kind in kinds for frame in FRAMES[kind]]
    body = "\n\n".join(" ".join(sentences[i : i + 4]) for i in range(0, len(sentences), 4))
    return f"{body}\n\n{rng.choice(frames).replace('@', answer)}"


def unanswered(rng: random.Random, text: str, question: Question) -> str:
    """A response without its end, or with an echoed list of the options instead of an answer."""
    body = text.rpartition("\n\n")[0]
    if question.choices and rng.random() < 0.5:
        options = [f"{a}. {b}" for a, b in zip(LETTERS, question.choices, strict=True)]
        return body + "\n\nThe options are:\n" + "\n".join(options)
    return body


def generate(seed: int, queries: int) -> list[Rollout]:
    """K rollouts a query, in the order in which a shard would hold them."""
    rng, made = random.Random(seed), []
    for query in range(queries):
        part = "plain" if query % 5 < 3 else "formula"
        question = rng.choice(PLAIN if part == "plain" else FORMULA)(rng)
        rate = rng.betavariate(0.8, 0.8)
        for _ in range(K):
            correct = rng.random() < rate
            text = response(rng, part, question, correct)
            if rng.random() < 0.03:
                text, correct = unanswered(rng, text, question), False
            asked = (question.reference, question.kind, question.choices)
            made.append(Rollout(query, part, text, *asked, correct))
    return made


# --- measuring ------------------------------------------------------------------------------


def cpu() -> float:
    """Processor seconds of this process and of its children, ended or not."""
    used = [resource.getrusage(of) for of in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    total = sum(one.ru_utime + one.ru_stime for one in used)
    for child in Path("/proc/self/task").glob("*/children"):
        for pid in child.read_text().split():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


def timed(work: Callable[[], list[Any]]) -> dict[str, Any]:
    began, busy = time.perf_counter(), cpu()
    verdicts = work()
    return {"cpu": cpu() - busy, "seconds": time.perf_counter() - began, "verdicts": verdicts}


def plain(rollouts: list[Rollout]) -> dict[str, Any]:
    """math-verify as reward functions call it: parse the response, verify against the reference."""
    import logging

    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    verify(parse("$1$"), parse("$2$"))  # imports

    def work() -> list[Any]:
        wanted: dict[int, Any] = {}
        verdicts = []
        for one in rollouts:
            if one.query not in wanted:
                wanted[one.query] = parse(rf"\boxed{{{one.reference}}}")
            verdicts.append((verify(wanted[one.query], parse(one.response)), None))
        return verdicts

    return timed(work)


def ours(rollouts: list[Rollout], memo: bool) -> dict[str, Any]:
    """The judge, with math-verify's process started."""
    from si.answers import Judge, MathPool, Policy, case

    with MathPool(size=1) as pool:
        pool.equal([(r"\int_0^1 x dx", r"\frac{1}{2}")])  # starts its process
        judge = Judge(Policy(), pool, memo=memo)
        found = timed(
            lambda: judge.judge_all(
                case(one.response, one.reference, one.kind, one.choices) for one in rollouts
            )
        )
    verdicts = found["verdicts"]
    found["rules"] = Counter(verdict.rule for verdict in verdicts)
    found["verdicts"] = [(verdict.correct, verdict.extracted) for verdict in verdicts]
    return found


def child(what: str, options: argparse.Namespace) -> dict[str, Any]:
    """One measurement, in this process, pinned to one core."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[options.slice % len(cores)]})
    rollouts = generate(options.seed, options.queries)
    if options.slices > 1:
        rollouts = [one for one in rollouts if one.query % options.slices == options.slice]
    return plain(rollouts) if what == "plain" else ours(rollouts, what == "memo")


def start(what: str, options: argparse.Namespace, part: int = 0, parts: int = 1) -> Any:
    words = [
        sys.executable,
        __file__,
        "--child",
        what,
        "--slice",
        str(part),
        "--slices",
        str(parts),
    ]
    words += ["--seed", str(options.seed), "--queries", str(options.queries)]
    return subprocess.Popen(words, stdout=subprocess.PIPE)


def finished(process: Any) -> dict[str, Any]:
    out, _ = process.communicate()
    if process.returncode:
        sys.exit(f"a measurement ended with {process.returncode}")
    result: dict[str, Any] = json.loads(out)
    return result


# --- what is printed ------------------------------------------------------------------------


def rates(rollouts: list[Rollout], found: dict[str, dict[str, Any]]) -> None:
    """Answers per processor second of each, and their ratio to plain math-verify."""
    pace = {what: len(one["verdicts"]) / one["cpu"] for what, one in found.items()}
    names = {
        "plain": "plain math-verify, whole response",
        "memo": "the judge, with the memo",
        "bare": "the judge, without the memo",
    }
    print(f"{'':36} {'answers':>8} {'cpu s':>7} {'wall s':>7} {'per cpu s':>10} {'ratio':>6}")
    for what, name in names.items():
        one = found[what]
        print(
            f"{name:36} {len(one['verdicts']):8,} {one['cpu']:7.2f} {one['seconds']:7.2f} "
            f"{pace[what]:10,.0f} {pace[what] / pace['plain']:6.1f}"
        )
    rules = ", ".join(f"{rule} {n:,}" for rule, n in Counter(found["memo"]["rules"]).most_common())
    judged = zip(rollouts, found["memo"]["verdicts"], strict=True)
    pairs = {(one.query, extracted) for one, (_, extracted) in judged}
    print(f"distinct pairs of reference and answer: {len(pairs):,}; decided by: {rules}")
    for what in ("plain", "memo"):
        judged = zip(rollouts, found[what]["verdicts"], strict=True)
        agree = sum(one.correct == correct for one, (correct, _) in judged)
        print(f"{names[what]}: {agree:,} of {len(rollouts):,} as they were made")


def differences(rollouts: list[Rollout], found: dict[str, dict[str, Any]], every: bool) -> None:
    """Verdicts that differ, by who is wrong; an example of each kind, or all of them."""
    kinds = defaultdict(list)
    both = zip(rollouts, found["plain"]["verdicts"], found["memo"]["verdicts"], strict=True)
    for one, (theirs, _), (mine, extracted) in both:
        if theirs != mine or mine != one.correct:
            judged = f"plain {theirs}, judge {mine}, truth {one.correct}"
            if mine != theirs:
                judged += ": plain is wrong" if mine == one.correct else ": the judge is wrong"
            kinds[judged].append((one, extracted))
    for judged, listed in sorted(kinds.items()):
        print(f"\n{len(listed):,} x {judged}")
        for one, extracted in listed if every else listed[:5]:
            end = one.response.rpartition("\n\n")[2].replace("\n", "\\n")
            print(f"  {one.reference!r}: {end[-100:]!r}, extracted {extracted!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument(
        "--differences", action="store_true", help="list every verdict that differs"
    )
    parser.add_argument("--child", choices=["plain", "memo", "bare"], help=argparse.SUPPRESS)
    parser.add_argument("--slice", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--slices", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options.child, options)))
        return
    rollouts = generate(options.seed, options.queries)
    words = sum(len(one.response.split()) for one in rollouts) / len(rollouts)
    print(
        f"seed {options.seed}: {options.queries} queries x {K}, {words:.0f} words each, "
        f"{sum(one.part == 'plain' for one in rollouts) / len(rollouts):.0%} without a formula"
    )
    found = {what: finished(start(what, options)) for what in ("plain", "memo", "bare")}
    rates(rollouts, found)
    for parts in range(1, len(os.sched_getaffinity(0)) + 1):
        running = [start("memo", options, part, parts) for part in range(parts)]
        slowest = max(one["seconds"] for one in map(finished, running))
        print(f"{parts} processes: {len(rollouts) / slowest:,.0f} answers/s by the clock")
    differences(rollouts, found, options.differences)


if __name__ == "__main__":
    main()
