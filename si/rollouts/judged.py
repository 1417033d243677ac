"""What the judging of a file came to."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from si.answers import Case, Verdict
from si.answers.unread import LARGEST, UNREAD, Unread, unread
from si.report.intervals import Interval, wilson
from si.rollouts.opinions import Opinions
from si.rollouts.table import Bad


@dataclass
class Judged:
    """The verdicts on a file's answers, counted.

    Attributes:
        columns: field -> the column, or path into one, that it was read from.
        rows: number of judged rows; responses: the same, unless rows hold several.
        methods, kinds, found, rules, reasons: counts by how verdicts were reached, by the answers'
            kinds, by what found them, by what decided, and by why they are incorrect.
        timeouts: how often math-verify reached its limit of processor time.
        opinions: further checks of the verdicts.
        bad: rows that could not be judged.
        against: (the file's own reward, our verdict) -> how many responses.
    """

    file: str
    columns: Mapping[str, str]
    rows: int = 0
    responses: int = 0
    right: int = 0
    methods: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[tuple[Case, Verdict]] = field(default_factory=list)
    timeouts: int = 0
    opinions: Opinions = field(default_factory=Opinions)
    bad: list[Bad] = field(default_factory=list)
    against: Counter[tuple[float, bool]] = field(default_factory=Counter)

    @property
    def unread(self) -> Unread | None:
        """What to say if more than a third of the responses could not be read."""
        count = sum(self.reasons[reason] for reason in UNREAD)
        made = unread(*zip(*self.examples, strict=True)) if self.examples else None
        if made is None or count <= LARGEST * self.responses:
            return None
        reasons = {name: self.reasons[name] for name in UNREAD if self.reasons[name]}
        return Unread(count / self.responses, reasons, made.examples)

    @property
    def accuracy(self) -> float:
        return self.right / self.responses if self.responses else 0.0

    @property
    def interval(self) -> Interval | None:
        """Wilson's 95 % interval of the accuracy."""
        return wilson(self.right, self.responses)

    @property
    def disagreement(self) -> tuple[int, int] | None:
        """Responses that only the file's own reward, and that only our verdict calls right; None if
        it has no reward of two values, of which the higher one is right."""
        rewards = {reward for reward, _ in self.against}
        if not 0 < len(rewards) <= 2 or (len(rewards) == 1 and not rewards & {0.0, 1.0}):
            return None
        right = max(*rewards, 1.0) if len(rewards) == 1 else max(rewards)
        theirs = sum(
            n for (reward, ours), n in self.against.items() if reward == right and not ours
        )
        only = sum(n for (reward, ours), n in self.against.items() if reward != right and ours)
        return theirs, only

    def to_json(self) -> dict[str, Any]:
        differ = self.disagreement
        return {
            "file": self.file,
            "columns": dict(self.columns),
            "rows": self.rows,
            "responses": self.responses,
            "right": self.right,
            "accuracy": self.accuracy,
            "interval": self.interval,
            "methods": dict(sorted(self.methods.items())),
            "kinds": dict(sorted(self.kinds.items())),
            "found": dict(sorted(self.found.items())),
            "rules": dict(sorted(self.rules.items())),
            "reasons": dict(sorted(self.reasons.items())),
            "timeouts": self.timeouts,
            "unread": self.unread and self.unread.to_json(),
            "truth": self.opinions.agreement,
            "second_opinion": {
                "compared": self.opinions.compared,
                "disagreed": dict(self.opinions.disagreed.most_common()),
            },
            "skipped": len(self.bad),
            "skipped_rows": [one._asdict() for one in self.bad[:100]],
            "own_reward": differ and {"right_there_only": differ[0], "right_here_only": differ[1]},
        }
