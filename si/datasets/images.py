"""Images from anybody: opened within limits, made upright and opaque, kept as they are if fit.

An encoded image is untrusted. Only formats whose decoders Pillow brings itself are tried, sizes
are checked before anything is decoded, and whatever a decoder does with damaged bytes becomes one
error. An image is *fit* if every engine sees the same pixels in it: a PNG or JPEG that EXIF does
not turn and that nothing shines through. Others are encoded anew, as PNG.
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
KEPT = ("PNG", "JPEG", "MPO")  # MPO: a JPEG with further pictures behind it
READABLE = ("1", "L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr")
LARGEST = 80_000_000  # pixels; a decompression bomb promises more
THINNEST = 200  # the longer side over the shorter; vision towers refuse more
ORIENTATION = 0x0112

# What decoders raise over damaged bytes.
BROKEN = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError),
    *(SyntaxError, TypeError, ValueError, struct.error, zlib.error, Image.DecompressionBombError),
)
# Sizes are checked here, with a lower limit than the one that Pillow warns of.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class Picture(NamedTuple):
    """An image as it is kept: its bytes, its pixels, and what was changed (empty: nothing)."""

    data: bytes
    pixels: Pixels
    changed: str


def header(data: bytes) -> Image.Image:
    """An image opened, but not yet decoded.

    Raises:
        DataError: if it is none, too large or too thin.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise DataError("image too large", str(error)) from error
    except BROKEN as error:
        raise DataError("undecodable image", "no picture in a known format") from error
    width, height = image.size
    if width * height > LARGEST:
        raise DataError("image too large", f"{width} x {height} pixels, at most {LARGEST:,}")
    if max(width, height) > THINNEST * min(width, height):
        raise DataError("image too thin", f"{width} x {height} pixels")
    return image


def pixels(data: bytes) -> Pixels:
    """An encoded image as an array [height, width, 3] of bytes, as every engine sees it.

    Raises:
        DataError: if it cannot be decoded.
    """
    image = header(data)
    try:
        return np.asarray(image.convert("RGB"))
    except BROKEN as error:
        raise DataError("undecodable image", str(error)) from error


def fit(data: bytes) -> Picture:
    """An image as a data set keeps it: the same bytes if it is fit, else a PNG.

    It is turned as EXIF says, laid on white where it is transparent, and 16 bits a channel
    become 8.

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
    return Picture(data, array, ", ".join(changed))


def _eight_bits(image: Image.Image) -> Image.Image:
    """A picture of integers of 16 bits as one of bytes; other modes as Pillow converts them."""
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64) >> 8
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def thumbnail(data: bytes, side: int) -> Image.Image:
    """A small copy of an image, of at most `side` pixels either way.

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
