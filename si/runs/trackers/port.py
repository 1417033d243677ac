"""What a tracker is."""

from collections.abc import Container
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from si.runs.tracking import Batch, Tracked


class Tracker(Protocol):
    """Keeps metrics of many runs, to be looked at side by side."""

    where: str
    """Where they can be looked at, for people; known once a run has begun."""

    def begin(self, run: "Tracked") -> Container[str]:
        """Begin a run, or go on with it if its key is known; the names of the batches that it
        has already, as far as the tracker knows them."""
        ...

    def log(self, batch: "Batch") -> None:
        """Keep a batch's points. They come in the run's order. What the tracker has of them, though
        it did not know, stays as it is."""
        ...

    def end(self) -> None:
        """Nothing more comes for now; returns when all is kept."""
        ...
