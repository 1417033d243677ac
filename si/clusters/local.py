"""This machine as a cluster: a stage's workers are processes that run the same scripts as pods.

Workers share nothing with the controller but the store. With GPUs, each exploring worker gets its
own share of them for its engine; a training gets all.
"""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from si.clusters import workers
from si.config.place import Place, place_environment
from si.errors import RETRY, UNUSABLE, RecipeError, RunBusy, SiError, StageFailed
from si.events import Event
from si.machine import gpus
from si.stages.worker import script
from si.store.folder import FolderStore
from si.store.keys import Spec
from si.store.port import Store

TENSOR_PARALLEL = "SICTL_VLLM_TENSOR_PARALLEL_SIZE"


def local_folder(store: Store) -> Path:
    """The folder for logs and reports on this machine: the store, if that is a folder."""
    return store.root if isinstance(store, FolderStore) else Path("si-runs")


@contextmanager
def exclusive(store: str, run: str) -> Iterator[Path]:
    """Hold the run's lock on this machine; yields a scratch folder that only its holder uses.

    The lock keeps two controllers from doing the same work. Without it they would still commit
    every artefact exactly once.

    Raises:
        RunBusy: if another process holds it.
    """
    path = _lock_file(store, run)
    with path.open("a+") as lock:
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # another process may only be checking (`at_work`)
                time.sleep(0.1)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise RunBusy(
                f"Another si-ctl is working on the run {run}",
                f"process {lock.read().strip() or 'unknown'}, store {store}",
                (
                    "Watch it: si-ctl status " + run,
                    "Wait until it ends, or stop it with Ctrl-C, then run the same command again.",
                    "Or give this run another name: --run NAME",
                ),
            ) from None
        lock.seek(0)
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()
        yield path.with_suffix("")


def at_work(store: str, run: str) -> int | None:
    """The id of the process on this machine that is working on a run; None if there is none."""
    with _lock_file(store, run).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = lock.read().strip()
            return int(holder) if holder.isdecimal() else 0
    return None


def _lock_file(store: str, run: str) -> Path:
    name = hashlib.sha256(f"{store}\n{run}".encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"si-ctl-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise SiError(f"{folder} belongs to another user", "", "Set TMPDIR to your own folder.")
    return folder / f"{name}.lock"


class LocalCluster:
    """Implements `si.clusters.port.Cluster` with processes on this machine."""

    def __init__(self, place: Place, logs: Path, scratch: Path, preload: list[str]):
        """Args:
        place: store, number of workers, retries.
        logs: folder for the workers' logs, one file per worker.
        scratch: folder for the workers' temporary files; deleted here and after each stage.
        preload: modules to import before the first worker is forked.

        Raises:
            RecipeError: if the place requests GPUs that do not exist.
        """
        self.place = place
        self.gpus = gpus.visible(place.gpus, os.environ)
        self.logs = logs
        self.scratch = scratch
        shutil.rmtree(scratch, ignore_errors=True)  # from a killed controller
        logs.mkdir(parents=True, exist_ok=True)
        workers.preload(preload)

    def warm_up(self) -> None:
        """Start importing now, while the first stages are being prepared."""
        workers.warm_up()

    def engines(self, engine: str) -> list[list[str]]:
        """The GPUs of each engine that can run at the same time; empty without GPUs.

        Raises:
            RecipeError: if there are too few for one engine.
        """
        size = self.place.tensor_parallel or os.environ.get(TENSOR_PARALLEL) or 1
        if not str(size).isdecimal() or int(size) < 1:
            raise RecipeError(f"{TENSOR_PARALLEL}={size} is not a number of GPUs")
        if not self.gpus:
            return []
        return gpus.groups(self.gpus, 1 if engine == "transformers" else int(size))

    def describe(self, engine: str) -> str:
        """How a run with this engine uses the GPUs, in one line; empty without GPUs.

        Raises:
            RecipeError: if there are too few.
        """
        groups = self.engines(engine)
        if not groups:
            return ""
        shares = " | ".join(",".join(group) for group in groups)
        idle = self.gpus[len(groups) * len(groups[0]) :]
        return f"GPUs {shares} explore" + (f"; {','.join(idle)} does not" if idle else "")

    def worker_environments(self, spec: Spec) -> list[dict[str, str]]:
        """For each of a stage's workers, the environment variables that give it its GPUs."""
        asked = self.place.workers
        width = asked or min(8, os.cpu_count() or 1)
        everything = {} if self.place.gpus is None else {gpus.MASK: ",".join(self.gpus)}
        if spec.stage == "explore":
            engine = spec.settings["sampling"]["engine"]
            groups = self.engines(engine)
            if groups:
                # Two engines on one GPU would run out of memory.
                groups = groups[: min(asked or len(groups), spec.shards)]
                return [{gpus.MASK: ",".join(group)} for group in groups]
            if engine == "vllm" and not asked:
                width = 1  # an engine uses all cores
        return [everything] * min(width, spec.shards)

    def run(self, entry: str, spec: Spec, on_event: Callable[[Event], None]) -> None:
        """See `Cluster.run`. Workers that end with exit code 4 or a signal are restarted."""
        environments = self.worker_environments(spec)
        pending = list(range(len(environments)))
        for attempt in range(1 + self.place.retries):
            codes = self._attempt(spec, pending, environments, on_event)
            failed = {worker: code for worker, code in codes.items() if code}
            if not failed:
                return
            final = {w: c for w, c in failed.items() if c > 0 and c != RETRY}
            if final or attempt == self.place.retries:
                self._fail(entry, spec, final or failed)
            pending = sorted(failed)
            on_event({"event": "retry", "stage": spec.stage, "workers": pending})

    def _attempt(
        self,
        spec: Spec,
        pending: list[int],
        environments: list[dict[str, str]],
        on_event: Callable[[Event], None],
    ) -> dict[int, int]:
        """Run the workers in `pending`; returns their exit codes."""
        logs = {self.log(spec, worker).resolve() for worker in range(len(environments))}
        workers.end_strays(logs)
        self.scratch.mkdir(parents=True, exist_ok=True)
        common = place_environment(self.place) | {"SI_SCRATCH": str(self.scratch)}
        running: dict[int, tuple[BaseProcess, Connection]] = {}
        self.errors: dict[int, Event] = {}
        try:
            for worker in pending:
                arguments = ["--address", spec.address]
                arguments += ["--worker", str(worker), "--workers", str(len(environments))]
                running[worker] = workers.start(
                    f"{spec.stage}-{worker}",
                    script(spec.stage),
                    arguments,
                    common | environments[worker],
                    self.log(spec, worker),
                )
            self._listen(running, on_event)
            for process, _ in running.values():
                process.join()
            return {w: process.exitcode or 0 for w, (process, _) in running.items()}
        finally:
            for process, receiver in running.values():
                if process.is_alive():
                    process.kill()
                process.join()
                receiver.close()
            workers.end_strays(logs)
            shutil.rmtree(self.scratch, ignore_errors=True)

    def _listen(
        self,
        running: dict[int, tuple[BaseProcess, Connection]],
        on_event: Callable[[Event], None],
    ) -> None:
        """Forward the workers' event lines until all have ended, or closed their standard output.

        A process that a killed worker leaves behind may keep its standard output open forever. So
        once a worker has ended, only what is already there is read.
        """
        rest = dict.fromkeys(running, b"")
        left = dict(running)
        while left:
            wait([each for process, output in left.values() for each in (process.sentinel, output)])
            for worker, (process, output) in list(left.items()):
                ended = wait(
                    [process.sentinel], 0
                )  # checked first: then all of its output is there
                data = b""
                if wait([output], 0):
                    data = os.read(output.fileno(), 65536)
                elif not ended:
                    continue
                if not data:
                    del left[worker]
                *lines, rest[worker] = (rest[worker] + data).split(b"\n")
                for line in lines:
                    self._receive(worker, line, on_event)

    def _receive(self, worker: int, line: bytes, on_event: Callable[[Event], None]) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            return  # a library's output
        if isinstance(event, dict) and "event" in event:
            if event["event"] == "error":
                self.errors[worker] = event
            on_event({**event, "worker": worker})

    def log(self, spec: Spec, worker: int) -> Path:
        """The log file of a stage's worker."""
        return self.logs / f"{spec.stage}-{spec.name}-{spec.key[:12]}-w{worker}.log"

    def _fail(self, entry: str, spec: Spec, codes: dict[int, int]) -> None:
        """Raise the error of a failed worker: its own, or the end of its log."""
        worker, code = sorted(codes.items())[0]
        log = self.log(spec, worker)
        error = self.errors.get(worker)
        if error:
            raise StageFailed(
                error["headline"],
                f"{error['detail']}\nin stage {entry}, {spec.address}; log {log}",
                tuple(error["ways_out"]),
                exit_code=code if code > 0 else RETRY,
            )
        ended = (
            f"was killed by {signal.Signals(-code).name}"
            if code < 0
            else f"failed with exit code {code}"
        )
        hint = "The system kills processes when memory runs out. Try fewer workers (--workers)."
        last = log.read_text(errors="replace").strip().splitlines()[-12:] if log.exists() else []
        raise StageFailed(
            f"Stage {entry} failed: worker {worker} {ended}",
            "\n".join([f"last lines of {log}:", *last]),
            ("Run the same command again; it resumes.", *([hint] if code == -9 else [])),
            exit_code=code if code in (RETRY, UNUSABLE) else RETRY if code < 0 else 1,
        )
