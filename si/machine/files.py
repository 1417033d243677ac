"""Files that a user names: written completely or not at all, and replaced only when asked to.

Bytes go to a hidden file beside the wanted one, which is renamed when all of them are on the disk.
A path that cannot be written is an `OutputError` (exit 2), a full disk a `StoreUnavailable`
(exit 4).
"""

import errno
import os
import shlex
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from si.errors import OutputError, SiError, StoreUnavailable

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def check(path: Path, force: bool = False, option: str = "--out") -> None:
    """Check that the file `path` can be written, before the work that makes its content.

    Args:
        force: whether a file that exists may be replaced.
        option: the option that names the file, for the error's advice.

    Raises:
        OutputError: if `path` exists and may not be replaced, is a folder or a device, or lies in
            a folder that does not exist or cannot be written to.
        StoreUnavailable: if the disk is full.
    """
    other = f"Name another file: {option} FILE"
    if path.is_dir():
        raise OutputError(f"{path} is a folder", "nothing was written", other)
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} is not a regular file", "nothing was written", other)
    if (path.exists() or path.is_symlink()) and not force:
        raise _exists(path, other)
    check_folder(path.parent, option)


def _exists(path: Path, other: str) -> OutputError:
    return OutputError(
        f"{path} exists already", "nothing was written", ("Replace it: --force", other)
    )


def check_folder(folder: Path, option: str = "--out") -> None:
    """Check that files can be written in `folder`, which must exist.

    Raises:
        OutputError, StoreUnavailable: as `check`.
    """
    if not folder.is_dir():
        other = f"Name another path: {option}"
        there = nearest(folder)
        if not there.is_dir():
            detail = f"wanted: the folder {folder}\nnothing was written"
            raise OutputError(f"{there} is not a folder", detail, other)
        raise OutputError(
            f"The folder {folder} does not exist",
            "nothing was written",
            (f"Create it: mkdir -p {shlex.quote(str(folder))}", other),
        )
    with errors(folder):
        probe = folder / f".part-{uuid.uuid4().hex[:8]}"
        probe.touch(exist_ok=False)
        probe.unlink()


def nearest(folder: Path) -> Path:
    """`folder`, or the nearest of its parents that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def create_folder(folder: Path) -> None:
    """Create `folder` and its parents, for files whose place si-ctl has chosen.

    Raises:
        OutputError, StoreUnavailable: as `check`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _translated(error, folder) from error


@contextmanager
def output(path: Path, force: bool = False) -> Iterator[IO[bytes]]:
    """A file to write to, which becomes `path` when the block ends; on an error nothing is left.

    Raises:
        OutputError, StoreUnavailable: as `check`, also while the block writes.
    """
    check(path, force)
    path = path.resolve()  # what a link leads to is replaced, not the link
    part = path.with_name(f".part-{uuid.uuid4().hex[:8]}")
    try:
        with errors(path):
            with part.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            _publish(part, path, force)
    finally:
        part.unlink(missing_ok=True)


def write_files(files: Mapping[Path, bytes], force: bool = False) -> None:
    """Write several files, all or none of them.

    Raises:
        OutputError, StoreUnavailable: as `check`.
    """
    with ExitStack() as stack:
        for path, data in files.items():
            stack.enter_context(output(path, force)).write(data)


def _publish(part: Path, path: Path, force: bool) -> None:
    """Give a complete file its name; without `force` only if nothing has that name by now."""
    if force:
        part.replace(path)
        return
    try:
        path.hardlink_to(part)
    except FileExistsError as error:  # made meanwhile, and perhaps gone again
        raise _exists(path, "Name another file: --out FILE") from error
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        check(path)
        part.rename(path)


@contextmanager
def errors(path: Path) -> Iterator[None]:
    """Translate errors of the file system while `path` is written.

    Errors that name another file, such as one that is read meanwhile, pass through.
    """
    try:
        yield
    except SiError:
        raise
    except OSError as error:
        named = error.filename
        if named is not None and not Path(os.fsdecode(named)).is_relative_to(path.parent):
            raise
        raise _translated(error, path) from error


def _translated(error: OSError, path: Path) -> SiError:
    detail = f"{error.strerror or error}\nnothing was written"
    if error.errno in FULL:
        way = "Free some space, or write to another disk."
        return StoreUnavailable(f"The disk is full at {path}", detail, way)
    way = "Name another path, or get permission to write there."
    return OutputError(f"{path} cannot be written", detail, way)
