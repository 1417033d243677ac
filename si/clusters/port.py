"""What a cluster is: something that runs a stage's workers."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from si.events import Event

if TYPE_CHECKING:
    from si.store.keys import Spec


class Cluster(Protocol):
    """Runs a stage's workers, as many as the place says, until its shards are committed."""

    def run(self, entry: str, spec: "Spec", on_event: Callable[[Event], None]) -> None:
        """Work on `spec`, the run's stage `entry` (`it01/explore`), until its workers end.

        Raises `StageFailed` with the workers' exit code. Returning does not mean
        that the stage is complete: only the manifest shows that.
        """
        ...
