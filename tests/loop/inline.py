"""A cluster in this very process: for tests about the loop, storage or words, not about processes.

The stage functions and the commit protocol are the real ones.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

from si.events import Event
from si.stages import STAGES
from si.stages.job import Job
from si.stages.worker import do_shards
from si.store.keys import Spec
from si.store.port import Store


class InlineCluster:
    """Implements `si.clusters.port.Cluster` by calling the stage function here."""

    def __init__(self, store: Store):
        self.store = store

    def run(self, entry: str, spec: Spec, on_event: Callable[[Event], None]) -> None:
        function = STAGES[spec.stage].function
        with tempfile.TemporaryDirectory() as scratch:
            do_shards(self.store, Job(self.store, spec, Path(scratch)), function, 0, 1)
