"""Decode untrusted images within limits, and convert those that engines could see differently.

Only formats that Pillow decodes itself are tried, sizes are checked before pixels are decoded, and
whatever a decoder raises over damaged bytes becomes a `DataError`. An image is *fit* if every
engine sees the same pixels in it: a PNG or JPEG without EXIF rotation and without transparency. Fit
images keep their bytes; others are converted to PNG.
"""

import io
import struct
import warnings
import zlib
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from si.errors import DataError

Pixels = Any  # an array [height, width, 3] of bytes

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
KEPT = ("PNG", "JPEG", "MPO")  # MPO: a JPEG with further images behind it
READABLE = ("1", "L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr")
LARGEST = 80_000_000  # pixels; a decompression bomb claims more
THINNEST = 200  # longest ratio of the sides; vision towers reject more
ORIENTATION = 0x0112

# The exceptions that decoders raise over damaged bytes.
BROKEN = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError),
    *(SyntaxError, TypeError, ValueError, struct.error, zlib.error, Image.DecompressionBombError),
)
# `header` checks sizes with a lower limit than the one from which Pillow warns.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class StoredImage(NamedTuple):
    """An image as a data set stores it.

    Attributes:
        data: encoded as PNG or JPEG.
        pixels: [height, width, 3].
        changed: how it was converted, for people (`webp, transparent`); empty if it was not.
    """

    data: bytes
    pixels: Pixels
    changed: str


def header(data: bytes) -> Image.Image:
    """An opened image whose pixels are not decoded yet.

    Raises:
        DataError: if the bytes are not an image, or the image is too large or too thin.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise DataError("image too large", str(error)) from error
    except BROKEN as error:
        raise DataError("undecodable image", "not an image in a known format") from error
    width, height = image.size
    if width * height > LARGEST:
        raise DataError("image too large", f"{width} x {height} pixels, at most {LARGEST:,}")
    if max(width, height) > THINNEST * min(width, height):
        raise DataError("image too thin", f"{width} x {height} pixels")
    return image


def pixels(data: bytes) -> Pixels:
    """The pixels of an encoded image, uint8 [height, width, 3], as every engine sees them.

    Raises:
        DataError: if it cannot be decoded.
    """
    image = header(data)
    try:
        return np.asarray(image.convert("RGB"))
    except BROKEN as error:
        raise DataError("undecodable image", str(error)) from error


def fit(data: bytes) -> StoredImage:
    """An image as a data set stores it: the same bytes if it is fit, else a PNG.

    To convert it, its EXIF rotation is applied, transparent parts become white, and 16-bit channels
    become 8-bit.

    Raises:
        DataError: if it cannot be decoded, is too large or too thin.
    """
    image = header(data)
    try:
        changed = [] if image.format in KEPT else [str(image.format).lower()]
        if image.getexif().get(ORIENTATION, 1) not in (0, 1):
            image = ImageOps.exif_transpose(image)
            changed.append("turned")
        if image.has_transparency_data:
            layers = image.convert("RGBA")
            if layers.getchannel("A").getextrema() != (255, 255):
                image = Image.new("RGBA", image.size, "white")
                image.alpha_composite(layers)
                changed.append("transparent")
        if image.mode not in READABLE:
            changed.append(f"mode {image.mode}")
            image = _eight_bits(image)
        image = image.convert("RGB")
        array = np.asarray(image)
    except BROKEN as error:
        raise DataError("undecodable image", str(error)) from error
    if changed:
        out = io.BytesIO()
        image.save(out, "PNG")
        data = out.getvalue()
    return StoredImage(data, array, ", ".join(changed))


def _eight_bits(image: Image.Image) -> Image.Image:
    """An image of 16-bit integers as one of bytes; images of other modes as they are."""
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64) >> 8
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def thumbnail(data: bytes, side: int) -> Image.Image:
    """A smaller copy of an image, at most `side` pixels wide and high.

    Raises:
        DataError: if it cannot be decoded.
    """
    image = header(data)
    try:
        image = image.convert("RGB")
        image.thumbnail((side, side))
    except BROKEN as error:
        raise DataError("undecodable image", str(error)) from error
    return image
