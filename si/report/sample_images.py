"""Images of a report: decoded and encoded again before a page embeds them."""

import base64
import io
import warnings
from typing import NamedTuple

PIXELS = 320  # longest side of a shown image
HEAVY = 30_000  # maximum bytes of a PNG; larger images become JPEG


class Picture(NamedTuple):
    """An image as a page holds it: a data URI, and its width in pixels."""

    uri: str
    width: int


def embed(image: bytes) -> Picture | None:
    """An image as a data URI, decoded and re-encoded; None if it is not a PNG or JPEG.

    The bytes come from an untrusted data set, so only the pixels are kept.
    """
    from PIL import Image

    broken = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Warning)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(image), formats=("PNG", "JPEG"))
            photo = opened.format == "JPEG"
            opened.thumbnail((PIXELS, PIXELS))
            picture = opened.convert("RGB")
    except broken:
        return None
    file, kind = io.BytesIO(), "png"
    if not photo:
        picture.save(file, "PNG", compress_level=6)
    if photo or file.tell() > HEAVY:
        file, kind = io.BytesIO(), "jpeg"
        picture.save(file, "JPEG", quality=78)
    uri = f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
    return Picture(uri, picture.width)
