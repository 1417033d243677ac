"""Unpack zip archives of data into a folder, within limits, and only below that folder."""

import os
import shutil
import zipfile
from pathlib import Path

from si.errors import DataError
from si.readers.reading import LONGEST, reading
from si.untrusted import one_line

LARGEST = 200 << 30  # bytes of all files together
STEEPEST = 200  # times that a file may be larger than its compressed form


def unpack(archive: Path, folder: Path) -> Path:
    """The files of a zip archive, in a folder that is created completely or not at all.

    Entries whose paths would leave the folder, links and encrypted entries are refused.

    Args:
        folder: where to; if it exists already, it is used as it is.

    Raises:
        DataError: if the archive is damaged, or an entry is refused.
    """
    if folder.is_dir():
        return folder
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    with reading(str(archive)):
        try:
            with zipfile.ZipFile(archive) as file:
                _check(archive, file.infolist())
                partial.mkdir(parents=True)
                file.extractall(partial)
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise DataError(
                f"The file {one_line(archive, LONGEST)} cannot be read", one_line(error, LONGEST)
            ) from error
    partial.rename(folder)
    return folder


def _check(archive: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Refuse an archive that would write outside its folder, or fill the disk."""
    total = 0
    for entry in entries:
        total += entry.file_size
        path = Path(entry.filename)
        leaves = path.is_absolute() or ".." in path.parts
        is_link = (entry.external_attr >> 28) == 0xA
        if leaves or is_link:
            raise DataError(
                f"The archive {one_line(archive, LONGEST)} has an entry that leaves its folder",
                one_line(entry.filename, LONGEST),
            )
        if total > LARGEST or entry.file_size > STEEPEST * entry.compress_size + (1 << 20):
            raise DataError(
                f"The archive {one_line(archive, LONGEST)} is too large when unpacked",
                one_line(entry.filename, LONGEST),
                "Unpack it yourself, and import the folder.",
            )
