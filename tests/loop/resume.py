"""A training that is killed, again and again, beside one that nobody disturbs."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from si.runs.status import entries
from si.store.artifact import Artifact
from si.store.folder import FolderStore
from tests.loop.running import ROOT, environment, si_ctl

RUN = "embedded-vanilla-k4-s0"
# Small batches: steps enough to be killed between.
SMALL = (
    *("iterate", "--strategy", "vanilla", "--k", "4", "--iterations", "1"),
    *("--set", "data.slice_size=40", "--set", "evaluate.limit=10"),
    *("--set", "train.batch=6", "--set", "train.micro_batch=3", "--set", "train.epochs=1"),
    *("--set", "evaluate.samples=1"),
)


class Training:
    """The train stage of a small run, which can be taken back to its beginning."""

    launcher: tuple[str, ...] = ()  # of Python, before the script
    said = ""  # by the last process

    def __init__(self, folder: Path, *settings: str):
        si_ctl(*SMALL, *settings, cwd=folder)
        self.store = FolderStore(folder / "si-runs")
        self.address = entries(self.store, RUN)["it01/train"]
        self.folder = Path(self.store.url) / self.address
        self.calm = self.weights()

    def weights(self) -> dict[str, bytes]:
        """The committed policy's files."""
        artefact = Artifact.open(self.store, self.address)
        names = [blob.name for record in artefact.manifest.shards for blob in record.blobs]
        return {name: artefact.read(name) for name in names}

    def facts(self) -> dict:
        return dict(Artifact.open(self.store, self.address).manifest.facts)

    def undo(self) -> None:
        """As if the stage had only been announced."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "spec.json":
                path.unlink()

    def records(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "checkpoints").glob("*of*"))

    def run(self, python: Path = Path(sys.executable), **env: str) -> subprocess.Popen:
        script = str(ROOT / "jobs" / "train.py")
        words = [str(python), *self.launcher, script, "--address", self.address]
        place = {
            "SI_PLACE__STORE": self.store.url,
            "SICTL_TRAIN_CHECKPOINT_MINUTES": "0",
            **env,
        }
        # A group of its own, as a pod is: with it goes all that it has started.
        return subprocess.Popen(
            words,
            env=environment(**place),
            start_new_session=True,
            stderr=subprocess.PIPE,
            text=True,
        )

    def disturbed(self, number: int, times: int, **env: str) -> Iterator[int]:
        """Kill it by signal `number` each time that it has kept a checkpoint more, then let it
        end; yields the exit codes."""
        for _ in range(times):
            before = self.records()
            process = self.run(**env)
            while process.poll() is None and self.records() == before:
                time.sleep(0.01)
            if number == signal.SIGKILL:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
            process.communicate()
            yield process.returncode
        process = self.run(**env)
        _, self.said = process.communicate()
        assert process.returncode == 0, self.said
        yield 0
