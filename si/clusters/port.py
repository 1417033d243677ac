"""The interface of a cluster, which runs a stage's workers."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from si.events import Event

if TYPE_CHECKING:
    from si.store.keys import Spec


class Cluster(Protocol):
    """Runs a stage's script in as many processes or pods as the place says."""

    def run(self, entry: str, spec: "Spec", on_event: Callable[[Event], None]) -> None:
        """Run the workers of `spec`, the run's stage `entry` (`it01/explore`), until they end.

        Returning does not mean that the stage is complete: only the manifest decides that.

        Raises:
            StageFailed: with the workers' exit code.
        """
        ...
