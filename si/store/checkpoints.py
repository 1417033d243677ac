"""Checkpoints within a training: all that it takes to go on from a step as if nothing had happened.

They lie below the training's artefact, and are no part of it:

    <address>/checkpoints/<step>-<attempt>/<part>/...       files, put first
    <address>/checkpoints/<step>-<attempt>.<part>of<parts>  a record of them, sealed, put last

A checkpoint is whole when the records of all its parts are there: one for each machine that trains.
What is damaged or not whole is passed over for the one before, so two are kept; once the policy is
committed none is.

The trainer sees folders of its own machine alone (`Checkpoints`), and may run in processes that
know no store; `kept`, in the stage's own process, carries them to the store and back.
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
LOOK = 0.2  # seconds between looks for what the trainer has saved


class Stopped(SiError):
    """The training was asked to end before its time."""

    exit_code = RETRY


class Checkpoints:
    """What a trainer sees: a folder to go on from, and folders to save to. It can be pickled."""

    def __init__(self, folder: Path, seconds: float):
        """Args:
        folder: of this training's own, on this machine.
        seconds: between two checkpoints; 0 for one a step.
        """
        self.folder = folder
        self.seconds = seconds
        self.last = time.monotonic()

    @property
    def resume(self) -> Path | None:
        """Where the state of the last checkpoint lies; None if there is none."""
        folder = self.folder / "resume"
        return folder if folder.is_dir() else None

    @property
    def asked_to_stop(self) -> bool:
        return (self.folder / "stop").exists()

    def due(self) -> bool:
        """Whether it is time to save, by the clock or because the training has to end."""
        return self.asked_to_stop or time.monotonic() - self.last >= self.seconds

    def begin(self, step: int) -> Path:
        """A folder to save the state after `step` steps to; the same for all of this machine."""
        folder = self.folder / "new" / f"{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        self.last = time.monotonic()
        return folder

    def end(self, step: int) -> None:
        """All is in the folder that `begin` gave; to be called once."""
        saved = self.folder / "saved"
        saved.mkdir(exist_ok=True)
        (self.folder / "new" / f"{step:08d}").rename(saved / f"{step:08d}")

    def leave(self, step: int) -> None:
        """Raises:
        Stopped: if the training has been asked to end; the state is saved by now.
        """
        if self.asked_to_stop:
            raise Stopped(
                f"The training was asked to stop, after step {step}",
                "its state is kept",
                "Run the same command again; it goes on from there.",
            )


@contextmanager
def kept(
    store: Store,
    address: str,
    folder: Path,
    seconds: float,
    part: tuple[int, int] = (0, 1),
    attempt: str = "",
) -> Iterator[Checkpoints]:
    """The checkpoints of the training at `address`: the last one is here when this begins, and
    what is saved goes to the store. SIGTERM means: save, then stop.

    Args:
        part: number of this machine and how many train together.
        attempt: what the machines of one attempt have in common; random by default.
    """
    keeper = _Keeper(store, address, Checkpoints(folder, seconds), part, attempt)
    keeper.fetch()
    ended = threading.Event()
    thread = threading.Thread(target=keeper.carry, args=(ended,), daemon=True)
    main = threading.current_thread() is threading.main_thread()  # only there signals are heard
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


def forget(store: Store, address: str) -> None:
    """Remove all checkpoints of a training: its policy is committed."""
    for found in [*_records(store, address), *store.list(f"{address}/checkpoints")]:
        store.delete(found)


def _records(store: Store, address: str) -> list[str]:
    """Addresses of the records, the newest step first."""
    found = store.list(f"{address}/checkpoints")
    return sorted((a for a in found if RECORD.fullmatch(a.rpartition("/")[2])), reverse=True)


class _Keeper:
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
        """Bring this machine's part of the newest whole checkpoint."""
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
                # A twin may have removed it, or bytes are lost: the one before will do.
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
        """Where the files of a record lie."""
        return f"{record.rpartition('.')[0]}/{self.part}"

    def carry(self, ended: threading.Event) -> None:
        """Bring to the store what the trainer saves, until `ended`; the training goes on if the
        store does not answer."""
        while not ended.wait(LOOK):
            try:
                self.sweep()
            except SiError as error:
                sys.stderr.write(f"A checkpoint could not be kept: {error}\n")

    def sweep(self) -> None:
        """Bring what is saved to the store, the newest alone, and remove what is older there."""
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
            self.store.delete(old)  # first the record: what it speaks of must not go before it
            with suppress(SiError):
                for address in self.store.list(self._folder(old)):
                    self.store.delete(address)
