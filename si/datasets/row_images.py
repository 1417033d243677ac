"""Find the images of a row: in its cells, or in files that it names."""

import base64
import re
from typing import Any, NamedTuple

from si.datasets.rows import File, file_inside, file_stamp
from si.errors import DataError

HEAVIEST = 64 << 20  # bytes of one encoded image

_DATA_URI = re.compile(r"data:image/[a-z0-9.+-]+;base64,", re.IGNORECASE)


class BadRow(Exception):
    """A row that cannot be used: the field at fault, and why."""

    def __init__(self, field: str, why: str):
        super().__init__(f"{field}: {why}")
        self.field = field
        self.why = why


class FoundImage(NamedTuple):
    """An encoded image.

    Attributes:
        data: its bytes, as they were found.
        file: (path, stamp before it was read) if it was in a file of its own.
    """

    data: bytes
    file: tuple[str, str] | None = None


def find_images(value: Any, file: File) -> tuple[FoundImage, ...]:
    """The encoded images of a row.

    Args:
        value: an image or a list of them: bytes, a struct of `bytes` and `path` as the hub stores
            images, a `data:` URI, or the path of a file relative to the row's file.
        file: the row's file.

    Raises:
        BadRow: if an image is missing, too large, not an image, or outside the source's folder.
    """
    values = value if isinstance(value, list) else [value]
    images = [_find_image(each, file) for each in values if each is not None]
    if not images:
        raise BadRow("images", "missing image")
    return tuple(images)


def _find_image(value: Any, file: File) -> FoundImage:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path") or value.get("image")
    if isinstance(value, str) and _DATA_URI.match(value):
        try:
            value = base64.b64decode(value.partition(",")[2], validate=True)
        except ValueError:
            raise BadRow("images", "undecodable image: its base64 is broken") from None
    if isinstance(value, str) and value:
        return _read_image(value, file)
    if not isinstance(value, bytes):
        kind = type(value).__name__
        raise BadRow("images", "missing image" if not value else f"a {kind}, not an image")
    if not value:
        raise BadRow("images", "missing image: no bytes")
    if len(value) > HEAVIEST:
        raise BadRow("images", f"image too large: {len(value):,} bytes")
    return FoundImage(value)


def _read_image(name: str, file: File) -> FoundImage:
    if re.match(r"[a-z][a-z0-9+.-]+://", name):
        raise BadRow("images", f"missing image: {name[:60]!r} is a web address; download it first")
    try:
        path = file_inside(file.root, file.path.parent, name)
        stamp = file_stamp(path)
        if path.stat().st_size > HEAVIEST:
            raise BadRow("images", f"image too large: {path.stat().st_size:,} bytes")
        return FoundImage(path.read_bytes(), (str(path), stamp))
    except DataError as error:
        raise BadRow("images", f"{error.headline}: {error.detail}") from error
    except OSError as error:
        raise BadRow("images", f"missing image: {error.strerror} {name!r}") from error
