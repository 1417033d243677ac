r"""What a foreign row says: its question, reference answer, images, and what else it has.

Columns are recognised by the names that people give them, or by `--map`. What stands in them is
read as its authors meant it: a chat's one user turn is the question, `<image>` marks go (the
images come before the question), options are written below it, and of a worked answer
(`#### 42`, `<answer>42</answer>`, `\boxed{42}`) the final answer is taken and the whole kept as
the rationale.
"""

import ast
import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from si.datasets.rows import SPLIT_NAMES, File, Row, inside, shown, stamp
from si.errors import DataError, RecipeError
from si.stages.verify import extract, normalise, number

# Field -> names of columns, the likeliest first; a column serves one field.
NAMES = {
    "question": ("question", "problem", "query", "prompt", "instruction"),
    "answer": (
        *("answer", "final_answer", "ground_truth", "reward_model.ground_truth", "gt_answer"),
        *("label", "solution"),
    ),
    "images": (
        *("images", "decoded_image", "image", "image_paths", "image_path", "img", "picture"),
        "file_name",
    ),
    "choices": ("choices", "options"),
    "rationale": ("rationale", "solution_steps", "steps", "reasoning", "explanation", "solution"),
    "split": ("split",),
    "id": ("id", "qid", "pid", "question_id", "index"),
    "difficulty": ("difficulty",),
    "family": ("family",),
}
NEEDED = ("question", "answer", "images")
HEAVIEST = 64 << 20  # bytes of one encoded image

_IMAGE = re.compile(
    r"[ \t]*(?:<image>|<\|vision_start\|><\|image_pad\|><\|vision_end\|>|<\|image_pad\|>)[ \t]*\n?"
)
_CONTROL = re.compile(r"<\|[a-z_]{2,30}\|>")
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_HASHES = re.compile(r"####\s*(.+?)\s*$")
_LISTED = re.compile(r"(?:^|\s)\(?A[.):]\s")
_URI = re.compile(r"data:image/[a-z0-9.+-]+;base64,", re.IGNORECASE)


class BadRow(Exception):
    """A row that cannot be used: the field that is at fault, and why."""

    def __init__(self, field: str, why: str):
        super().__init__(f"{field}: {why}")
        self.field = field
        self.why = why


@dataclass(frozen=True, slots=True)
class Told:
    """What a row says, its images still as they were found; `files` are those that it names, with
    the stamps that they had before they were read."""

    question: str
    answer: str
    kind: str
    images: tuple[bytes, ...]
    split: str | None
    rationale: str | None
    difficulty: int
    family: str | None
    files: tuple[tuple[str, str], ...] = ()


def parse_map(text: str) -> dict[str, str]:
    """`question=problem,images=image_1+image_2` as field -> column; `field=` for none.

    Raises:
        RecipeError: for a field that does not exist.
    """
    found = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, column = (piece.strip() for piece in part.partition("="))
        if name not in NAMES or not equals:
            raise RecipeError(
                f"--map cannot use {part!r}",
                f"fields: {', '.join(NAMES)}",
                "Write FIELD=COLUMN, separated by commas: --map question=problem,answer=solution",
            )
        found[name] = column
    return found


def recognise(file: File, given: Mapping[str, str]) -> dict[str, str]:
    """Field -> column of a file.

    Raises:
        DataError: if a column that is named, or one that is needed, is not there.
    """
    there = file.columns
    lower = {name.lower(): name for name in reversed(there)}
    found = {name: column for name, column in given.items() if column}
    for name, column in found.items():
        missing = [c for c in column.split("+") if c not in there and c.split(".")[0] not in there]
        if missing:
            raise DataError(
                f"{shown(file.name)} has no column {missing[0]!r} for {name}",
                f"columns: {shown(', '.join(there))}",
                f"Name one of them: --map {name}=COLUMN",
            )
    for name, likely in NAMES.items():
        for column in likely:
            known = lower.get(column.split(".")[0])
            if name in given or known is None or known in found.values():
                continue
            found[name] = ".".join([known, *column.split(".")[1:]])
            break
    numbered = sorted(
        (int(match[1]), name) for name in there if (match := re.fullmatch(r"image_?(\d+)", name))
    )
    if numbered and "images" not in found and "images" not in given:
        found["images"] = "+".join(name for _, name in numbered)
    missing = [name for name in NEEDED if name not in found]
    if missing:
        raise DataError(
            f"{shown(file.name)} has no column that is known to hold the {missing[0]}",
            f"columns: {shown(', '.join(there))}\nknown names: {', '.join(NAMES[missing[0]])}",
            f"Say which one it is: --map {missing[0]}=COLUMN",
        )
    return found


def needed(file: File, columns: Mapping[str, str]) -> list[str]:
    """The file's columns that have to be read."""
    named = [part for column in columns.values() for part in column.split("+")]
    return list(dict.fromkeys(n if n in file.columns else n.split(".")[0] for n in named))


def understand(
    row: Row | str,
    file: File,
    columns: Mapping[str, str],
    splits: Mapping[str, str],
    kind: str | None = None,
) -> Told:
    """What a row says.

    Args:
        columns: field -> column, of `recognise`.
        splits: further names of splits.
        kind: the answer's kind; inferred if None.

    Raises:
        BadRow: if it cannot be used.
    """
    if isinstance(row, str):
        raise BadRow("line", row)
    values = {name: _value(row, column, file) for name, column in columns.items()}
    found = _images(values["images"], file)
    images = tuple(data for data, _ in found)
    question = _question(values["question"], len(images))
    options = _options(values.get("choices"))
    raw = values["answer"]
    if options and isinstance(raw, int) and not isinstance(raw, bool):  # an index, from 0
        if not 0 <= raw < len(options):
            raise BadRow("answer", f"{raw} is no index of {len(options)} choices")
        answer, worked = chr(65 + raw), None
    else:
        answer, worked = _answer(_text(raw, "answer"))
    if options:
        answer = _letter(answer, options)
        if not _LISTED.search(question):
            lines = (f"{chr(65 + i)}. {option}" for i, option in enumerate(options))
            question = "\n".join([question, *lines])
    rationale = values.get("rationale")
    steps = _text(rationale, "rationale", joined=True) if rationale else worked
    family = values.get("family")
    return Told(
        question=question,
        answer=answer,
        kind=kind or ("choice" if options else answer_kind(question, answer)),
        images=images,
        split=_split(values.get("split"), splits) or file.split,
        rationale=steps or None,
        difficulty=_grade(values.get("difficulty")),
        family=_text(family, "family")[:60] if family else None,
        files=tuple(named for _, named in found if named),
    )


def label(row: Row | str, columns: Mapping[str, str], file: File) -> str:
    """The row's own id, if it has one that is short enough to show."""
    if isinstance(row, str) or "id" not in columns:
        return ""
    value = _value(row, columns["id"], file)
    return str(value)[:40] if isinstance(value, str | int) else ""


def answer_kind(question: str, answer: str) -> str:
    """number, choice (a letter of options that the question lists) or text, formulas included."""
    plain = normalise(answer)
    if number(plain):
        return "number"
    listed = re.fullmatch(r"\(?[A-J]\)?", plain) and _LISTED.search(question)
    return "choice" if listed else "text"


# -- fields -----------------------------------------------------------------------------------


def _value(row: Row, column: str, file: File) -> Any:
    """A column's value; `a.b` goes into a struct, `a+b` makes a list."""
    if "+" in column and column not in row:
        values = [_value(row, part, file) for part in column.split("+")]
        return [value for value in values if value not in (None, "")]
    if column in row or "." not in column:
        value = row.get(column)
        names = file.classes.get(column)
        if names and isinstance(value, int) and 0 <= value < len(names):
            return names[value]
        return value
    value = row
    for part in column.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _text(value: Any, field: str, joined: bool = False) -> str:
    """A value as text that can be stored; several values only where they may be joined."""
    if isinstance(value, list | tuple):
        texts = [_text(each, field, joined) for each in value if each is not None]
        if joined:
            return "\n".join(texts)
        if len(set(texts)) > 1:
            raise BadRow(field, f"several {field}s: {', '.join(map(repr, texts[:3]))}")
        value = texts[0] if texts else ""
    if isinstance(value, dict):
        raise BadRow(field, f"no text but a struct of {', '.join(map(str, value))[:60]}")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        value = ""
    text = str(value).strip()
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRow(field, "no valid Unicode") from None
    if not text and not joined:
        raise BadRow(field, f"empty {field}")
    return text


def _question(value: Any, images: int) -> str:
    if isinstance(value, list) and any(isinstance(turn, dict) for turn in value):
        turns = [
            turn.get("content", turn.get("value"))
            for turn in value
            if isinstance(turn, dict) and turn.get("role", turn.get("from")) in ("user", "human")
        ]
        if len(turns) != 1:
            raise BadRow("question", f"a chat with {len(turns)} user turns, not one")
        value = turns[0]
        if isinstance(value, list):
            parts = [part.get("text") for part in value if isinstance(part, dict)]
            value = "\n".join(part for part in parts if isinstance(part, str))
    text = _text(value, "question")
    marks = len(_IMAGE.findall(text))
    if marks and marks != images:
        raise BadRow("question", f"{marks} marks of images, but {images} images")
    text = _unmark(text)
    if not text:
        raise BadRow("question", "empty question")
    control = _CONTROL.search(text)
    if control:
        raise BadRow("question", f"holds the control token {control.group()}")
    return text


def _unmark(text: str) -> str:
    """The question without marks of images at its ends; those within say which image it is."""
    total, before = len(_IMAGE.findall(text)), 0
    while match := _IMAGE.match(text):
        text, before = text[match.end() :].lstrip(), before + 1
    while (marks := list(_IMAGE.finditer(text))) and not text[marks[-1].end() :].strip():
        text = text[: marks[-1].start()].rstrip()
    numbers = iter(range(before + 1, total + 1))
    return _IMAGE.sub(lambda _: f" (image {next(numbers)}) ", text).strip()


def _answer(text: str) -> tuple[str, str | None]:
    """The final answer, and the whole text where that is a worked solution."""
    found = _TAGGED.findall(text)[-1:] or _HASHES.findall(text)[-1:]
    if not found and "\\boxed" in text:
        boxed = extract(text)
        found = [boxed.text] if boxed.where == "boxed" and boxed.text else []
    if not found:
        return text, None
    if not found[0].strip():
        raise BadRow("answer", "empty answer")
    rest = text.replace(found[0], "")
    return found[0].strip(), text if len(rest) > 40 else None


def _options(value: Any) -> list[str]:
    """Options as texts: a list, a struct with `text`, or a list written as text."""
    if isinstance(value, str):
        value = value.strip()
        for read in (json.loads, ast.literal_eval):
            try:
                value = read(value)
                break
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    if isinstance(value, dict):
        texts = value.get("text")
        # {"A": "a dog", "B": "a cat"}: options by letter.
        value = texts if isinstance(texts, list) else [v for v in value.values() if v is not None]
    if value in (None, "", []):
        return []
    if not isinstance(value, list) or len(value) > 26:
        raise BadRow("choices", "no list of at most 26 choices")
    return [_text(option, "choices") for option in value]


def _letter(answer: str, options: Sequence[str]) -> str:
    """The option that is the answer, as its letter."""
    match = re.fullmatch(r"\(?([A-Za-z])[).:]?", answer)
    at = ord(match[1].upper()) - 65 if match else -1
    same = [i for i, option in enumerate(options) if option == answer]
    if 0 <= at < len(options) and same in ([], [at]):
        return chr(65 + at)
    if len(same) == 1 and not 0 <= at < len(options):
        return chr(65 + same[0])
    if same:
        raise BadRow("answer", f"{answer!r} may mean several of the choices")
    near = [i for i, option in enumerate(options) if normalise(option) == normalise(answer)]
    spoken = re.match(r"\(?([A-Z])[).:]\s+(.*)", answer, re.DOTALL)  # "B. a dog"
    if spoken and ord(spoken[1]) - 65 < len(options):
        near = near or [ord(spoken[1]) - 65]
    if len(near) != 1:
        raise BadRow("answer", f"{answer[:60]!r} is none of the {len(options)} choices")
    return chr(65 + near[0])


def _split(value: Any, splits: Mapping[str, str]) -> str | None:
    if value in (None, ""):
        return None
    names = SPLIT_NAMES | {name.lower(): split for name, split in splits.items()}
    if str(value).lower() not in names:
        raise BadRow("split", f"{str(value)[:40]!r} is no split; say --split {value}=train")
    return names[str(value).lower()]


def _grade(value: Any) -> int:
    """A data set's own grade as a small number; 0 if it is none."""
    if isinstance(value, str):
        digits = re.fullmatch(r"(?:[A-Za-z]+[ -]?)?(\d{1,3})", value.strip())
        value = int(digits[1]) if digits else 0
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and 0 <= value <= 127 else 0


class Found(NamedTuple):
    """An encoded image, and the file that it came from, if it came from one of its own."""

    data: bytes
    named: tuple[str, str] | None = None


def _images(value: Any, file: File) -> tuple[Found, ...]:
    """The encoded images of a row, as they were found."""
    values = value if isinstance(value, list) else [value]
    images = [_image(each, file) for each in values if each is not None]
    if not images:
        raise BadRow("images", "missing image")
    return tuple(images)


def _image(value: Any, file: File) -> Found:
    if isinstance(value, dict):  # the hub's struct
        value = value.get("bytes") or value.get("path") or value.get("image")
    if isinstance(value, str) and _URI.match(value):
        try:
            value = base64.b64decode(value.partition(",")[2], validate=True)
        except ValueError:
            raise BadRow("images", "undecodable image: its base64 is broken") from None
    if isinstance(value, str) and value:
        return _named(value, file)
    if not isinstance(value, bytes):
        kind = type(value).__name__
        raise BadRow("images", "missing image" if not value else f"a {kind}, not an image")
    if not value:
        raise BadRow("images", "missing image: no bytes")
    if len(value) > HEAVIEST:
        raise BadRow("images", f"image too large: {len(value):,} bytes")
    return Found(value)


def _named(name: str, file: File) -> Found:
    if re.match(r"[a-z][a-z0-9+.-]+://", name):
        raise BadRow("images", f"missing image: {name[:60]!r} is a web address; fetch it first")
    try:
        path = inside(file.root, file.path.parent, name)
        before = stamp(path)
        if path.stat().st_size > HEAVIEST:
            raise BadRow("images", f"image too large: {path.stat().st_size:,} bytes")
        return Found(path.read_bytes(), (str(path), before))
    except DataError as error:
        raise BadRow("images", f"{error.headline}: {error.detail}") from error
    except OSError as error:
        raise BadRow("images", f"missing image: {error.strerror} {name!r}") from error
