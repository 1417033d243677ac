"""Noticing that a judge cannot read its responses, before a run learns from the few that it can."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from si.answers.case import Case, Verdict

UNREAD = ("no_answer", "not_comparable")
LARGEST = 1 / 3  # share of responses without a readable answer that passes without a word


@dataclass(frozen=True)
class Unread:
    """Too many responses without an answer that can be compared.

    Attributes:
        share: of all responses.
        reasons: reason -> number of responses.
        examples: up to three of them: reference, kind, reason and the end of the response.
    """

    share: float
    reasons: dict[str, int]
    examples: tuple[dict[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """What to tell the user: the share, three examples, and what to change."""
        counts = ", ".join(f"{name} {count:,}" for name, count in sorted(self.reasons.items()))
        said = [f"{100 * self.share:.0f} % of the responses have no answer to compare: {counts}"]
        said += [
            f"  {each['reason']}: reference {each['reference']!r} ({each['kind']}), "
            f"response ends {each['ends']!r}"
            for each in self.examples
        ]
        advice = "Let the prompt ask for a form that is read (`Answer: X` or \\boxed{X})"
        if self.reasons.get("not_comparable", 0) > self.reasons.get("no_answer", 0):
            advice = "Check that the references are answers alone, and their kind"
        return [*said, f"  {advice}, or judge with the profile lenient. See docs/judging.md."]


def unread(cases: Sequence[Case], verdicts: Sequence[Verdict]) -> Unread | None:
    """What to say of responses that could not be read; None while they are few."""
    found = [i for i, verdict in enumerate(verdicts) if verdict.reason in UNREAD]
    if not found or len(found) <= LARGEST * len(verdicts):
        return None
    examples = tuple(
        {
            "reason": str(verdicts[i].reason),
            "kind": verdicts[i].kind,
            "reference": cases[i].reference[:80],
            "ends": cases[i].response.strip()[-120:],
        }
        for i in found[:3]
    )
    reasons = Counter(str(verdicts[i].reason) for i in found)
    return Unread(len(found) / len(verdicts), dict(reasons), examples)
