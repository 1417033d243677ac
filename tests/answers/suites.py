"""Public suites' assertions, restated, and how far the judge agrees with them.

`python -m tests.answers.suites` prints a table of suites, and each disagreement with the rule that
explains it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from si.answers import Judge, MathPool, Policy, Verdict, case


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


def main() -> None:
    assertions = load()
    verdicts = judged(assertions)
    print("| suite | assertions | agree | differ by convention | wrong |\n|---|---|---|---|---|")
    for suite in dict.fromkeys(one.suite for one in assertions):
        pairs = [(a, v) for a, v in zip(assertions, verdicts, strict=True) if a.suite == suite]
        agree = sum(v.correct == a.theirs for a, v in pairs)
        wrong = sum(v.correct != a.ours for a, v in pairs)
        convention = sum(v.correct == a.ours != a.theirs for a, v in pairs)
        print(f"| {suite} | {len(pairs)} | {agree} | {convention} | {wrong} |")
    for one, verdict in zip(assertions, verdicts, strict=True):
        if verdict.correct != one.theirs:
            why = one.why if verdict.correct == one.ours else f"WRONG: {verdict}"
            print(f"- {one.suite}: {one.response!r} for {one.reference!r}: {why}")


if __name__ == "__main__":
    main()
