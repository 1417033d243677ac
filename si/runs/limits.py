"""When a run ends before its last iteration, and why: decisions that return their reason.

Patience looks at committed scores alone, so a run that was killed and resumed ends where an
undisturbed one does. A budget looks at what has been spent. Neither is part of any stage key: a
stopped run's artefacts, including its report, are those of a run of that length.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from si.config.place import Place
from si.errors import STOPPED, SiError
from si.runs.usage import Spent
from si.store.commit import settle
from si.store.keys import canonical, read_record, sealed
from si.store.port import Store

PATIENCE = "patience"
LIMITS = ("max_gpu_hours", "max_cost")  # these interrupt a run; patience ends it successfully


@dataclass(frozen=True)
class Stop:
    """Why and where a run ended early.

    Attributes:
        rule: patience, max_gpu_hours or max_cost.
        limit: its value.
        iterations: number of completed iterations.
        next: the entry that would have been next, or that was in progress.
        committed: how many of its shards are committed.
        words: the reason, in a sentence.
    """

    rule: str
    limit: float
    iterations: int
    next: str
    committed: int
    words: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class LimitReached(SiError):
    """The run has reached its budget."""

    exit_code = STOPPED

    def __init__(self, stop: Stop):
        done = f"{stop.iterations} iteration{'s' if stop.iterations != 1 else ''} completed"
        super().__init__(
            stop.words,
            f"{done}, stopped at {stop.next}; committed artefacts stay",
            (
                f"Continue with a higher limit: the same command with a higher {flag(stop.rule)}.",
                "See what each stage spent: si-ctl status",
            ),
        )
        self.stop = stop


def flag(rule: str) -> str:
    """max_cost -> --max-cost."""
    return "--" + rule.replace("_", "-")


def out_of_patience(accuracies: Sequence[float], patience: int) -> str | None:
    """Why to end after these iterations, or None to continue.

    Args:
        accuracies: on dev, of policy 0 and of every iteration so far.
        patience: number of iterations in a row without a gain over the best before them.
    """
    best = max(range(len(accuracies)), key=lambda t: (accuracies[t], -t))
    if len(accuracies) - 1 - best < patience:
        return None
    which = f"iteration {best}" if best else "policy 0"
    rounds = f"{patience} iterations" if patience > 1 else "an iteration"
    return f"No gain on dev for {rounds}: the best is {which} with {100 * accuracies[best]:.1f} %"


@dataclass(frozen=True)
class Budget:
    """What a run may spend, from the place; None means unlimited."""

    max_gpu_hours: float | None = None
    max_cost: float | None = None
    per_gpu_hour: float = 0.0
    per_cpu_hour: float = 0.0

    @classmethod
    def of(cls, place: Place) -> "Budget":
        return cls(
            place.max_gpu_hours,
            place.max_cost,
            place.price_per_gpu_hour,
            place.price_per_cpu_hour,
        )

    def __bool__(self) -> bool:
        return self.max_gpu_hours is not None or self.max_cost is not None

    def reached(self, spent: Spent) -> tuple[str, float, str] | None:
        """(rule, limit, reason) if a limit is reached, or None to continue."""
        cost = spent.money(self.per_gpu_hour, self.per_cpu_hour)
        for rule, limit, value, unit in (
            (LIMITS[0], self.max_gpu_hours, spent.gpu_hours, " GPU hours"),
            (LIMITS[1], self.max_cost, cost, ""),
        ):
            if limit is not None and value >= limit:
                reason = f"{value:.4g}{unit} spent: {flag(rule)} {limit:g} is reached"
                return rule, limit, reason
        return None


NO_LIMIT = Budget()


# --- the record of it ----------------------------------------------------------------------


def record(store: Store, folder: str, stop: Stop) -> None:
    """Store a stop in the run's folder, for `status` and `report`; the same stop only once."""
    name = f"{stop.next.replace('/', '-')}-{stop.committed}-{stop.rule}-{stop.limit:g}"
    settle(store, f"{folder}/stops/{name}.json", canonical(sealed(stop.to_json())))


def recorded(store: Store, folder: str) -> Iterator[Stop]:
    """The stops of a run, in no order; it may have continued since."""
    for address in store.list(f"{folder}/stops"):
        yield read_record(store, address, lambda raw: Stop(**raw))
