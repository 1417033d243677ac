"""A cluster in this very process: for tests about the loop, storage or words, not about processes.

The stage functions and the commit protocol are the real ones.
"""

import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from si.errors import SiError, StageFailed
from si.events import Event
from si.stages import STAGES
from si.stages.job import Job
from si.stages.worker import do_shards
from si.store.keys import Spec
from si.store.port import Store


class InlineCluster:
    """Implements `si.clusters.port.Cluster` by calling the stage function here.

    With several `workers` they take turns: the first claims every shard and does it, the others
    find nothing left.
    """

    def __init__(self, store: Store, workers: int = 1):
        self.store = store
        self.workers = workers

    def run(self, entry: str, spec: Spec, on_event: Callable[[Event], None]) -> None:
        """Run a stage's missing shards. An error of the stage is raised as a worker's would be.

        Raises:
            StageFailed: with the words and the exit code of the stage's error.
        """
        function = STAGES[spec.stage].function
        workers = min(self.workers, spec.shards)
        for worker in range(workers):
            with tempfile.TemporaryDirectory() as scratch, _passing_on(on_event, worker) as events:
                try:
                    job = Job(self.store, spec, Path(scratch))
                    do_shards(self.store, job, function, worker, workers)
                except SiError as error:
                    if error is events.raised:  # by who listens: a limit that is reached
                        raise
                    raise StageFailed(
                        error.headline,
                        f"{error.detail}\nin stage {entry}, {spec.address}",
                        error.ways_out,
                        exit_code=error.exit_code,
                    ) from error


class _Events(io.TextIOBase):
    """Standard output of a stage: event lines go to the listener, the rest to where it was."""

    def __init__(self, on_event: Callable[[Event], None], worker: int):
        self.on_event = on_event
        self.worker = worker
        self.usual = sys.stdout
        self.raised: SiError | None = None

    def write(self, text: str) -> int:
        if not text.startswith('{"event"'):
            return self.usual.write(text)
        try:
            self.on_event({**json.loads(text), "worker": self.worker})
        except SiError as error:
            self.raised = error
            raise
        return len(text)


@contextlib.contextmanager
def _passing_on(on_event: Callable[[Event], None], worker: int) -> Iterator[_Events]:
    events = _Events(on_event, worker)
    with contextlib.redirect_stdout(events):
        yield events
