r"""Parse a row of a data set: its question, reference answer, images, and its other fields.

Values are read as their authors meant them. The last user turn of a chat is the question, below the
turns before it. Marks such
as `<image>` are removed, because the images come before the question. Options are written below
the question. Of a worked answer (`#### 42`, `<answer>42</answer>`, `\boxed{42}`) the final answer
is taken, and the whole is kept as the rationale.
"""

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from si.answers import find, infer
from si.answers.choices import Options, named, several
from si.answers.prose import predicate, sentences
from si.answers.text import fold
from si.datasets.chats import answer_of, images_of, is_chat, question_of
from si.datasets.find import split_names
from si.datasets.row_images import BadRow, find_images
from si.datasets.rows import File
from si.readers.aliases import walk
from si.readers.reading import Row

# `<image>`, `<image1>`, `<image 1>`, and the tokens that chat templates write for an image.
_IMAGE_MARK = re.compile(
    r"[ \t]*(?:<image ?(\d*)>|<\|vision_start\|><\|image_pad\|><\|vision_end\|>|<\|image_pad\|>)"
    r"[ \t]*\n?"
)
_CONTROL_TOKEN = re.compile(r"<\|[a-z_]{2,30}\|>")
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_HASHES = re.compile(r"####\s*(.+?)\s*$")
_LISTED_OPTION = re.compile(r"(?:^|\s)\(?A[.):]\s")
LONGEST_REST = 40  # characters around an answer, above which they are a worked solution


@dataclass(frozen=True, slots=True)
class ParsedRow:
    """What a row holds.

    Attributes:
        kind: the answer's kind, one of `si.answers.KINDS`.
        images: encoded, as they were found.
        split: train, dev or test; None if neither the row nor its file says.
        rationale: a worked solution, or None.
        difficulty: the data set's own grade, 0 to 127; 0 where it has none.
        family: None where the row names none.
        files: (path, stamp) of the files that it names; the stamps are from before they were read.
        choices: the options' texts, in order.
        accepted: further accepted answers.
    """

    question: str
    answer: str
    kind: str
    images: tuple[bytes, ...]
    split: str | None
    rationale: str | None
    difficulty: int
    family: str | None
    files: tuple[tuple[str, str], ...] = ()
    choices: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()


def parse_row(
    row: Row | str,
    file: File,
    columns: Mapping[str, str],
    splits: Mapping[str, str],
    kind: str | None = None,
) -> ParsedRow:
    """What a row holds.

    Args:
        row: from `File.batches`.
        columns: field -> column, from `si.datasets.columns.recognise`.
        splits: name -> split, in addition to `SPLIT_NAMES`.
        kind: the answer's kind; inferred if None.

    Raises:
        BadRow: if the row cannot be used.
    """
    if isinstance(row, str):
        raise BadRow("line", row)
    values = {name: _value(row, column, file) for name, column in columns.items()}
    images = find_images(_shown(values["images"]), file)
    question = _question(values["question"], values.get("context"), len(images))
    options = [
        _IMAGE_MARK.sub(_numbered, text).strip() for text in options_of(values.get("choices"))
    ]
    given, *others = _several_answers(values["answer"], options)
    answer, worked = _answer(given, options)
    accepted = tuple(each for each, _ in (_answer(one, options) for one in others))
    inferred = "choice"
    if options:
        answer = _letter(answer, options)
        inferred = "choices" if len(answer) > 1 else "choice"
        if not _LISTED_OPTION.search(question):
            lines = (f"{chr(65 + i)}. {option}" for i, option in enumerate(options))
            question = "\n".join([question, *lines])
    rationale, family = values.get("rationale"), values.get("family")
    return ParsedRow(
        question=question,
        answer=answer,
        kind=kind or (inferred if options else _common_kind(question, answer, *accepted)),
        images=tuple(image.data for image in images),
        split=_split(values.get("split"), splits) or file.split,
        rationale=(_text(rationale, "rationale", joined=True) if rationale else worked) or None,
        difficulty=_grade(values.get("difficulty")),
        family=_text(family, "family")[:60] if family else None,
        files=tuple(image.file for image in images if image.file),
        choices=tuple(options),
        accepted=accepted,
    )


def row_id(row: Row | str, columns: Mapping[str, str], file: File) -> str:
    """The row's own id, cut to 40 characters, for messages; empty if it has none."""
    if isinstance(row, str) or "id" not in columns:
        return ""
    value = _value(row, columns["id"], file)
    return str(value)[:40] if isinstance(value, str | int) else ""


def _common_kind(question: str, *answers: str) -> str:
    """The kind of several accepted answers; `text`, which stands for any, if they have several."""
    kinds = {answer_kind(question, answer) for answer in answers}
    return kinds.pop() if len(kinds) == 1 else "text"


def answer_kind(question: str, answer: str) -> str:
    """The kind of an answer, as the verifier infers it; a letter is a choice only if the question
    lists options."""
    kind = infer(answer)
    letters = kind in ("choice", "choices")
    return "text" if letters and not _LISTED_OPTION.search(question) else kind


# --- values ----------------------------------------------------------------------------------


def _value(row: Row, column: str, file: File) -> Any:
    """A column's value; `a.b` leads into a struct, `a+b` lists the values of both.

    Of a `ClassLabel` column it is the name of the class.
    """
    if "+" in column and column not in row:
        values = [_value(row, part, file) for part in column.split("+")]
        return [value for value in values if value not in (None, "")]
    if column in row or "." not in column:
        value = row.get(column)
        names = file.classes.get(column)
        if names and isinstance(value, int) and 0 <= value < len(names):
            return names[value]
        return value
    return walk(row, column.split("."))


def _numbered(mark: re.Match[str]) -> str:
    """A mark of an image in an option, where its number is all that it says."""
    return f" (image {mark[1] or 1}) "


def _shown(value: Any) -> Any:
    """The images of a row; where a conversation has them in its turns, all of those."""
    return images_of(value) if is_chat(value) else value


def _text(value: Any, field: str, joined: bool = False) -> str:
    """A value as stripped text.

    Args:
        joined: join a list's values with line breaks; otherwise they have to be equal.
    """
    if isinstance(value, list | tuple):
        texts = [_text(each, field, joined) for each in value if each is not None]
        if joined:
            return "\n".join(texts)
        if len(set(texts)) > 1:
            listed = ", ".join(map(repr, texts[:3]))
            raise BadRow(field, f"several {field}s: {listed}; take one: --map {field}=COLUMN.0")
        value = texts[0] if texts else ""
    if isinstance(value, dict):
        raise BadRow(field, f"a struct of {', '.join(map(str, value))[:60]} instead of text")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        value = ""
    text = str(value).strip()
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRow(field, "not valid Unicode") from None
    if not text and not joined:
        raise BadRow(field, f"empty {field}")
    return text


def _question(value: Any, context: Any, images: int) -> str:
    """The question's text, below its context if it has one.

    Args:
        images: how many images the row has.
    """
    text = _text(question_of(value) if is_chat(value) else value, "question")
    marks = _IMAGE_MARK.findall(text)
    # Numbers may skip images, or name one that this row left out: only marks without are counted.
    if marks and (not images or (not any(marks) and len(marks) != images)):
        raise BadRow("question", f"{len(marks)} marks of images, but {images} images")
    text = _without_marks(text, images)
    if context:
        above = _without_marks(_text(context, "context", joined=True), images)
        text = text if not above or above in text else f"{above}\n{text}"
    if not text:
        raise BadRow("question", "empty question")
    control = _CONTROL_TOKEN.search(text)
    if control:
        raise BadRow("question", f"holds the control token {control.group()}")
    return text


def _without_marks(text: str, images: int) -> str:
    """A text without image marks at its ends; those within it become `(image 1)` and so on.

    Args:
        images: how many images the row has: a mark with a number stays where there are several.
    """

    def removable(mark: re.Match[str]) -> bool:
        return not mark[1] or images == 1

    total, before = len(_IMAGE_MARK.findall(text)), 0
    while (match := _IMAGE_MARK.match(text)) and removable(match):
        text, before = text[match.end() :].lstrip(), before + 1
    while (
        (marks := list(_IMAGE_MARK.finditer(text)))
        and not text[marks[-1].end() :].strip()
        and removable(marks[-1])
    ):
        text = text[: marks[-1].start()].rstrip()
    numbers = iter(range(before + 1, total + 1))

    def named(mark: re.Match[str]) -> str:
        place = next(numbers)
        return f" (image {mark[1] or place}) "

    named_text = _IMAGE_MARK.sub(named, text).strip()
    return re.sub(r"(\(image \d+\)) +([,.?!;:])", r"\1\2", named_text)


def _several_answers(value: Any, options: Sequence[str]) -> list[Any]:
    """The accepted answers in a list of them; with options, such a list is one answer."""
    if options or is_chat(value) or not isinstance(value, list | tuple):
        return [value]
    known = [each for each in value if each is not None and each == each]  # without NaN
    if not all(isinstance(each, str | int | float) for each in known):
        return [value]
    texts = [str(each).strip() for each in known]
    return [text for text in dict.fromkeys(texts) if text] or [value]


def _answer(value: Any, options: Sequence[str]) -> tuple[str, str | None]:
    """The final answer, and the whole text if it is a worked solution.

    With options, a number is an option's position, counted from 0; its letter is the answer.
    """
    if options and isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < len(options):
            raise BadRow("answer", f"{value} is not a position in {len(options)} choices")
        return chr(65 + value), None
    if options and isinstance(value, list | tuple) and len(value) > 1:  # several are correct
        return "; ".join(_text(each, "answer") for each in value), None
    spoken = is_chat(value)
    text = _text(answer_of(value) if spoken else value, "answer")
    found = _TAGGED.findall(text)[-1:] or _HASHES.findall(text)[-1:]
    if not found and "\\boxed" in text:
        boxed = find(text)
        found = [boxed.text] if boxed.where == "boxed" and boxed.text else []
    if not found and spoken and (said := find(text).text or _value_said(text)):
        found = [said.rstrip(" .")]
    if not found:
        return text, None
    if not found[0].strip():
        raise BadRow("answer", "empty answer")
    rest = text.replace(found[0], "")
    return found[0].strip(), text if len(rest) > LONGEST_REST else None


def _value_said(turn: str) -> str | None:
    """The number that a turn of one sentence gives: `The area is 12.`; None if it gives none."""
    said = predicate(turn.strip()) if len(sentences(turn)) == 1 else None
    value = (said or "").rstrip(" .")
    return value if value and infer(value) == "number" else None


def options_of(value: Any) -> list[str]:
    """The options' texts, from a list, a struct with `text`, one by letter, or a list as text.

    Raises:
        BadRow: if it is none of these.
    """
    if isinstance(value, str):
        value = value.strip()
        for parse in (json.loads, ast.literal_eval):
            try:
                value = parse(value)
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
        raise BadRow("choices", "not a list of at most 26 choices")
    return [_text(option, "choices") for option in value]


def _letter(answer: str, options: Sequence[str]) -> str:
    """The letter of the option that is the answer; of several, `A, C`."""
    match = re.fullmatch(r"\(?([A-Za-z])[).:]?", answer)
    position = ord(match[1].upper()) - 65 if match else -1
    equal = [i for i, option in enumerate(options) if option == answer]
    if 0 <= position < len(options) and equal in ([], [position]):
        return chr(65 + position)
    if len(equal) == 1 and not 0 <= position < len(options):
        return chr(65 + equal[0])
    if equal:
        raise BadRow("answer", f"{answer!r} may mean several of the choices")
    if answer.isdecimal() and int(answer) < len(options) and not _any_number(options):
        return chr(65 + int(answer))
    alike = [i for i, option in enumerate(options) if fold(option) == fold(answer)]
    if len(alike) == 1:
        return chr(65 + alike[0])
    known = Options(options)
    letters = named(answer, known).letters or several(answer, known).letters
    if alike or not letters:
        raise BadRow("answer", f"{answer[:60]!r} is not one of the {len(options)} choices")
    return ", ".join(letters)


def _any_number(options: Sequence[str]) -> bool:
    """Whether an option's text is a number, so that a number as the answer may be meant as it."""
    return any(infer(option) == "number" for option in options)


def _split(value: Any, splits: Mapping[str, str]) -> str | None:
    if value in (None, ""):
        return None
    names = split_names(splits)
    if str(value).lower() not in names:
        raise BadRow(
            "split", f"{str(value)[:40]!r} is not a known split; assign it: --split {value}=train"
        )
    return names[str(value).lower()]


def _grade(value: Any) -> int:
    """A data set's own grade (4, `Level 4`) as a number from 0 to 127; 0 if it is anything else."""
    if isinstance(value, str):
        digits = re.fullmatch(r"(?:[A-Za-z]+[ -]?)?(\d{1,3})", value.strip())
        value = int(digits[1]) if digits else 0
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and 0 <= value <= 127 else 0
