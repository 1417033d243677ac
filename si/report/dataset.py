"""Inspect: what is in a data set, proved from its contents, and shown on a contact sheet.

Queries are compared by content (pixels of the images, question, answer), computed anew from the
stored images, not by the ids that the data set claims. One part is in memory at a time.
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

SHEET = 24  # queries of a split on a contact sheet
IMAGES = 4  # images of a query on it
SIDE = 240  # pixels of a picture on it
LONGEST = 600  # characters of a text on it


class Seen(NamedTuple):
    """What looking at one query found."""

    content: str
    images: tuple[bytes, ...]  # digests of their pixels
    sizes: tuple[tuple[int, int], ...]
    modes: tuple[str, ...]


@dataclass
class Tally:
    """Counts of one split."""

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
    """Count a data set's queries, and prove that its splits are disjoint by content.

    Args:
        sheet: also write a contact sheet there, as .html or .png.
        on_event: hears of `inspect`: `done` queries of `total`.

    Returns:
        `splits`, `duplicates` (within a split), `overlaps` (between splits),
        `shared_images` (pictures that splits have in common), `contradictions` (questions about
        the same pictures with several answers), `wrong_ids` (queries whose id is not their
        content's), `content`.

    Raises:
        DataError: if it holds no queries, or an image that cannot be decoded.
    """
    if sheet is not None and sheet.suffix not in (".html", ".png"):
        raise RecipeError(f"A contact sheet is no {sheet.name}", "", "Name it F.html or F.png")
    if sheet is not None:
        check(sheet, force, "--sheet")
    data = Dataset(Artifact.open(store, address))
    total = data.artifact.manifest.rows
    if not total:
        raise DataError(f"The data set {address} is empty", f"in {store.url}")
    tallies: dict[str, Tally] = {}
    answers: dict[bytes, str] = {}
    contradictions: set[bytes] = set()
    wrong = done = 0
    chosen = _chosen(data) if sheet else {}
    shown: dict[str, list[Query]] = defaultdict(list)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for split, queries in data.parts():
            tally = tallies.setdefault(split, Tally())
            for query, seen in zip(queries, pool.map(_look, queries), strict=True):
                tally.add(query, seen)
                wrong += query.query_id != seen.content
                asked = hashlib.sha256(b"".join(seen.images) + query.question.encode()).digest()
                if answers.setdefault(asked, query.answer) != query.answer:
                    contradictions.add(asked)
                if query.query_id in chosen.get(split, ()):
                    shown[split].append(query)
            done += len(queries)
            on_event({"event": "inspect", "done": done, "total": total})
    pairs = list(combinations(tallies, 2))
    facts = {
        "address": address,
        "content": data.artifact.manifest.content,
        "splits": {split: tally.facts() for split, tally in tallies.items()},
        "duplicates": sum(tally.queries - len(tally.contents) for tally in tallies.values()),
        "overlaps": {
            f"{one} and {other}": len(tallies[one].contents & tallies[other].contents)
            for one, other in pairs
        },
        "shared_images": {
            f"{one} and {other}": len(tallies[one].images & tallies[other].images)
            for one, other in pairs
        },
        "contradictions": len(contradictions),
        "wrong_ids": wrong,
    }
    if sheet:
        draw = _page if sheet.suffix == ".html" else _poster
        write_files({sheet: draw(facts, shown)}, force)
    return facts


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
    """Smallest, median and largest of values that are counted in rising order."""
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


def _chosen(data: Dataset) -> dict[str, set[str]]:
    """Ids of the queries to show, of each split: the same ones every time."""
    by_split: dict[str, list[str]] = defaultdict(list)
    ids = data.table(columns=["query_id"])
    for split, query_id in zip(ids["split"].to_pylist(), ids["query_id"].to_pylist(), strict=True):
        by_split[split].append(query_id)
    return {
        split: set(sorted(ids, key=lambda name: hashlib.sha256(name.encode()).digest())[:SHEET])
        for split, ids in by_split.items()
    }


def _short(text: str, longest: int = LONGEST) -> str:
    text = "".join(char if char.isprintable() or char == "\n" else "�" for char in text)
    return text if len(text) <= longest else text[:longest] + " ..."


def _lead(facts: dict[str, Any]) -> str:
    counts = [f"{split} {each['queries']:,}" for split, each in facts["splits"].items()]
    return f"Queries: {', '.join(counts)}. Shown: up to {SHEET} of each split, chosen by id."


def _page(facts: dict[str, Any], shown: Mapping[str, list[Query]]) -> bytes:
    """The sheet as one HTML file that asks nobody for anything."""
    from si.datasets.images import thumbnail
    from si.report.templates import render

    def picture(image: bytes) -> dict[str, Any]:
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
            "question": _short(query.question),
            "answer": _short(query.answer),
            "rationale": _short(query.rationale or ""),
            "images": [picture(image) for image in query.images[:IMAGES]],
            "more": max(0, len(query.images) - IMAGES),
        }

    return render(
        "sheet.html",
        title=f"What is in {facts['address']}",
        lead=_lead(facts),
        address=facts["address"],
        content=facts["content"],
        splits=[(split, [entry(query) for query in queries]) for split, queries in shown.items()],
    ).encode()


def _poster(facts: dict[str, Any], shown: Mapping[str, list[Query]]) -> bytes:
    """The sheet as one picture."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    from si.datasets.images import thumbnail

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    font, large = ImageFont.truetype(file, 13), ImageFont.truetype(file, 20)
    across, gap, text = 6, 16, 110
    wide, high = SIDE + gap, SIDE + text + gap
    cells = [(split, query) for split, queries in shown.items() for query in queries]
    rows = -(-len(cells) // across)
    poster = Image.new("RGB", (across * wide + gap, rows * high + 70), "white")
    pen = ImageDraw.Draw(poster)
    pen.text((gap, 10), _short(facts["address"], 80), "black", large)
    pen.text((gap, 40), _lead(facts), "#555555", font)
    for number, (split, query) in enumerate(cells):
        left, top = gap + number % across * wide, 70 + number // across * high
        if query.images:
            small = thumbnail(query.images[0], SIDE)
            poster.paste(small, (left, top + SIDE - small.height))
        more = f", {len(query.images)} images" if len(query.images) > 1 else ""
        pen.text((left, top + SIDE + 4), f"{split}, {query.answer_kind}{more}", "#2563a8", font)
        lines = textwrap.wrap(_short(query.question, 300), 34)
        lines = lines if len(lines) <= 3 else [*lines[:2], lines[2][:30] + " ..."]
        lines += [f"= {_short(query.answer.splitlines()[0] if query.answer else '', 30)}"]
        for line, words in enumerate(lines, 1):
            pen.text((left, top + SIDE + 4 + 18 * line), words, "black", font)
    out = io.BytesIO()
    poster.save(out, "PNG", optimize=True)
    return out.getvalue()
