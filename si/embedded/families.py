"""Two families of synthetic visual-reasoning queries with graded difficulty.

`tiles`: nine coloured tiles with a digit each; add and subtract the digits of the named colours, in
any order. `cone`: a cone labelled with its height and slant height; compute the radius by
Pythagoras, then areas.

A query is a plain dict with the keys query_id, family, images (PNG bytes), question, answer,
answer_kind, difficulty (1..5) and rationale (worked steps, one per line, the last one
`Answer: ...`). Every image is 84 x 84 pixels: 3 x 3 cells of 28 pixels, and one cell is one image
token of the embedded policy.

A query's content decides its split, so no query can be in two splits, whatever the seeds. Equal
seeds give equal queries on every machine (see `si.embedded.drawing`).
"""

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np

from si.embedded.drawing import (
    CELL,
    COLOURS,
    COLUMN,
    ROW,
    SIZE,
    Pixels,
    Puzzle,
    below,
    draw_line,
    encode_png,
    shuffled,
    tint,
    write,
)
from si.randomness import keyed_rng

Mix = Mapping[tuple[str, int], int]

DIFFICULTIES = (1, 2, 3, 4, 5)

# Shares of the content space in 1/256: hash byte below 64 -> policy, below 192 -> train, ...
SPLIT_BOUNDS = (("policy", 64), ("train", 192), ("dev", 224), ("test", 256))
SPLITS = tuple(name for name, _ in SPLIT_BOUNDS)

# Right triangles (leg, leg, hypotenuse) with sides of at most two digits.
TRIPLES = tuple(
    (a, b, isqrt(a * a + b * b))
    for a in range(1, 100)
    for b in range(a, 100)
    if isqrt(a * a + b * b) ** 2 == a * a + b * b < 100 * 100
)
# Difficulty of a cone query -> its longest slant height: harder ones have rarer numbers.
_LONGEST = {1: 35, 2: 25, 3: 45, 4: 85, 5: 99}


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of query. `compose(difficulty, rng)` creates one; `separator` ends a step."""

    name: str
    description: str
    compose: Callable[[int, random.Random], Puzzle]
    separator: str = "\n"
    answer_kind: str = "number"


# --- tiles ---------------------------------------------------------------------------------


def tile_steps(terms: Sequence[tuple[int, str, int]], order: Sequence[int]) -> str:
    """The worked solution that processes `terms` in `order`, with a running total.

    Args:
        terms: (sign, colour, digit) with sign +1 or -1, in the question's order.
        order: a permutation of range(len(terms)). Each is valid, because a running total may be
            negative.
    """
    total, lines = 0, []
    for i in order:
        sign, colour, digit = terms[i]
        total += sign * digit
        lines.append(f"{'+' if sign > 0 else '-'} {colour} {digit} = {total}")
    return "\n".join([*lines, f"Answer: {total}"])


def _order(rng: random.Random, n: int) -> list[int]:
    """An order for n terms: the question's with probability 1/2, else a uniformly random one.

    The question's order makes it easier for a tiny model to track the remaining terms. Other orders
    have to occur too, or the model would never sample them.
    """
    return list(range(n)) if rng.random() < 0.5 else shuffled(rng, range(n))


def _compose_tiles(difficulty: int, rng: random.Random) -> Puzzle:
    """Nine tiles and a sum of `difficulty` terms; the first term is always added."""
    colours = shuffled(rng, list(COLOURS))
    digits = [1 + below(rng, 9) for _ in colours]
    backdrop = 200 + below(rng, 56)
    image = np.full((SIZE, SIZE, 3), backdrop, dtype=np.uint8)
    for cell, (colour, digit) in enumerate(zip(colours, digits, strict=True)):
        top, left = CELL * (cell // 3), CELL * (cell % 3)
        paper = tint(rng, colour)
        image[top + 1 : top + CELL - 1, left + 1 : left + CELL - 1] = paper
        write(image, digit, top + 4 + below(rng, 7), left + 6 + below(rng, 7), paper)
    named = shuffled(rng, range(9))[:difficulty]
    signs = [1, *(1 if rng.random() < 0.5 else -1 for _ in named[1:])]
    terms = [(s, colours[i], digits[i]) for s, i in zip(signs, named, strict=True)]
    words = [f"{'plus' if sign > 0 else 'minus'} {colour}" for sign, colour, _ in terms]
    question = "Compute " + " ".join(words).removeprefix("plus ") + "."
    return Puzzle(
        image=image,
        question=question,
        answer=str(sum(sign * digit for sign, _, digit in terms)),
        rationale=tile_steps(terms, _order(rng, difficulty)),
        cells=tuple(zip(colours, digits, strict=True)),
    )


# --- cone ----------------------------------------------------------------------------------

_CONE_ASKS = {
    1: "What is the {side}?",
    2: "What is the radius?",
    3: "What is the lateral area, as a multiple of pi?",
    4: "What is the total area, as a multiple of pi?",
    5: "What is the total area of a copy {scale} times as large, as a multiple of pi?",
}


def cone_steps(
    difficulty: int,
    height: tuple[str, int],
    slant: tuple[str, int],
    *,
    side: str = "slant height",
    scale: int = 1,
    slant_first: bool = False,
    base_first: bool = False,
) -> str:
    """The worked solution of a cone query.

    Args:
        difficulty: 1 reads `side`, 2 computes the radius, 3 the lateral area over pi, 4 the total
            area over pi, 5 that of a copy `scale` times as large.
        height: its (colour, length).
        slant: the slant height's (colour, length).
        side: "height" or "slant height", asked for at difficulty 1.
        scale: the copy's size at difficulty 5.
        slant_first: reads the slant height before the height; both orders are valid.
        base_first: computes the base's area before the lateral one; both orders are valid.
    """
    h, s = height[1], slant[1]
    readings = [f"height {height[0]} {h}", f"slant {slant[0]} {s}"]
    if difficulty == 1:
        asked = 1 if side == "slant height" else 0
        return f"{readings[asked]}\nAnswer: {(h, s)[asked]}"
    lines = readings[::-1] if slant_first else readings
    r = isqrt(s * s - h * h)
    lines += [f"square {s * s} - {h * h} = {r * r}", f"radius {r}"]
    result = r
    if difficulty >= 3:
        result = r * s
        areas = [f"lateral {r} * {s} = {r * s}"]
        if difficulty >= 4:
            areas.append(f"base {r} * {r} = {r * r}")
            result = r * s + r * r
        lines += areas[::-1] if base_first else areas
    if difficulty >= 4:
        lines.append(f"total {r * s} + {r * r} = {result}")
    if difficulty >= 5:
        result *= scale * scale
        lines.append(f"copy {scale * scale} * {result // scale**2} = {result}")
    return "\n".join([*lines, f"Answer: {result}"])


def _compose_cone(difficulty: int, rng: random.Random) -> Puzzle:
    """A cone with its height and slant height; the question depends on `difficulty`."""
    triples = [triple for triple in TRIPLES if triple[2] <= _LONGEST[difficulty]]
    legs = triples[below(rng, len(triples))]
    swap = below(rng, 2)
    h, s = legs[swap], legs[2]
    colours = shuffled(rng, list(COLOURS))
    (h_paint, s_paint) = (tint(rng, colour) for colour in colours[:2])

    # The body: a triangle on half an ellipse, lighter than any label.
    apex = (3 + below(rng, 5), SIZE // 2 - 4 + below(rng, 9))
    foot, half, depth = 66 + below(rng, 5), 30 + below(rng, 7), 6 + below(rng, 4)
    centre = apex[1]
    image = np.full((SIZE, SIZE, 3), 236 + below(rng, 20), dtype=np.uint8)
    body = abs(COLUMN - centre) * (foot - apex[0]) <= half * (ROW - apex[0])
    body &= foot >= ROW
    body |= ((COLUMN - centre) * depth) ** 2 + ((ROW - foot) * half) ** 2 <= (half * depth) ** 2
    image[body] = tuple(176 + below(rng, 40) for _ in range(3))

    # The slant height is on either side; each label has a plate in its line's colour.
    side = 1 if below(rng, 2) else -1
    rim = min(SIZE - 2, max(0, centre + side * half))
    draw_line(image, apex, (foot, centre), h_paint)
    draw_line(image, apex, (foot, rim), s_paint)
    cells: list[tuple[str, int] | None] = [None] * 9
    places = (1 + 3 * (1 + below(rng, 2)), 1 + side + 3 * below(rng, 3))
    for cell, colour, paint, number in zip(
        places, colours[:2], (h_paint, s_paint), (h, s), strict=True
    ):
        top = CELL * (cell // 3) + 1 + below(rng, 7)
        left = CELL * (cell % 3) + below(rng, 3)
        image[top : top + 20, left : left + 26] = paint
        write(image, number, top + 3, left + (2 if number > 9 else 8), paint)
        cells[cell] = (colour, number)

    asked = ("height", "slant height")[below(rng, 2)]
    scale = 2 + below(rng, 3)
    ask = _CONE_ASKS[difficulty].format(side=asked, scale=scale)
    rationale = cone_steps(
        difficulty,
        (colours[0], h),
        (colours[1], s),
        side=asked,
        scale=scale,
        slant_first=rng.random() < 0.5,
        base_first=rng.random() < 0.5,
    )
    return Puzzle(
        image=image,
        question=f"Height {colours[0]}, slant height {colours[1]}. {ask}",
        answer=rationale.rsplit(" ", 1)[1],
        rationale=rationale,
        cells=tuple(cells),
    )


FAMILIES: dict[str, Family] = {
    "tiles": Family(
        "tiles",
        "Add and subtract the digits on coloured tiles; difficulty is the number of terms, "
        "and the terms may be taken in any order.",
        _compose_tiles,
    ),
    "cone": Family(
        "cone",
        "Read a cone's height and slant height, find its radius by Pythagoras, then its "
        "lateral or total area as a multiple of pi; difficulty is how far along that way.",
        _compose_cone,
    ),
}


def uniform_mix(total: int) -> dict[tuple[str, int], int]:
    """`total` queries in equal shares for every family and difficulty.

    Raises:
        ValueError: if `total` is not a multiple of the number of shares (10).
    """
    share, rest = divmod(total, len(FAMILIES) * len(DIFFICULTIES))
    if rest:
        raise ValueError(f"{total} queries do not divide into equal shares")
    return {(family, difficulty): share for family in FAMILIES for difficulty in DIFFICULTIES}


# --- identity, splits, generation ----------------------------------------------------------


def content_digest(images_rgb: Sequence[Pixels], question: str, answer: str) -> bytes:
    """SHA-256 over a query's pixels, question and answer.

    Each part is preceded by its kind and length, so that different contents cannot concatenate to
    the same bytes.

    Args:
        images_rgb: arrays (height, width, 3) of RGB bytes.
        question: the question's text.
        answer: the reference answer's text.
    """
    digest = hashlib.sha256()
    for image in images_rgb:
        height, width, _ = image.shape
        digest.update(b"image %d %d\n" % (width, height))
        digest.update(np.ascontiguousarray(image, dtype=np.uint8).tobytes())
    for name, text in ((b"question", question), (b"answer", answer)):
        packed = text.encode()
        digest.update(b"%s %d\n" % (name, len(packed)))
        digest.update(packed)
    return digest.digest()


def content_id(images_rgb: Sequence[Pixels], question: str, answer: str) -> str:
    """A query's id: the first 16 hex digits of its content digest."""
    return content_digest(images_rgb, question, answer)[:8].hex()


def split_of(query_id: str) -> str:
    """The split that a query with this id belongs to: policy, train, dev or test."""
    # Hashed again, so that ids sorted within a split still look uniform.
    byte = hashlib.sha256(query_id.encode()).digest()[0]
    return next(name for name, bound in SPLIT_BOUNDS if byte < bound)


def compose(
    split: str, mix: Mix, seed: int, *, seen: set[str] | None = None
) -> list[tuple[str, str, int, Puzzle]]:
    """Create puzzles of one split: (query_id, family, difficulty, puzzle), in random order.

    Args:
        split: policy, train, dev or test.
        mix: number of queries for each (family, difficulty).
        seed: equal seeds give equal puzzles on every machine.
        seen: ids to exclude; the new ones are added to it.

    Raises:
        ValueError: if the split, a family or a difficulty does not exist.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}: {', '.join(SPLITS)}")
    seen = set() if seen is None else seen
    out: list[tuple[str, str, int, Puzzle]] = []
    for (name, difficulty), count in sorted(mix.items()):
        if name not in FAMILIES or difficulty not in DIFFICULTIES:
            raise ValueError(f"no family {name!r} with difficulty {difficulty}")
        rng = keyed_rng("embedded", seed, split, name, difficulty)
        while count > 0:
            puzzle = FAMILIES[name].compose(difficulty, rng)
            query_id = content_id([puzzle.image], puzzle.question, puzzle.answer)
            if split_of(query_id) == split and query_id not in seen:
                seen.add(query_id)
                out.append((query_id, name, difficulty, puzzle))
                count -= 1
    return shuffled(keyed_rng("embedded", seed, split, "order"), out)


def generate(
    split: str, mix: Mix, seed: int, *, seen: set[str] | None = None
) -> list[dict[str, Any]]:
    """Create the queries of one split; arguments and errors as for `compose`.

    Returns:
        Dicts with the keys query_id, family, images, question, answer, answer_kind,
        difficulty and rationale, in random order.
    """
    return [
        {
            "query_id": query_id,
            "family": family,
            "images": [encode_png(puzzle.image)],
            "question": puzzle.question,
            "answer": puzzle.answer,
            "answer_kind": FAMILIES[family].answer_kind,
            "difficulty": difficulty,
            "rationale": puzzle.rationale,
        }
        for query_id, family, difficulty, puzzle in compose(split, mix, seed, seen=seen)
    ]


def generate_slices(split: str, mix: Mix, seed: int, count: int) -> list[list[dict[str, Any]]]:
    """`count` disjoint slices of `mix` each, one per iteration. With a larger `count` the first
    slices stay the same."""
    seen: set[str] = set()
    return [generate(split, mix, keyed_seed_of(seed, i), seen=seen) for i in range(count)]


def keyed_seed_of(seed: int, index: int) -> int:
    """The seed of slice `index`; slice 0 has `seed` itself."""
    return seed if index == 0 else keyed_rng("embedded", "slice", seed, index).getrandbits(62)
