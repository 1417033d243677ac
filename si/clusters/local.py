"""This machine as a cluster: a stage's workers as processes, from the scripts that pods run.

Importing torch and transformers takes longer than most stages of a small run, so
workers are forked from one server process that has imported them
(multiprocessing's forkserver); each is a process of its own all the same, and
shares nothing with the controller but the store.

Where there are GPUs, each exploring worker is given some of them for its engine, and no two
the same; a training is given all.
"""

import fcntl
import hashlib
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from si.config.place import Place, place_environment
from si.errors import RETRY, UNUSABLE, RecipeError, RunBusy, SiError, StageFailed
from si.events import Event
from si.machine import gpus
from si.machine.processes import MACOS, end_children, writing_errors_to
from si.stages.worker import script
from si.store.folder import FolderStore
from si.store.keys import Spec
from si.store.port import Store

TENSOR_PARALLEL = "SICTL_VLLM_TENSOR_PARALLEL_SIZE"
# On macOS a process that has loaded torch must not fork: its libraries have threads by then.
CONTEXT: Any = multiprocessing.get_context("spawn" if MACOS else "forkserver")


def _end_with_controller() -> None:
    """Leave when the controller dies: its orphans would do work that nobody waits for."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        end_children(os.getpid())
        os._exit(RETRY)


def _worker(path: str, argv: list[str], env: dict[str, str], log: str, events: Connection) -> None:
    """In the worker: standard output goes to the controller, standard error to the log."""
    os.dup2(events.fileno(), 1)
    with Path(log).open("a") as file:
        os.dup2(file.fileno(), 2)
    os.environ.update(env)
    threading.Thread(target=_end_with_controller, daemon=True).start()
    sys.argv = [path, *argv]
    try:
        runpy.run_path(path, run_name="__main__")
    except BaseException:
        # multiprocessing would wait for an engine's own process, which the exception keeps alive.
        end_children(os.getpid())
        raise


def local_folder(store: Store) -> Path:
    """Where logs and reports of runs lie on this machine: in the store, if that is a folder."""
    return store.root if isinstance(store, FolderStore) else Path("si-runs")


@contextmanager
def exclusive(store: str, run: str) -> Iterator[Path]:
    """Hold the run's lock on this machine; yields a scratch folder that only its holder uses.

    The lock keeps two controllers from doing the work twice. Safety does not hang on
    it: two runs at once would still commit every artefact once.

    Raises:
        RunBusy: if another process holds it.
    """
    path = _lock_file(store, run)
    with path.open("a+") as lock:
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # perhaps somebody only looks (`at_work`)
                time.sleep(0.1)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise RunBusy(
                f"Another si-ctl is working on the run {run}",
                f"process {lock.read().strip() or 'unknown'}, store {store}",
                (
                    "Watch it: si-ctl status " + run,
                    "Wait for it to end, or stop it with Ctrl-C, and run the same command again.",
                    "Or give this run another name: --run NAME",
                ),
            ) from None
        lock.seek(0)
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()
        yield path.with_suffix("")


def at_work(store: str, run: str) -> int | None:
    """The process of this machine that works on a run, by its id; None if none does."""
    with _lock_file(store, run).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            said = lock.read().strip()
            return int(said) if said.isdecimal() else 0
    return None


def _lock_file(store: str, run: str) -> Path:
    name = hashlib.sha256(f"{store}\n{run}".encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"si-ctl-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise SiError(f"{folder} belongs to somebody else", "", "Set TMPDIR to a folder of yours.")
    return folder / f"{name}.lock"


@contextmanager
def _no_main() -> Iterator[None]:
    """Keep workers from importing the command's main module: they need nothing of it, and
    importing it takes longer than a small stage."""
    main = sys.modules["__main__"].__dict__
    hidden: dict[str, Any] = {n: main.pop(n) for n in ("__file__", "__spec__") if n in main}
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update(hidden)


class LocalCluster:
    """Implements `si.clusters.port.Cluster` by processes on this machine."""

    def __init__(self, place: Place, logs: Path, scratch: Path, preload: list[str]):
        """Args:
        place: store, number of workers, retries.
        logs: folder for the workers' logs, one file a worker.
        scratch: folder for the workers' temporary files; emptied here and after each stage.
        preload: modules that the server imports before the first worker is forked.

        Raises:
            RecipeError: if the place asks for GPUs that are not there.
        """
        self.place = place
        self.gpus = gpus.visible(place.gpus, os.environ)
        self.logs = logs
        self.scratch = scratch
        shutil.rmtree(scratch, ignore_errors=True)  # a killed controller's
        logs.mkdir(parents=True, exist_ok=True)
        CONTEXT.set_forkserver_preload(preload)

    def warm_up(self) -> None:
        """Start the server now, so that its imports overlap with what comes before a stage."""
        from multiprocessing import forkserver

        if CONTEXT.get_start_method() == "forkserver":
            forkserver.ensure_running()

    def engines(self, engine: str) -> list[list[str]]:
        """The GPUs of each engine that can be at work at once; none without GPUs.

        Raises:
            RecipeError: if there are too few for one.
        """
        size = self.place.tensor_parallel or os.environ.get(TENSOR_PARALLEL) or 1
        if not str(size).isdecimal() or int(size) < 1:
            raise RecipeError(f"{TENSOR_PARALLEL}={size} is not a number of GPUs")
        if not self.gpus:
            return []
        return gpus.groups(self.gpus, 1 if engine == "transformers" else int(size))

    def describe(self, engine: str) -> str:
        """How a run with that engine uses the GPUs, in one line; empty where there are none.

        Raises:
            RecipeError: if there are too few.
        """
        groups = self.engines(engine)
        if not groups:
            return ""
        shares = " | ".join(",".join(group) for group in groups)
        idle = self.gpus[len(groups) * len(groups[0]) :]
        return f"GPUs {shares} explore" + (f"; {','.join(idle)} does not" if idle else "")

    def crew(self, spec: Spec) -> list[dict[str, str]]:
        """For each of a stage's workers, what its environment says of the machine's GPUs."""
        asked = self.place.workers
        width = asked or min(8, os.cpu_count() or 1)
        everything = {} if self.place.gpus is None else {gpus.MASK: ",".join(self.gpus)}
        if spec.stage == "explore":
            engine = spec.settings["sampling"]["engine"]
            groups = self.engines(engine)
            if groups:
                # Two engines on one GPU would leave each other no memory.
                groups = groups[: min(asked or len(groups), spec.shards)]
                return [{gpus.MASK: ",".join(group)} for group in groups]
            if engine == "vllm" and not asked:
                width = 1  # an engine uses all cores
        return [everything] * min(width, spec.shards)

    def run(self, entry: str, spec: Spec, on_event: Callable[[Event], None]) -> None:
        """See `Cluster.run`. Workers that ask for it (exit 4, or a signal) are started again."""
        crew = self.crew(spec)
        pending = list(range(len(crew)))
        for attempt in range(1 + self.place.retries):
            codes = self._attempt(spec, pending, crew, on_event)
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
        crew: list[dict[str, str]],
        on_event: Callable[[Event], None],
    ) -> dict[int, int]:
        self._end_strays(spec, len(crew))
        self.scratch.mkdir(parents=True, exist_ok=True)
        environment = place_environment(self.place) | {"SI_SCRATCH": str(self.scratch)}
        running: dict[int, tuple[BaseProcess, Connection]] = {}
        self.errors: dict[int, Event] = {}
        try:
            for worker in pending:
                receiver, sender = CONTEXT.Pipe(duplex=False)
                argv = ["--address", spec.address]
                argv += ["--worker", str(worker), "--workers", str(len(crew))]
                log = str(self.log(spec, worker))
                process = CONTEXT.Process(
                    target=_worker,
                    args=(str(script(spec.stage)), argv, environment | crew[worker], log, sender),
                    name=f"{spec.stage}-{worker}",
                )
                with _no_main():
                    process.start()
                sender.close()
                running[worker] = (process, receiver)
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
            self._end_strays(spec, len(crew))
            shutil.rmtree(self.scratch, ignore_errors=True)

    def _end_strays(self, spec: Spec, workers: int) -> None:
        """End what workers of this stage have started and left behind when they were killed, under
        this controller or an earlier one: engines that would keep the GPUs' memory. They are known
        by their standard error, which is a worker's log."""
        logs = {self.log(spec, worker).resolve() for worker in range(workers)}
        for process in writing_errors_to(logs):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)

    def _listen(
        self,
        running: dict[int, tuple[BaseProcess, Connection]],
        on_event: Callable[[Event], None],
    ) -> None:
        """Pass on the workers' event lines until all have ended, or closed their standard output.

        A process that a killed worker leaves behind may hold its standard output open for ever:
        of a worker that has ended, only what it had said is read.
        """
        rest = dict.fromkeys(running, b"")
        left = dict(running)
        while left:
            wait([each for process, said in left.values() for each in (process.sentinel, said)])
            for worker, (process, said) in list(left.items()):
                ended = wait([process.sentinel], 0)  # asked first: what it said is there by now
                data = b""
                if wait([said], 0):
                    data = os.read(said.fileno(), 65536)
                elif not ended:
                    continue
                if not data:
                    del left[worker]
                *lines, rest[worker] = (rest[worker] + data).split(b"\n")
                for line in lines:
                    self._hear(worker, line, on_event)

    def _hear(self, worker: int, line: bytes, on_event: Callable[[Event], None]) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            return  # a library's chatter
        if isinstance(event, dict) and "event" in event:
            if event["event"] == "error":
                self.errors[worker] = event
            on_event({**event, "worker": worker})

    def log(self, spec: Spec, worker: int) -> Path:
        return self.logs / f"{spec.stage}-{spec.name}-{spec.key[:12]}-w{worker}.log"

    def _fail(self, entry: str, spec: Spec, codes: dict[int, int]) -> None:
        worker, code = sorted(codes.items())[0]
        log = self.log(spec, worker)
        said = self.errors.get(worker)
        if said:
            raise StageFailed(
                said["headline"],
                f"{said['detail']}\nin stage {entry}, {spec.address}; log {log}",
                tuple(said["ways_out"]),
                exit_code=code if code > 0 else RETRY,
            )
        ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        hint = "The system kills processes when memory runs out: try fewer workers (--workers)."
        last = log.read_text(errors="replace").strip().splitlines()[-12:] if log.exists() else []
        raise StageFailed(
            f"Stage {entry} failed: worker {worker} {ended}",
            "\n".join([f"last lines of {log}:", *last]),
            ("Run the same command again; it resumes.", *([hint] if code == -9 else [])),
            exit_code=code if code in (RETRY, UNUSABLE) else RETRY if code < 0 else 1,
        )
