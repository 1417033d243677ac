"""When a run ends before its last iteration, and why: decisions that give their reason.

Patience looks at committed scores alone, so that a run that was killed and resumed ends where an
undisturbed one does. A budget looks at what has been spent. Neither is part of any stage key: a
stopped run's artefacts, its report included, are those of a run of that length.
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
LIMITS = ("max_gpu_hours", "max_cost")  # these cut a run short, patience ends it well


@dataclass(frozen=True)
class Stop:
    """Why and where a run ended early.

    Attributes:
        rule: patience, max_gpu_hours or max_cost.
        limit: what the user set it to.
        iterations: how many are whole.
        next: the entry that would have been done next, or that was at work.
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
    """The run has spent what it may."""

    exit_code = STOPPED

    def __init__(self, stop: Stop):
        done = f"{stop.iterations} iteration{'s' if stop.iterations != 1 else ''} whole"
        super().__init__(
            stop.words,
            f"{done}, stopped at {stop.next}; what is committed stays",
            (
                f"Go on with a higher limit: the same command with a higher {flag(stop.rule)}.",
                "See what took how much: si-ctl status",
            ),
        )
        self.stop = stop


def flag(rule: str) -> str:
    """max_cost -> --max-cost."""
    return "--" + rule.replace("_", "-")


def out_of_patience(accuracies: Sequence[float], patience: int) -> str | None:
    """Why to end after these iterations, or None to go on.

    Args:
        accuracies: on dev, of policy 0 and of every iteration so far.
        patience: so many iterations in a row may bring no gain over the best before them.
    """
    best = max(range(len(accuracies)), key=lambda t: (accuracies[t], -t))
    if len(accuracies) - 1 - best < patience:
        return None
    which = f"iteration {best}" if best else "policy 0"
    rounds = f"{patience} iterations" if patience > 1 else "an iteration"
    return f"No gain on dev for {rounds}: the best is {which} with {100 * accuracies[best]:.1f} %"


@dataclass(frozen=True)
class Budget:
    """What a run may spend, as the place says; None is no limit."""

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
        """(rule, limit, reason) if that much is spent, or None to go on."""
        cost = spent.money(self.per_gpu_hour, self.per_cpu_hour)
        for rule, limit, value, unit in (
            (LIMITS[0], self.max_gpu_hours, spent.gpu_hours, " GPU hours"),
            (LIMITS[1], self.max_cost, cost, ""),
        ):
            if limit is not None and value >= limit:
                said = f"{value:.4g}{unit} spent: {flag(rule)} {limit:g} is reached"
                return rule, limit, said
        return None


NO_LIMIT = Budget()


# --- the record of it ----------------------------------------------------------------------


def record(store: Store, folder: str, stop: Stop) -> None:
    """Keep it in the run's folder, for `status` and `report`; the same stop once."""
    name = f"{stop.next.replace('/', '-')}-{stop.committed}-{stop.rule}-{stop.limit:g}"
    settle(store, f"{folder}/stops/{name}.json", canonical(sealed(stop.to_json())))


def recorded(store: Store, folder: str) -> Iterator[Stop]:
    """Where the run has ended early, in no order; it may have gone on since."""
    for address in store.list(f"{folder}/stops"):
        yield read_record(store, address, lambda raw: Stop(**raw))
