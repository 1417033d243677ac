"""The protocol of a tracker, and the data it receives."""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from si.config.recipe import Recipe
from si.store.keys import digest
from si.store.port import Store


class Point(NamedTuple):
    """Values at one position of an axis.

    Attributes:
        axis: `gradient step`, counted over all iterations, or `iteration`.
        step: the position.
        time: when the stage finished, in seconds since 1970.
    """

    axis: str
    step: int
    time: float
    values: Mapping[str, float]


@dataclass(frozen=True)
class Batch:
    """The metrics of one finished stage.

    Attributes:
        name: the stage's entry (`it01/train`).
        number: number of batches of the run before this one.
        first: number of points before this batch.
    """

    name: str
    number: int
    first: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Tracked:
    """The run to track.

    Attributes:
        run: its name.
        name: the name that trackers show; includes the generation from the second on.
        key: 16 hex digits, unique to this run across all stores.
        about: its recipe, by dotted setting.
    """

    run: str
    name: str
    key: str
    about: Mapping[str, Any]

    @classmethod
    def of(cls, store: Store, run: str, generation: int, recipe: Recipe) -> "Tracked":
        name = run if generation == 1 else f"{run}-g{generation:02d}"
        about = dict(_flat(recipe.model_dump(mode="json")))
        return cls(run, name, digest([store.url, run, generation])[:16], about)


def _flat(tree: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{at}{name}.")
        else:
            yield f"{at}{name}", value


class Tracker(Protocol):
    """Keeps metrics of many runs for side-by-side comparison."""

    where: str
    """Where users find the metrics (a URL, path or command); set once a run has begun."""

    def begin(self, run: Tracked) -> Container[str]:
        """Begin a run, or continue it if its key is known.

        Returns the names of the batches that the tracker already has, as far as it knows."""
        ...

    def log(self, batch: Batch) -> None:
        """Store a batch's points. Batches come in the run's order. Points that the tracker already
        has stay unchanged."""
        ...

    def end(self) -> None:
        """End the session: return once everything is stored."""
        ...
