"""Public suites' assertions, restated, and how far the judge agrees with them.

`python -m tests.answers.suites` writes docs/agreement.md again.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from si.answers import Judge, MathPool, Policy, Verdict, case
from tests.answers import corpus

PAGE = Path(__file__).parents[2] / "docs/agreement.md"


@dataclass(frozen=True)
class Assertion:
    """What a suite says of a response, and what our rules say of it."""

    suite: str
    reference: str | tuple[str, ...]
    response: str
    theirs: bool
    ours: bool
    why: str = ""
    profile: str = "strict"


def load() -> list[Assertion]:
    """All assertions, suite by suite."""
    path = Path(__file__).with_name("suites.yaml")
    return [one for suite in yaml.safe_load(path.read_text()) for one in _of(suite)]


def _of(suite: dict[str, Any]) -> Iterator[Assertion]:
    for name in ("correct", "incorrect", "differs"):
        for entry in suite.get(name, []):
            if isinstance(entry, list):
                entry = dict(zip(("reference", "response"), entry, strict=True))
            reference, response = entry["reference"], entry["response"]
            theirs = entry.get("theirs", name == "correct")
            yield Assertion(
                suite=suite["suite"],
                reference=tuple(reference) if isinstance(reference, list) else reference,
                response=response if entry.get("whole") else f"Answer: {response}",
                theirs=theirs,
                ours=entry.get("ours", theirs if name != "differs" else not theirs),
                why=entry.get("why", ""),
                profile=entry.get("profile", "strict"),
            )


def judged(assertions: list[Assertion]) -> list[Verdict]:
    """The judge's verdicts, in the order of the assertions."""
    found: dict[int, Verdict] = {}
    with MathPool(size=1) as pool:
        for profile in ("strict", "lenient"):
            which = [i for i, one in enumerate(assertions) if one.profile == profile]
            judge = Judge(Policy(profile=profile), pool)  # type: ignore[arg-type]
            cases = [case(assertions[i].response, assertions[i].reference) for i in which]
            found |= dict(zip(which, judge.judge_all(cases), strict=True))
    return [found[i] for i in range(len(assertions))]


def plain(assertions: list[Assertion]) -> list[bool]:
    """Verdicts of math-verify as reward functions call it: on the whole response."""
    from math_verify import parse, verify

    def equal(one: Assertion) -> bool:
        several = one.reference if isinstance(one.reference, tuple) else (one.reference,)
        answer = parse(one.response, parsing_timeout=None)
        wanted = [parse(f"\\boxed{{{text}}}", parsing_timeout=None) for text in several]
        return any(verify(gold, answer, timeout_seconds=None) for gold in wanted)

    logging.disable(logging.CRITICAL)
    try:
        return [equal(one) for one in assertions]
    finally:
        logging.disable(logging.NOTSET)


INTRODUCTION = """\
# Agreement with other graders' tests

What the tests of public graders assert, restated in our own values and words
(`tests/answers/suites.yaml`), and what the judge says. "Differ" counts assertions that one of our
rules contradicts on purpose; they are listed below. The last column is math-verify 0.9.0 on the
same responses, as reward functions call it: the whole response against `\\boxed{reference}`. It
reads LaTeX only between dollar signs or in a box, and compares neither letters nor words.

| suite | assertions | the judge agrees | differ | plain math-verify agrees |
|---|---|---|---|---|
"""
DIFFERENCES = """
## Where we differ

| suite | reference | response | theirs | ours, and why |
|---|---|---|---|---|
"""
CASES = """
## The judge's own cases

`tests/answers/cases/` states what the judge must say, by rule; each file begins with its
conventions. All of them hold. "Convention" counts cases about which people may differ.

| file | accept | reject | convention |
|---|---|---|---|
"""


def page() -> str:
    """The text of docs/agreement.md."""
    assertions = load()
    correct = [verdict.correct for verdict in judged(assertions)]
    rows = list(zip(assertions, correct, plain(assertions), strict=True))
    text = INTRODUCTION
    for suite in [*dict.fromkeys(one.suite for one in assertions), None]:
        of = [row for row in rows if suite in (row[0].suite, None)]
        agree = sum(said == one.theirs for one, said, _ in of)
        others = sum(said == one.theirs for one, _, said in of)
        name = suite or "**all**"
        text += f"| {name} | {len(of)} | {agree} | {len(of) - agree} | {others} |\n"
    text += DIFFERENCES
    for one, said, _ in rows:
        if said != one.theirs:
            names = {True: "correct", False: "incorrect"}
            shown = [_code(str(part)) for part in (one.reference, one.response)]
            text += f"| {one.suite} | {shown[0]} | {shown[1]} | {names[one.theirs]} | "
            text += f"{names[said]}: {one.why} |\n"
    text += CASES
    cases = corpus.load()
    for file in dict.fromkeys(one.file for one in cases):
        of_file = [one for one in cases if one.file == file]
        accept = sum(one.correct for one in of_file)
        convention = sum(one.convention for one in of_file)
        text += f"| {file}.yaml | {accept:,} | {len(of_file) - accept:,} | {convention:,} |\n"
    accept = sum(one.correct for one in cases)
    convention = sum(one.convention for one in cases)
    text += f"| **all** | {accept:,} | {len(cases) - accept:,} | {convention:,} |\n"
    return text


def _code(text: str) -> str:
    return "`" + text.replace("|", "\\|").replace("\n", " ") + "`"


if __name__ == "__main__":
    PAGE.write_text(page())
