"""What a stage is called within a run: the entry `it01/explore` is step `explore` of iteration 1.

A step has one spelling in folders, Job names, labels, logs and reports.
"""

import re
from dataclasses import dataclass
from functools import total_ordering

_ENTRY = re.compile(r"it(\d{2,})/([a-z0-9-]+)")


@dataclass(frozen=True, slots=True)
class Step:
    """A step of an iteration.

    Attributes:
        name: `explore-2` is the second round's exploration.
        stage: the stage that does it; empty for what is committed without a worker.
        role: what its artefact is among the report's inputs; empty if the report does not read it.
    """

    name: str
    stage: str = ""
    role: str = ""


# The steps in the order in which they happen.
BEGINNING = (
    Step("data"),
    Step("policy"),
    Step("levels-explore", "explore"),
    Step("levels-verify", "verify"),
    Step("levels", "levels"),
)
LOOP = (
    Step("explore", "explore", "explore"),
    Step("verify", "verify", "verify"),
    Step("resample", "resample"),
    Step("explore-2", "explore", "explore2"),
    Step("verify-2", "verify", "verify2"),
    Step("rebalance", "rebalance", "examples"),
    Step("train", "train", "policy"),
    Step("evaluate-explore", "explore"),
    Step("evaluate-verify", "verify"),
    Step("evaluate", "evaluate", "scores"),
)
STEPS = {step.name: step for step in (*BEGINNING, *LOOP, Step("report", "report"))}
ROLES = {step.name: step.role for step in LOOP if step.role}
_ORDER = {name: place for place, name in enumerate(STEPS)}


@total_ordering
@dataclass(frozen=True, slots=True)
class Entry:
    """A step of an iteration of a run; entries sort in the order in which they happen.

    Attributes:
        t: the iteration; 0 for what comes before the first one.
        step: a name of `STEPS`, `report-2` and so on for later reports of the same run, or
            another name for something that only the cluster does (`fetch`).
    """

    t: int
    step: str

    @classmethod
    def parse(cls, text: str) -> "Entry":
        """`it01/explore` as an entry.

        Raises:
            ValueError: if the text is not an entry.
        """
        match = _ENTRY.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not an entry such as it01/explore")
        return cls(int(match[1]), match[2])

    def __str__(self) -> str:
        return f"it{self.t:02d}/{self.step}"

    @property
    def stage(self) -> str:
        """The stage that does the step; empty if none does."""
        name = re.sub(r"^report-\d+$", "report", self.step)
        return STEPS[name].stage if name in STEPS else ""

    def __lt__(self, other: "Entry") -> bool:
        return self._place() < other._place()

    def _place(self) -> tuple[int, int, str]:
        return self.t, _ORDER.get(self.step, len(_ORDER)), self.step
