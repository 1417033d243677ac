"""What a tracker is, and what it is given."""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from si.config.recipe import Recipe
from si.store.keys import digest
from si.store.port import Store


class Point(NamedTuple):
    """Values at one place of an axis.

    Attributes:
        axis: `gradient step`, counted over all iterations, or `iteration`.
        step: where on it.
        time: when the stage was done, in seconds since 1970.
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
        number: how many batches of the run come before.
        first: how many points.
    """

    name: str
    number: int
    first: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Tracked:
    """The run that is tracked.

    Attributes:
        run: its name.
        name: as trackers show it, with the generation from the second on.
        key: 16 hex digits that are this run's, and no other's in any store.
        about: what it computes, by dotted setting.
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
    """Keeps metrics of many runs, to be looked at side by side."""

    where: str
    """Where they can be looked at, for people; known once a run has begun."""

    def begin(self, run: Tracked) -> Container[str]:
        """Begin a run, or go on with it if its key is known; the names of the batches that it
        has already, as far as the tracker knows them."""
        ...

    def log(self, batch: Batch) -> None:
        """Keep a batch's points. They come in the run's order. What the tracker has of them, though
        it did not know, stays as it is."""
        ...

    def end(self) -> None:
        """Nothing more comes for now; returns when all is kept."""
        ...
