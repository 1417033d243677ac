"""What a cluster is: something that runs a stage's workers."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from si.events import Event

if TYPE_CHECKING:
    from si.store.keys import Spec


class Cluster(Protocol):
    """Runs a stage's script somewhere, as wide as the Place says, until its shards are in."""

    def run(self, entry: str, spec: "Spec", on_event: Callable[[Event], None]) -> None:
        """Work on `spec`, the run's stage `entry` (`it01/explore`), until its workers end.

        Raises `StageFailed` with the workers' exit code. Returning does not mean
        that the stage is whole: the manifest alone says so.
        """
        ...
