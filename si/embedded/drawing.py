"""Draws the embedded queries' images with integer arithmetic alone.

Pixels depend on no font and no library: the glyphs are below. `random.Random` is used only through
`random()`, the one method whose sequence Python guarantees to keep.
"""

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

CELL = 28
SIZE = 3 * CELL

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (216, 44, 40),
    "blue": (44, 76, 208),
    "green": (40, 148, 60),
    "yellow": (244, 216, 48),
    "orange": (244, 140, 32),
    "purple": (128, 52, 160),
    "pink": (248, 156, 196),
    "brown": (120, 76, 44),
    "cyan": (72, 208, 216),
}

_GLYPHS = {
    "0": "01110 10001 10011 10101 11001 10001 01110",
    "1": "00100 01100 00100 00100 00100 00100 01110",
    "2": "01110 10001 00001 00110 01000 10000 11111",
    "3": "11110 00001 00001 01110 00001 00001 11110",
    "4": "00010 00110 01010 10010 11111 00010 00010",
    "5": "11111 10000 11110 00001 00001 10001 01110",
    "6": "00110 01000 10000 11110 10001 10001 01110",
    "7": "11111 00001 00010 00100 01000 01000 01000",
    "8": "01110 10001 10001 01110 10001 10001 01110",
    "9": "01110 10001 10001 01111 00001 00010 01100",
}
# Digit -> boolean mask of 14 x 10 pixels: the 7 x 5 glyph at twice its size.
GLYPHS: dict[str, npt.NDArray[np.bool_]] = {
    digit: np.kron(
        np.array([[c == "1" for c in row] for row in rows.split()]), np.ones((2, 2), dtype=bool)
    )
    for digit, rows in _GLYPHS.items()
}

ROW, COLUMN = np.ogrid[0:SIZE, 0:SIZE]


@dataclass(frozen=True, slots=True)
class Puzzle:
    """A query before it has an id: its image and texts, and what they were made from.

    `image` is (84, 84, 3) RGB. `cells` has the contents of the nine cells, row by row: (colour,
    number), or None where there is nothing to read.
    """

    image: Pixels
    question: str
    answer: str
    rationale: str
    cells: tuple[tuple[str, int] | None, ...]


def below(rng: random.Random, bound: int) -> int:
    """A random whole number in 0..bound-1."""
    return int(rng.random() * bound)


def shuffled(rng: random.Random, items: Sequence[Any]) -> list[Any]:
    """`items` in random order (Fisher-Yates)."""
    out = list(items)
    for i in range(len(out) - 1, 0, -1):
        j = below(rng, i + 1)
        out[i], out[j] = out[j], out[i]
    return out


def tint(rng: random.Random, colour: str) -> tuple[int, int, int]:
    """A shade of `colour` that differs by at most 10 of 255 in each channel."""
    r, g, b = (min(255, max(0, base - 10 + below(rng, 21))) for base in COLOURS[colour])
    return r, g, b


def write(image: Pixels, number: int, top: int, left: int, paper: tuple[int, ...]) -> None:
    """Draw `number` with its corner at (top, left), in black or white by contrast to `paper`."""
    ink = 0 if 3 * paper[0] + 6 * paper[1] + paper[2] > 1100 else 255
    for digit in str(number):
        glyph = GLYPHS[digit]
        image[top : top + glyph.shape[0], left : left + glyph.shape[1]][glyph] = ink
        left += glyph.shape[1] + 2


def draw_line(
    image: Pixels, start: tuple[int, int], end: tuple[int, int], paint: tuple[int, ...]
) -> None:
    """Draw a line two pixels wide between two (row, column) points."""
    n = max(abs(end[0] - start[0]), abs(end[1] - start[1]))
    along = np.arange(n + 1)
    rows = start[0] + (end[0] - start[0]) * along // n
    columns = start[1] + (end[1] - start[1]) * along // n
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        image[rows + down, columns + right] = paint


def encode_png(image: Pixels) -> bytes:
    """The image as a PNG file."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, format="PNG", compress_level=1)
    return out.getvalue()
