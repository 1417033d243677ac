"""The images of training rows: where prompts mark them, where they come from, where they go.

Logs of training tools hold no images: `ImageIndex` takes them from the data set that was sampled
from. In files, paths are rewritten so that they hold from where the new file lies.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from si.datasets.columns import parse_map
from si.datasets.dataset import Dataset
from si.datasets.import_source import Reading, Source
from si.datasets.row_images import BadRow
from si.datasets.splits import Splits
from si.errors import DataError
from si.machine.files import create_folder, write_files
from si.rollouts.layouts import MARK, parse_prompt, with_marks
from si.store.artifact import Artifact
from si.store.port import Store

_SPACE = re.compile(r"\s+")

Image = Mapping[str, Any]  # bytes and path, one of which is None


def located(images: list[Image], folder: Path) -> list[dict[str, Any]]:
    """Images whose relative paths start from `folder`, with absolute paths where a file is."""
    return [{"bytes": image["bytes"], "path": _located(image["path"], folder)} for image in images]


def _located(path: str | None, folder: Path) -> str | None:
    if path and (folder / path).is_file():
        return str((folder / path).resolve())
    return path


class ImageWriter:
    """Writes the images of training rows beside a file, and gives their paths.

    Args:
        out: the file with the rows.
        copy: copy files, too, so that the folder can be moved.
    """

    def __init__(self, out: Path, copy: bool):
        self.out, self.copy = out, copy
        self.folder = out.with_name(f"{out.stem}-images")
        self.written = False
        self.missing: set[str] = set()

    def path(self, image: Image) -> str:
        """The path of an image, relative to the file with the rows."""
        data, path = image["bytes"], image["path"]
        if not data:
            if not path or not Path(path).is_file():
                self.missing.add(str(path))
                return str(path)
            if not self.copy:
                return os.path.relpath(path, self.out.parent.resolve())
            data = Path(path).read_bytes()
        kind = "jpg" if data[:2] == b"\xff\xd8" else "png"
        target = self.folder / f"{sha256(data).hexdigest()[:16]}.{kind}"
        if not target.exists():
            create_folder(self.folder)
            write_files({target: data})
            self.written = True
        return f"{self.folder.name}/{target.name}"

    def notes(self) -> list[str]:
        """For the user: where images lie, and which are missing."""
        made = [f"Images lie in {self.folder}."] if self.written else []
        if self.missing:
            made.append(
                f"{len(self.missing)} files of images were not found, and their paths are kept: "
                f"{min(self.missing)}"
            )
        return made

    def embedded(self, image: Image) -> dict[str, Any]:
        """An image with its bytes, for a Parquet file."""
        path = image["path"]
        if image["bytes"] or not path:
            return dict(image)
        if not Path(path).is_file():
            self.missing.add(str(path))
            return dict(image)
        return {"bytes": Path(path).read_bytes(), "path": None}


class Known(NamedTuple):
    """What a data set holds of a query; texts without marks and line breaks."""

    question: str
    answer: str
    images: tuple[bytes, ...]


class ImageIndex:
    """Finds the images of a query in the data set that it was sampled from.

    Args:
        rows: (id, number, question, answer, images) of each query.
        name: names the data set in errors.
    """

    def __init__(self, rows: Iterator[tuple[str, int, str, str, tuple[bytes, ...]]], name: str):
        self.name = name
        self.by_id: dict[str, Known] = {}
        self.by_number: dict[str, Known] = {}
        self.by_question: dict[str, list[Known]] = {}
        for label, number, question, answer, images in rows:
            known = Known(_plain(question), _plain(answer), images)
            if label:
                self.by_id[label] = known
            self.by_number[str(number)] = known
            self.by_question.setdefault(known.question, []).append(known)

    @classmethod
    def open(cls, source: str, store: Store, columns: str = "") -> "ImageIndex":
        """The index of a data set in the store (`data/...`), or of a file or folder.

        Raises:
            DataError: if it cannot be read.
        """
        rows = _stored(store, source) if source.startswith("data/") else _read(source, columns)
        return cls(rows, source)

    def images(self, sample: Mapping[str, Any]) -> tuple[bytes, ...]:
        """The images of a sample's query: by its id, by its number, or by question and answer.

        An id or a number counts only if the prompt holds that query's question, and the answer, if
        it is known, is that query's.

        Args:
            sample: `query_id`, `prompt`, and `answer` if it is known.

        Raises:
            DataError: if no query, or several with different images, are meant.
        """
        name = str(sample["query_id"])
        asked = _plain(_words(sample.get("prompt") or ""))
        answers = _accepted(sample.get("answer"))
        for known in (self.by_id.get(name), self.by_number.get(name)):
            fits = known and (not answers or known.answer in answers)
            if known and fits and known.question in asked:
                return known.images
        found = self.by_question.get(asked) or self._contained(sample.get("prompt") or "")
        same = {each.images for each in found if not answers or each.answer in answers}
        same = same or {each.images for each in found}
        if len(same) == 1:
            return same.pop()
        raise DataError(
            f"{len(same) or 'No'} queries of {self.name} fit the query {name}",
            f"its prompt: {asked[:120]!r}",
            "Map a column with the data set's ids: --map query_id=COLUMN",
        )

    def _contained(self, prompt: str) -> list[Known]:
        """The queries whose question is some of a prompt's lines: templates add others."""
        lines = _words(prompt).split("\n")
        for size in range(len(lines), 0, -1):
            for start in range(len(lines) - size + 1):
                found = self.by_question.get(_plain("\n".join(lines[start : start + size])))
                if found:
                    return found
        return []


def _words(prompt: str) -> str:
    """The user's words in a prompt, without marks and a chat template's tokens."""
    parsed = parse_prompt(prompt, stripped=True)
    if isinstance(parsed, list):
        parsed = "\n".join(turn["content"] for turn in parsed if turn["role"] == "user")
    return with_marks(parsed).replace(MARK, "").strip()


def _accepted(answer: str | None) -> set[str]:
    """The accepted answers in a cell: a text, or a list of texts as JSON; none if unknown."""
    if answer is None:
        return set()
    try:
        found = json.loads(answer) if answer.startswith("[") else answer
    except ValueError:
        found = answer
    return {_plain(str(each)) for each in found} if isinstance(found, list) else {_plain(answer)}


def _plain(text: str) -> str:
    """A text without marks and line breaks, to compare questions and answers by."""
    boxed = re.fullmatch(r"\s*\\boxed\{(.*)\}\s*", text)
    return _SPACE.sub(" ", with_marks(boxed[1] if boxed else text).replace(MARK, "")).strip()


def _stored(store: Store, address: str) -> Iterator[tuple[str, int, str, str, tuple[bytes, ...]]]:
    number = 0
    for _, queries in Dataset(Artifact.open(store, address)).parts():
        for query in queries:
            yield query.query_id, number, query.question, query.answer, query.images
            number += 1


def _read(source: str, columns: str) -> Iterator[tuple[str, int, str, str, tuple[bytes, ...]]]:
    how = Reading(confined=False)
    opened = Source.open(Path(source), parse_map(columns), Splits(), None, source, how)
    number = 0
    for file in opened.files:
        for _, row in opened.read(file, None):
            try:
                parsed = opened.parse(file, row)
            except BadRow:
                number += 1
                continue
            column = opened.columns[file.name].get("id", "")
            label = str(row.get(column) or "") if isinstance(row, dict) and column else ""
            yield label, number, parsed.question, parsed.answer, parsed.images
            number += 1
