"""What all readers of files share: errors that name the file, compression, and encodings."""

import codecs
import gzip
import io
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

import pyarrow as pa

from si.errors import DataError, RecipeError
from si.untrusted import one_line

Row = dict[str, Any]
LONGEST = 300  # characters of a name or a library's message in an error
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Raise what readers raise over a damaged file as a `DataError` that names the file."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(
            f"The file {one_line(name, LONGEST)} is not {error.encoding.upper()}",
            f"byte 0x{error.object[error.start]:02x}: {error.reason}",
            "Give its encoding: --encoding latin-1",
        ) from error
    except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise DataError(
            f"The file {one_line(name, LONGEST)} cannot be read", one_line(lines[0], LONGEST)
        ) from error


def any_wanted(wanted: Sequence[int] | None, start: int, stop: int) -> bool:
    """Whether a row number from `start` to `stop` (exclusive) is among those wanted.

    Args:
        wanted: ascending row numbers; all if None.
    """
    if wanted is None:
        return True
    at = bisect_left(wanted, start)
    return at < len(wanted) and wanted[at] < stop


def check_encoding(name: str) -> str:
    """The name of an encoding, if Python knows it; empty for UTF-8.

    Raises:
        RecipeError: if it is unknown.
    """
    try:
        found = codecs.lookup(name).name if name else ""
    except LookupError:
        raise RecipeError(
            f"Unknown encoding {name!r}", "", "For example: --encoding latin-1, or utf-16"
        ) from None
    return "" if found == "utf-8" else found


def open_bytes(path: Path) -> BinaryIO:
    """A file opened to read its bytes, decompressed if it is named .gz."""
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def open_text(path: Path, encoding: str = "") -> TextIO:
    """A file opened to read its text, decompressed if it is named .gz.

    Args:
        encoding: from `check_encoding`; by default UTF-8, or UTF-16 if a mark says so.
    """
    return io.TextIOWrapper(
        open_bytes(path), encoding or marked_encoding(path) or "utf-8-sig", newline=""
    )


def marked_encoding(path: Path) -> str:
    """The encoding that a file's first bytes declare, `utf-16`; empty for UTF-8."""
    with open_bytes(path) as file:
        return "utf-16" if file.read(2) in UTF_16 else ""
