"""A folder as storage: complete files appear by rename or hard link, after fsync."""

import errno
import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from si.errors import ArtifactMissing, StoreUnavailable
from si.store.port import Stored, checked

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
CHUNK = 1 << 20


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Translate OSErrors of the file system at `path` into `StoreUnavailable`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        where = f"{reason}: {error.filename or path}"
        if error.errno in FULL:
            raise StoreUnavailable(
                f"The disk is full at {path}",
                f"{where}\n{_free(path)}",
                (
                    "Free some space, then run the same command again: it resumes.",
                    "Or use another disk: --set place.store=FOLDER (SI_SCRATCH for scratch files).",
                ),
            ) from error
        if error.errno in REFUSED:
            raise StoreUnavailable(
                f"The file system refuses access at {path}",
                where,
                "Give this user read and write permission there, or use another folder.",
            ) from error
        raise StoreUnavailable(f"The file system failed at {path}", where) from error


def reserve(descriptor: int, size: int) -> None:
    """Reserve `size` bytes for a file, so that a full disk is reported before they are received.

    Where that is not supported, a full disk is reported while writing.
    """
    try:
        if size:
            os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno in FULL:
            raise
    except AttributeError:
        pass  # not supported by this operating system


def _free(path: Path) -> str:
    there = next(folder for folder in (path, *path.parents) if folder.is_dir())
    usage = shutil.disk_usage(there)
    return (
        f"free space: {usage.free / 1e9:.2f} of {usage.total / 1e9:.2f} GB "
        "(a quota or a limit on file sizes may be lower)"
    )


class FolderStore:
    """A store in the folder `root`, which is created on the first write.

    Temporary files are in `<root>/.tmp`, which no address can name. Each is locked by its writer.
    The files of a killed writer are unlocked, and later writers remove them.
    """

    def __init__(self, root: Path):
        self.root = root.resolve()  # one spelling, whatever path was given
        self.url = str(self.root)
        self._temporaries = self.root / ".tmp"
        self._swept = False

    def put(self, address: str, data: bytes | Path) -> None:
        target = self.root / checked(address)
        with storage_errors(self.root), self._temporary(data) as temporary:
            _make(target.parent)
            temporary.replace(target)
            _sync(target.parent)

    def create(self, address: str, data: bytes) -> bool:
        target = self.root / checked(address)
        with storage_errors(self.root), self._temporary(data) as temporary:
            _make(target.parent)
            try:
                target.hardlink_to(temporary)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                raise StoreUnavailable(
                    f"The file system of {self.root} has no hard links",
                    f"{error.strerror}: artefacts cannot be committed exactly once without them.",
                    "Set place.store to a folder on another file system, or to a bucket.",
                ) from error
            _sync(target.parent)
            return True

    def get(self, address: str) -> bytes:
        with self._present(address) as file:
            return file.read()

    def fetch(self, address: str, path: Path) -> tuple[int, str]:
        sha256 = hashlib.sha256()
        with self._present(address) as source, storage_errors(path), path.open("wb") as target:
            while chunk := source.read(CHUNK):
                sha256.update(chunk)
                target.write(chunk)
            target.flush()
            return target.tell(), sha256.hexdigest()

    def exists(self, address: str) -> bool:
        with storage_errors(self.root):
            return (self.root / checked(address)).is_file()

    def list(self, prefix: str) -> Iterator[str]:
        top = self.root / checked(prefix) if prefix else self.root
        with storage_errors(self.root):
            found = sorted(
                (Path(folder) / name).relative_to(self.root).as_posix()
                # Finished artefacts may have moved to another disk, behind a symbolic link.
                for folder, _, names in os.walk(top, onerror=_unless_missing, followlinks=True)
                for name in names
            )
        return (address for address in found if not address.startswith("."))

    def scan(self, prefix: str) -> Iterator[Stored]:
        for address in self.list(prefix):
            with storage_errors(self.root):
                try:
                    found = (self.root / address).stat()
                except FileNotFoundError:  # another process has just deleted it
                    continue
            yield Stored(address, found.st_size, found.st_mtime)

    def abandoned(self, before: float, delete: bool = False) -> int:
        return 0  # a writer removes what a killed one has left

    def delete(self, address: str) -> None:
        path = self.root / checked(address)
        with storage_errors(self.root):
            path.unlink(missing_ok=True)

    @contextmanager
    def _present(self, address: str) -> Iterator[IO[bytes]]:
        path = self.root / checked(address)
        with storage_errors(self.root):
            try:
                file = path.open("rb")
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                raise ArtifactMissing(f"Nothing is at {path}") from None
            with file:
                yield file

    @contextmanager
    def _temporary(self, data: bytes | Path) -> Iterator[Path]:
        """A synced file with `data`, under a unique name; removed afterwards."""
        _make(self._temporaries)
        self._sweep()
        path = self._temporaries / uuid.uuid4().hex
        try:
            with path.open("xb") as file:
                with suppress(OSError):  # no locks on this file system, so nothing is swept either
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if isinstance(data, Path):
                    with data.open("rb") as source:
                        shutil.copyfileobj(source, file, CHUNK)
                else:
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())
                yield path
        finally:
            path.unlink(missing_ok=True)

    def _sweep(self) -> None:
        if self._swept:
            return
        self._swept = True
        for path in self._temporaries.iterdir():
            with suppress(OSError), path.open("r+b") as file:
                # The writer of a young file may not have locked it yet.
                if time.time() - path.stat().st_mtime > 60:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()


def _make(folder: Path) -> None:
    """Create a folder and its parents, each synced to disk."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot sync folders
            raise
    finally:
        os.close(descriptor)


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error
