"""Checkpoints within a training: everything needed to resume at a step as if nothing had happened.

They are stored below the training's artefact without being part of it:

    <address>/checkpoints/<step>-<attempt>/<part>/...       files, written first
    <address>/checkpoints/<step>-<attempt>.<part>of<parts>  a sealed record of them, written last

A checkpoint is complete when the records of all parts exist, one for each machine that trains.
Damaged and incomplete ones are skipped in favour of the one before, so two are kept. Once the
policy is committed, all are deleted.

The trainer sees only folders on its own machine (`Checkpoints`) and may run in processes without a
store. `checkpointing`, in the stage's own process, copies them to the store and back.
"""

import hashlib
import re
import shutil
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from si.errors import RETRY, ArtifactDamaged, SiError
from si.store.keys import canonical, read_record, sealed
from si.store.port import Store, checked

RECORD = re.compile(r"(?P<step>\d{8})-(?P<attempt>[0-9a-f]{12})\.(?P<part>\d+)of(?P<parts>\d+)")
KEPT = 2
POLL = 0.2  # seconds between checks for what the trainer has saved


class Stopped(SiError):
    """The training was asked to stop, and has saved its state."""

    exit_code = RETRY


class Checkpoints:
    """What a trainer sees: a folder to resume from, and folders to save to. It can be pickled."""

    def __init__(self, folder: Path, seconds: float):
        """Args:
        folder: a folder on this machine that only this training uses.
        seconds: time between two checkpoints; 0 for one per step.
        """
        self.folder = folder
        self.seconds = seconds
        self.last = time.monotonic()

    @property
    def resume(self) -> Path | None:
        """The folder with the state of the last checkpoint; None if there is none."""
        folder = self.folder / "resume"
        return folder if folder.is_dir() else None

    @property
    def asked_to_stop(self) -> bool:
        """Whether the training should save its state and stop."""
        return (self.folder / "stop").exists()

    def due(self) -> bool:
        """Whether it is time to save, because `seconds` have passed or the training should stop."""
        return self.asked_to_stop or time.monotonic() - self.last >= self.seconds

    def begin(self, step: int) -> Path:
        """A folder for the state after `step` steps; the same for all processes of this machine."""
        folder = self.folder / "new" / f"{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        self.last = time.monotonic()
        return folder

    def end(self, step: int) -> None:
        """Declare the folder that `begin` returned complete. Call it once per machine."""
        saved = self.folder / "saved"
        saved.mkdir(exist_ok=True)
        (self.folder / "new" / f"{step:08d}").rename(saved / f"{step:08d}")

    def leave(self, step: int) -> None:
        """Stop if asked to; the state must have been saved.

        Raises:
            Stopped: if the training was asked to stop.
        """
        if self.asked_to_stop:
            raise Stopped(
                f"The training was asked to stop after step {step}",
                "its state is saved",
                "Run the same command again; it resumes from there.",
            )


@contextmanager
def checkpointing(
    store: Store,
    address: str,
    folder: Path,
    seconds: float,
    part: tuple[int, int] = (0, 1),
    attempt: str = "",
) -> Iterator[Checkpoints]:
    """The checkpoints of the training at `address`. The last one is fetched first; what the trainer
    saves is copied to the store. On SIGTERM the trainer is asked to save and stop.

    Args:
        folder: a folder on this machine for the trainer's files; removed afterwards.
        seconds: time between two checkpoints.
        part: the number of this machine, and how many train together.
        attempt: a name that the machines of one attempt share; random by default.
    """
    keeper = _Keeper(store, address, Checkpoints(folder, seconds), part, attempt)
    keeper.fetch()
    ended = threading.Event()
    thread = threading.Thread(target=keeper.carry, args=(ended,), daemon=True)
    main = threading.current_thread() is threading.main_thread()  # only it receives signals
    before = signal.signal(signal.SIGTERM, keeper.stop) if main else None
    thread.start()
    try:
        yield keeper.checkpoints
    except Stopped:
        ended.set()
        thread.join()
        keeper.sweep()
        raise
    finally:
        ended.set()
        thread.join()
        if main:
            signal.signal(signal.SIGTERM, before)
        shutil.rmtree(folder, ignore_errors=True)


def delete_checkpoints(store: Store, address: str) -> None:
    """Delete all checkpoints of a training whose policy is committed."""
    for found in [*_records(store, address), *store.list(f"{address}/checkpoints")]:
        store.delete(found)


def _records(store: Store, address: str) -> list[str]:
    """Addresses of the records, the newest step first."""
    found = store.list(f"{address}/checkpoints")
    return sorted((a for a in found if RECORD.fullmatch(a.rpartition("/")[2])), reverse=True)


class _Keeper:
    """Copies one machine's part of a training's checkpoints to the store and back."""

    def __init__(
        self,
        store: Store,
        address: str,
        checkpoints: Checkpoints,
        part: tuple[int, int],
        attempt: str,
    ):
        self.store = store
        self.address = address
        self.checkpoints = checkpoints
        self.part, self.parts = part
        seed = attempt.encode() or uuid.uuid4().bytes
        self.attempt = hashlib.sha256(seed).hexdigest()[:12]

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Ask the trainer to save and stop, wherever its processes are."""
        self.checkpoints.folder.mkdir(parents=True, exist_ok=True)
        (self.checkpoints.folder / "stop").touch()

    def fetch(self) -> None:
        """Fetch this machine's part of the newest complete checkpoint."""
        shutil.rmtree(self.checkpoints.folder, ignore_errors=True)
        self.checkpoints.folder.mkdir(parents=True)
        records = _records(self.store, self.address)
        for record in records:
            name, _, which = record.rpartition(".")
            if which != f"{self.part}of{self.parts}":
                continue
            if any(f"{name}.{i}of{self.parts}" not in records for i in range(self.parts)):
                continue
            target = self.checkpoints.folder / "resume"
            try:
                self._download(record, target)
            except SiError as error:
                # A concurrent attempt may have deleted it, or bytes are lost: use the one before.
                sys.stderr.write(f"The checkpoint {name} cannot be used: {error}\n")
                shutil.rmtree(target, ignore_errors=True)
                continue
            return

    def _download(self, record: str, target: Path) -> None:
        files = read_record(self.store, record, lambda raw: list(raw["files"]))
        for file in files:
            path = target / checked(file["name"])
            path.parent.mkdir(parents=True, exist_ok=True)
            got = self.store.fetch(f"{self._folder(record)}/{file['name']}", path)
            if got != (file["size"], file["sha256"]):
                raise ArtifactDamaged(f"{file['name']} is damaged", f"{got[0]} bytes, {got[1]}")

    def _folder(self, record: str) -> str:
        """The address of a record's files."""
        return f"{record.rpartition('.')[0]}/{self.part}"

    def carry(self, ended: threading.Event) -> None:
        """Copy what the trainer saves to the store, until `ended`. The training continues if the
        store is unavailable."""
        while not ended.wait(POLL):
            try:
                self.sweep()
            except SiError as error:
                sys.stderr.write(f"A checkpoint could not be stored: {error}\n")

    def sweep(self) -> None:
        """Copy the newest saved checkpoint to the store, and delete all but `KEPT` there."""
        saved = sorted((self.checkpoints.folder / "saved").glob("*"))
        if not saved:
            return
        newest = saved[-1]
        name = f"{self.address}/checkpoints/{newest.name}-{self.attempt}"
        record = f"{name}.{self.part}of{self.parts}"
        files = []
        for path in sorted(path for path in newest.rglob("*") if path.is_file()):
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            relative = path.relative_to(newest).as_posix()
            files.append({"name": relative, "size": path.stat().st_size, "sha256": sha256})
            self.store.put(f"{self._folder(record)}/{relative}", path)
        self.store.create(record, canonical(sealed({"step": int(newest.name), "files": files})))
        for folder in saved:
            shutil.rmtree(folder, ignore_errors=True)
        mine = [r for r in _records(self.store, self.address) if r.endswith(record[len(name) :])]
        for old in mine[KEPT:]:
            self.store.delete(old)  # the record first: it must not outlive its files
            with suppress(SiError):
                for address in self.store.list(self._folder(old)):
                    self.store.delete(address)
