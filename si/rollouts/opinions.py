"""Checks of a file's verdicts: agreement with human verdicts or math-verify, rejected responses
that contain their reference, and the explanation of one verdict."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from si.answers import REASONS, Case, MathPool, Verdict, understand
from si.answers.extract import body
from si.answers.text import fold

TAIL = 300  # characters of a response's end to show


@dataclass
class Agreement:
    """Verdicts beside the truth, by kind or rule.

    Attributes:
        both: ours and the truth say correct; neither: both say incorrect.
        missed: the truth alone says correct; accepted: ours alone does.
    """

    both: int = 0
    neither: int = 0
    missed: int = 0
    accepted: int = 0

    def add(self, ours: bool, truth: bool) -> None:
        name = ("both" if truth else "accepted") if ours else ("missed" if truth else "neither")
        setattr(self, name, getattr(self, name) + 1)

    @property
    def total(self) -> int:
        return self.both + self.neither + self.missed + self.accepted

    def to_json(self) -> dict[str, Any]:
        """Counts, and as shares: agreement of all, found of those correct by the truth, wrongly
        accepted of those incorrect by the truth; null where there are none."""
        correct, incorrect = self.both + self.missed, self.neither + self.accepted
        return {
            "responses": self.total,
            "agreement": _share(self.both + self.neither, self.total),
            "correct": correct,
            "found": _share(self.both, correct),
            "incorrect": incorrect,
            "wrongly_accepted": _share(self.accepted, incorrect),
            "accepted": self.accepted,
            "missed": self.missed,
        }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


@dataclass
class Shown:
    """A response that is shown to a person, with what was made of it."""

    id: str
    kind: str
    reference: str
    verdict: Verdict
    ends: str
    theirs: str = ""

    def line(self) -> str:
        verdict = self.verdict
        why = f"{verdict.where}, {verdict.rule}, {verdict.reason or 'correct'}"
        theirs = f"; {self.theirs}" if self.theirs else ""
        return (
            f"{self.id} ({self.kind}): reference {self.reference!r}, extracted "
            f"{verdict.extracted!r} ({why}){theirs}; ends {self.ends!r}"
        )


@dataclass
class Opinions:
    """Collects opinions on verdicts while a file is judged.

    Attributes:
        sample: how many responses to show of those that are `which`: rejected responses in whose
            last line the reference stands, or accepted ones in whose last line it does not.
        explain: the id of the response whose path is shown.
        pool: math-verify on whole responses, if it is asked for a second opinion.
    """

    sample: int = 0
    which: Literal["rejected", "accepted"] = "rejected"
    explain: str | None = None
    pool: MathPool | None = None
    by_kind: dict[str, Agreement] = field(default_factory=dict)
    by_rule: dict[str, Agreement] = field(default_factory=dict)
    compared: int = 0
    disagreed: Counter[str] = field(default_factory=Counter)
    differing: list[Shown] = field(default_factory=list)
    sampled: list[Shown] = field(default_factory=list)
    explained: list[str] = field(default_factory=list)

    def hear(
        self, cases: Sequence[Case], verdicts: Sequence[Verdict], truths: Sequence[bool | None]
    ) -> None:
        """Take in one piece of a file."""
        for case, verdict, truth in zip(cases, verdicts, truths, strict=True):
            if truth is not None:
                for table, name in ((self.by_kind, verdict.kind), (self.by_rule, verdict.rule)):
                    table.setdefault(name, Agreement()).add(verdict.correct, truth)
            if self.explain is not None and case.id == self.explain:
                self.explained += path_of(case, verdict)
            if len(self.sampled) < self.sample and self._odd(case, verdict):
                self.sampled.append(_shown(case, verdict))
        if self.pool is not None:
            self._second(cases, verdicts)

    def _odd(self, case: Case, verdict: Verdict) -> bool:
        if verdict.correct != (self.which == "accepted"):
            return False
        lines = [line for line in (body(case.response) or "").split("\n") if line.strip()]
        stands = any(
            (folded := fold(reference)) and folded in fold(line)
            for line in lines[-1:]
            for reference in case.references
        )
        return stands == (self.which == "rejected")

    def _second(self, cases: Sequence[Case], verdicts: Sequence[Verdict]) -> None:
        assert self.pool is not None
        pairs = [(case.reference, case.response[-8000:]) for case in cases]
        for case, verdict, said in zip(cases, verdicts, self.pool.equal(pairs), strict=True):
            self.compared += 1
            if verdict.correct == (said == "equal"):
                continue
            ours = "accepted" if verdict.correct else "rejected"
            self.disagreed[f"{ours} here by {verdict.rule}, math-verify: {said}"] += 1
            if len(self.differing) < 100:
                self.differing.append(_shown(case, verdict, f"math-verify: {said}"))

    @property
    def agreement(self) -> dict[str, Any] | None:
        """Agreement with the truth: over all, by kind and by rule; None without a truth."""
        if not self.by_kind:
            return None
        total = Agreement()
        for one in self.by_kind.values():
            for name in ("both", "neither", "missed", "accepted"):
                setattr(total, name, getattr(total, name) + getattr(one, name))
        return {
            "all": total.to_json(),
            "by_kind": {name: self.by_kind[name].to_json() for name in sorted(self.by_kind)},
            "by_rule": {name: self.by_rule[name].to_json() for name in sorted(self.by_rule)},
        }


def _shown(case: Case, verdict: Verdict, theirs: str = "") -> Shown:
    ends = " ".join(case.response.strip()[-TAIL:].split())
    return Shown(case.id, verdict.kind, case.reference[:120], verdict, ends, theirs)


def path_of(case: Case, verdict: Verdict) -> list[str]:
    """How a verdict came about, a line a step."""
    lines = [f"Response {case.id}"]
    for reference in case.references:
        known = understand(reference, case.kind, case.choices)
        letters = f", option {', '.join(known.letters)}" if known.letters else ""
        lines.append(f"  reference {reference[:120]!r}: {known.kind} {known.text[:120]!r}{letters}")
    if case.choices:
        lines.append(f"  choices: {', '.join(case.choices)[:200]}")
    lines += [
        f"  finish reason: {case.finish_reason}",
        f"  found by: {verdict.where}",
        f"  extracted: {verdict.extracted!r}",
        f"  normal form: {verdict.normal!r}",
        f"  decided by: {verdict.rule}",
    ]
    why = f"incorrect, {verdict.reason}: {REASONS.get(verdict.reason or '', '')}"
    lines.append(f"  verdict: {'correct' if verdict.correct else why}")
    return lines
