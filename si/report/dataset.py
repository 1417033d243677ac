"""Inspect a data set: counts and checks computed from its contents, and a contact sheet.

Queries are compared by content (pixels of the images, question, answer), which is computed from the
stored images: the ids in the data set are not trusted. One part is in memory at a time.
"""

import base64
import hashlib
import io
import os
import textwrap
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from si.datasets.dataset import Dataset
from si.errors import DataError, RecipeError
from si.events import Event
from si.machine.files import check, write_files
from si.records import Query
from si.store.artifact import Artifact
from si.store.port import Store
from si.untrusted import several_lines

SHEET = 24  # queries of a split on a contact sheet
IMAGES = 4  # images of a query on it
SIDE = 240  # longest side of an image on it, in pixels
LONGEST = 600  # characters of a text on it


class Seen(NamedTuple):
    """What was computed from one query.

    Attributes:
        content: its content id.
        images: SHA-256 over each image's pixels.
        sizes: (width, height) of each image, in pixels.
        modes: format and mode of each image, `PNG RGB`.
    """

    content: str
    images: tuple[bytes, ...]
    sizes: tuple[tuple[int, int], ...]
    modes: tuple[str, ...]


@dataclass
class Tally:
    """Counts of one split.

    Attributes:
        grades: (family, difficulty) -> queries.
        questions, answers: length in characters -> queries.
        kinds: kind of the answer -> queries.
        numbers: number of images -> queries.
        sizes, modes: -> images.
        rationales: queries with a rationale.
        contents: content ids; fewer than queries if some repeat.
        images: SHA-256 over the pixels of every image.
    """

    queries: int = 0
    grades: Counter[tuple[str, int]] = field(default_factory=Counter)
    questions: Counter[int] = field(default_factory=Counter)
    answers: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    numbers: Counter[int] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    rationales: int = 0
    contents: set[str] = field(default_factory=set)
    images: set[bytes] = field(default_factory=set)

    def add(self, query: Query, seen: Seen) -> None:
        self.queries += 1
        self.grades[query.family, query.difficulty] += 1
        self.questions[len(query.question)] += 1
        self.answers[len(query.answer)] += 1
        self.kinds[query.answer_kind] += 1
        self.numbers[len(query.images)] += 1
        self.sizes.update(seen.sizes)
        self.modes.update(seen.modes)
        self.rationales += query.rationale is not None
        self.contents.add(seen.content)
        self.images.update(seen.images)

    def facts(self) -> dict[str, Any]:
        """The counts as `inspect` returns them for a split, ready for JSON."""
        by_area = dict(sorted(self.sizes.items(), key=_area))
        sizes = {name: f"{w} x {h}" for name, (w, h) in _range(by_area).items()}
        return {
            "queries": self.queries,
            "by_family_and_difficulty": {
                f"{family} {grade}": count for (family, grade), count in sorted(self.grades.items())
            },
            "answer_kinds": dict(sorted(self.kinds.items())),
            "question_characters": _range(dict(sorted(self.questions.items()))),
            "answer_characters": _range(dict(sorted(self.answers.items()))),
            "images_per_query": {str(n): count for n, count in sorted(self.numbers.items())},
            "image_sizes": sizes,
            "image_modes": dict(sorted(self.modes.items())),
            "rationales": self.rationales,
        }


def inspect(
    store: Store,
    address: str,
    sheet: Path | None = None,
    on_event: Callable[[Event], None] = lambda _: None,
    force: bool = False,
) -> dict[str, Any]:
    """Count a data set's queries, and check by content that its splits are disjoint.

    Args:
        sheet: the file of a contact sheet to write, .html or .png; None for none.
        on_event: receives `inspect` events: `done` queries of `total`.
        force: overwrite an existing contact sheet.

    Returns:
        `address` and `content` (its digest); `splits` (`Tally.facts`); `duplicates`, queries that
        repeat one of their split; `overlaps` and `shared_images`, queries and images that two
        splits have in common; `contradictions`, questions about the same images with different
        answers; `wrong_ids`, queries whose id differs from that of their content.

    Raises:
        DataError: if it has no queries, or an image cannot be decoded.
        RecipeError: if `sheet` has another suffix.
    """
    if sheet is not None and sheet.suffix not in (".html", ".png"):
        raise RecipeError(
            f"A contact sheet cannot be written as {sheet.name}", "", "Name it F.html or F.png."
        )
    if sheet is not None:
        check(sheet, force, "--sheet")
    data = Dataset(Artifact.open(store, address))
    total = data.artifact.manifest.rows
    if not total:
        raise DataError(f"The data set {address} is empty", f"in {store.url}")
    counts = _Counts()
    sampled = _sample_ids(data) if sheet else {}
    samples: dict[str, list[Query]] = defaultdict(list)
    done = 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for split, queries in data.parts():
            for query, seen in zip(queries, pool.map(_look, queries), strict=True):
                counts.add(split, query, seen)
                if query.query_id in sampled.get(split, ()):
                    samples[split].append(query)
            done += len(queries)
            on_event({"event": "inspect", "done": done, "total": total})
    facts = {"address": address, "content": data.artifact.manifest.content, **counts.facts()}
    if sheet:
        draw = _page if sheet.suffix == ".html" else _poster
        write_files({sheet: draw(facts, samples)}, force)
    return facts


@dataclass
class _Counts:
    """Counts over all splits."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    answers: dict[bytes, str] = field(default_factory=dict)  # question and images -> first answer
    contradictions: set[bytes] = field(default_factory=set)
    wrong_ids: int = 0

    def add(self, split: str, query: Query, seen: Seen) -> None:
        self.tallies.setdefault(split, Tally()).add(query, seen)
        self.wrong_ids += query.query_id != seen.content
        asked = hashlib.sha256(b"".join(seen.images) + query.question.encode()).digest()
        if self.answers.setdefault(asked, query.answer) != query.answer:
            self.contradictions.add(asked)

    def facts(self) -> dict[str, Any]:
        """The figures that `inspect` returns."""
        pairs = [
            (f"{one} and {other}", self.tallies[one], self.tallies[other])
            for one, other in combinations(self.tallies, 2)
        ]
        return {
            "splits": {split: tally.facts() for split, tally in self.tallies.items()},
            "duplicates": sum(t.queries - len(t.contents) for t in self.tallies.values()),
            "overlaps": {name: len(one.contents & other.contents) for name, one, other in pairs},
            "shared_images": {name: len(one.images & other.images) for name, one, other in pairs},
            "contradictions": len(self.contradictions),
            "wrong_ids": self.wrong_ids,
        }


def _look(query: Query) -> Seen:
    from si.datasets.images import header, pixels
    from si.embedded.families import content_id

    try:
        headers = [header(image) for image in query.images]
        arrays = [pixels(image) for image in query.images]
    except DataError as error:
        raise DataError(
            f"An image of query {query.query_id} cannot be used",
            f"{error.headline}: {error.detail}",
        ) from error
    return Seen(
        content_id(arrays, query.question, query.answer),
        tuple(hashlib.sha256(repr(a.shape).encode() + a.tobytes()).digest() for a in arrays),
        tuple((array.shape[1], array.shape[0]) for array in arrays),
        tuple(f"{image.format} {image.mode}" for image in headers),
    )


def _area(item: tuple[tuple[int, int], int]) -> tuple[int, tuple[int, int]]:
    (width, height), _ = item
    return width * height, (width, height)


def _range(counts: Mapping[Any, int]) -> dict[str, Any]:
    """`smallest`, `median` and `largest` of values, given value -> count in ascending order."""
    if not counts:
        return {}
    half, values = sum(counts.values()) / 2, list(counts)
    below = 0
    for median in values:
        below += counts[median]
        if below >= half:
            break
    return {"smallest": values[0], "median": median, "largest": values[-1]}


# -- the contact sheet ------------------------------------------------------------------------


def _sample_ids(data: Dataset) -> dict[str, set[str]]:
    """Split -> ids of the queries on the contact sheet, the same ones every time."""
    by_split: dict[str, list[str]] = defaultdict(list)
    ids = data.table(columns=["query_id"])
    for split, query_id in zip(ids["split"].to_pylist(), ids["query_id"].to_pylist(), strict=True):
        by_split[split].append(query_id)
    return {
        split: set(sorted(ids, key=lambda name: hashlib.sha256(name.encode()).digest())[:SHEET])
        for split, ids in by_split.items()
    }


def _lead(facts: dict[str, Any]) -> str:
    counts = [f"{split} {each['queries']:,}" for split, each in facts["splits"].items()]
    return f"Queries: {', '.join(counts)}. Shown: up to {SHEET} per split, chosen by id."


def _page(facts: dict[str, Any], samples: Mapping[str, list[Query]]) -> bytes:
    """The contact sheet as a self-contained HTML file, in UTF-8."""
    from si.datasets.images import thumbnail
    from si.report.templates import render

    def embedded(image: bytes) -> dict[str, Any]:
        small, out = thumbnail(image, SIDE), io.BytesIO()
        small.save(out, "PNG", optimize=True)
        uri = base64.b64encode(out.getvalue()).decode()
        return {"uri": f"data:image/png;base64,{uri}", "width": small.width}

    def entry(query: Query) -> dict[str, Any]:
        return {
            "query_id": query.query_id,
            "family": query.family,
            "kind": query.answer_kind,
            "difficulty": query.difficulty,
            "question": several_lines(query.question, LONGEST),
            "answer": several_lines(query.answer, LONGEST),
            "rationale": several_lines(query.rationale or "", LONGEST),
            "images": [embedded(image) for image in query.images[:IMAGES]],
            "more": max(0, len(query.images) - IMAGES),
        }

    return render(
        "sheet.html",
        title=f"What is in {facts['address']}",
        lead=_lead(facts),
        address=facts["address"],
        content=facts["content"],
        splits=[(split, [entry(query) for query in queries]) for split, queries in samples.items()],
    ).encode()


def _poster(facts: dict[str, Any], samples: Mapping[str, list[Query]]) -> bytes:
    """The contact sheet as one PNG image."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    from si.datasets.images import thumbnail

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    font, large = ImageFont.truetype(file, 13), ImageFont.truetype(file, 20)
    across, gap, text = 6, 16, 110
    wide, high = SIDE + gap, SIDE + text + gap
    cells = [(split, query) for split, queries in samples.items() for query in queries]
    rows = -(-len(cells) // across)
    poster = Image.new("RGB", (across * wide + gap, rows * high + 70), "white")
    pen = ImageDraw.Draw(poster)
    pen.text((gap, 10), several_lines(facts["address"], 80), "black", large)
    pen.text((gap, 40), _lead(facts), "#555555", font)
    for number, (split, query) in enumerate(cells):
        left, top = gap + number % across * wide, 70 + number // across * high
        if query.images:
            small = thumbnail(query.images[0], SIDE)
            poster.paste(small, (left, top + SIDE - small.height))
        more = f", {len(query.images)} images" if len(query.images) > 1 else ""
        pen.text((left, top + SIDE + 4), f"{split}, {query.answer_kind}{more}", "#2563a8", font)
        lines = textwrap.wrap(several_lines(query.question, 300), 34)
        lines = lines if len(lines) <= 3 else [*lines[:2], lines[2][:30] + " ..."]
        lines += [f"= {several_lines(query.answer.splitlines()[0] if query.answer else '', 30)}"]
        for line, words in enumerate(lines, 1):
            pen.text((left, top + SIDE + 4 + 18 * line), words, "black", font)
    out = io.BytesIO()
    poster.save(out, "PNG", optimize=True)
    return out.getvalue()
