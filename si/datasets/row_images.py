"""Find the images of a row: in its cells, or in files that it names."""

import ast
import base64
import json
import re
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from si.datasets.rows import File, file_stamp
from si.errors import DataError

_INSIDE = ("bytes", "path", "image", "image_url", "url", "data")  # keys of an image's struct
HEAVIEST = 64 << 20  # bytes of one encoded image

# The first characters of encoded images in base64: PNG, JPEG, GIF, WebP, BMP, TIFF.
_BASE64 = re.compile(
    r"\s*(iVBORw0KGgo|/9j/|R0lGOD|UklGR|Qk[0-9A-Za-z+/]|SUkqA|TU0AK)[0-9A-Za-z+/\s]{60,}=*\s*"
)
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
            images, a `data:` URI, base64, or the path of a file (`find_image_file`); a list of
            them may also be a text, as in JSON or in Python.
        file: the row's file.

    Raises:
        BadRow: if an image is missing, too large, not an image, or outside the source's folder.
    """
    if isinstance(value, str) and value.strip()[:1] == "[":
        value = _listed(value)
    values = value if isinstance(value, list) else [value]
    images = [_find_image(each, file) for each in values if each is not None]
    if not images:
        raise BadRow("images", "missing image")
    return tuple(images)


def _find_image(value: Any, file: File) -> FoundImage:
    if isinstance(value, dict):
        value = next((value[name] for name in _INSIDE if value.get(name)), None)
        if isinstance(value, dict):  # {"image_url": {"url": ...}}
            value = value.get("url")
    if isinstance(value, str) and _DATA_URI.match(value):
        try:
            value = base64.b64decode(value.partition(",")[2], validate=True)
        except ValueError:
            raise BadRow("images", "undecodable image: its base64 is broken") from None
    if isinstance(value, str) and len(value) > 100 and _BASE64.fullmatch(value):
        value = base64.b64decode(value)
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


def _listed(text: str) -> Any:
    """A list that was written as text, as in a cell of a CSV file; other text as it is."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


def _read_image(name: str, file: File) -> FoundImage:
    if name.startswith("file://"):
        name = unquote(name.removeprefix("file://").removeprefix("localhost"))
    if re.match(r"[a-z][a-z0-9+.-]+://", name):
        raise BadRow("images", f"missing image: {name[:60]!r} is a web address; download it first")
    try:
        path = find_image_file(name, file)
        stamp = file_stamp(path)
        if path.stat().st_size > HEAVIEST:
            raise BadRow("images", f"image too large: {path.stat().st_size:,} bytes")
        return FoundImage(path.read_bytes(), (str(path), stamp))
    except DataError as error:
        raise BadRow("images", f"{error.headline}: {error.detail}") from error
    except OSError as error:
        raise BadRow("images", f"missing image: {error.strerror} {name!r}") from error


def find_image_file(name: str, file: File) -> Path:
    """The file that a row names.

    A relative path starts from the folder of the row's file, from the source's folder, or from a
    folder of `file.access`. In these, the ends of a path are looked for, too, so that
    `/data/geometry/1.png` is found as `1.png` or `geometry/1.png`.

    Raises:
        DataError: if the file does not exist, or if rows are confined to the source's folder and it
            lies outside, or is a link that leads there.
    """
    access, given = file.access, Path(name)
    try:
        places = [(file.folder / given, file.root), (file.root / given, file.root)]
        for folder in access.folders:
            parts = given.parts[1:] if given.is_absolute() else given.parts
            places += [(folder.joinpath(*parts[i:]), folder) for i in range(len(parts))]
        left = False
        for path, root in places:
            target = path.resolve()
            inside = target.is_relative_to(root.resolve())
            if not inside and access.confined:
                left = left or path.is_file() or given.is_absolute() or ".." in given.parts
            elif target.is_file():
                return target
    except (OSError, ValueError) as error:  # the name is too long, or holds a zero byte
        raise DataError("missing image", f"no file {name[:80]!r}") from error
    if left:
        raise DataError("path leaves the folder", repr(name))
    raise DataError("missing image", f"no file {name[:200]!r}")
