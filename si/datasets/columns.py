"""Recognise what the columns of a data set hold, by their names or by `--map`."""

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from string import ascii_uppercase

from si.datasets.chats import answer_of, is_chat
from si.datasets.rows import File
from si.errors import DataError, RecipeError
from si.readers.aliases import dead_end, match_aliases, root
from si.untrusted import one_line

# Field -> names of columns, the likeliest first; a column serves one field.
NAMES: dict[str, tuple[str, ...]] = {
    field: tuple(names.split())
    for field, names in {
        "question": "question problem query prompt instruction problem_text",
        "answer": "answer final_answer ground_truth reward_model.ground_truth gt_answer "
        "answers label solution response output",
        "images": "images decoded_image image image_paths image_path img picture file_name",
        "choices": "choices options",
        "rationale": "rationale solution_steps steps reasoning explanation solution",
        "context": "hint context passage",
        "split": "split",
        "id": "id qid pid question_id index",
        "difficulty": "difficulty",
        "family": "family",
    }.items()
}
# Columns that hold conversations, in which the question, the answer and images may be found.
CHATS = ("messages", "conversations", "conversation", "texts")
NEEDED = ("question", "answer", "images")


def parse_map(text: str) -> dict[str, str]:
    """Field -> column, from the text of `--map`.

    Args:
        text: `question=problem,images=image_1+image_2`; `field=` means that no column has it.

    Raises:
        RecipeError: for a field that does not exist.
    """
    columns = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, column = (piece.strip() for piece in part.partition("="))
        if name not in NAMES or not equals:
            raise RecipeError(
                f"--map cannot use {part!r}",
                f"fields: {', '.join(NAMES)}",
                "Write FIELD=COLUMN, separated by commas: --map question=problem,answer=solution",
            )
        columns[name] = column
    return columns


def recognise(file: File, given: Mapping[str, str]) -> dict[str, str]:
    """Field -> column of a file.

    A column may be written as a path into a struct or a list (`a.b.0`), or as several columns whose
    values are listed (`a+b`), which is how `image_1`, `image_2` ... become one field.

    Args:
        given: from `parse_map`; it overrides what is recognised.

    Raises:
        DataError: if a given column or path does not exist, or no column for a needed field is
            recognised.
    """
    names = file.columns
    found = {field: column for field, column in given.items() if column}
    for field, column in found.items():
        missing = [c for c in column.split("+") if root(c, names) not in names]
        if missing:
            raise DataError(
                f"{one_line(file.name)} has no column {missing[0]!r} for {field}",
                _listed(names),
                f"Name one of them: --map {field}=COLUMN",
            )
        for path in column.split("+"):
            if why := dead_end(file.first, path, names):
                raise DataError(
                    f"{one_line(file.name)}: --map {field}={one_line(path, 100)} leads nowhere",
                    one_line(why, 300),
                )
    wanted = {field: aliases for field, aliases in NAMES.items() if field not in given}
    found = match_aliases(names, wanted, found)
    numbered = sorted(
        (int(match[1]), name) for name in names if (match := re.fullmatch(r"image_?(\d+)", name))
    )
    if numbered and "images" not in found and "images" not in given:
        found["images"] = "+".join(name for _, name in numbered)
    _take_letters(names, given, found)
    _take_chat(file, given, found)
    missing = [field for field in NEEDED if field not in found]
    if missing:
        raise DataError(
            f"{one_line(file.name)} has no column that is known to hold the {missing[0]}",
            f"{_listed(names)}\nknown names: {', '.join(NAMES[missing[0]])}",
            (
                f"Name the column, or a path into it: --map {missing[0]}=COLUMN",
                "Convert rows of other layouts with a function: --rows module:function",
            ),
        )
    return found


def _take_letters(names: Sequence[str], given: Mapping[str, str], found: dict[str, str]) -> None:
    """Take the columns `A`, `B` ... for the choices, as benchmarks in TSV files have them."""
    letters = list(takewhile(lambda letter: letter in names, ascii_uppercase))
    if len(letters) > 1 and "choices" not in found and "choices" not in given:
        found["choices"] = "+".join(letters)


def _take_chat(file: File, given: Mapping[str, str], found: dict[str, str]) -> None:
    """Take a conversation for the question, the answer and the images that no column holds."""
    chat = next((name for name in CHATS if name in file.columns), None)
    if chat is None or not file.first or not is_chat(file.first[0].get(chat)):
        return
    if "question" not in found:
        found["question"] = chat
    if "answer" not in found and any(answer_of(row[chat]) for row in file.first if row.get(chat)):
        found["answer"] = chat
    if "images" not in found and "images" not in given:
        found["images"] = chat


def needed_columns(file: File, columns: Mapping[str, str]) -> list[str]:
    """The columns of a file that have to be read for its fields.

    Args:
        columns: field -> column, from `recognise`.
    """
    paths = [part for column in columns.values() for part in column.split("+")]
    return list(dict.fromkeys(root(path, file.columns) for path in paths))


def _listed(names: Sequence[str]) -> str:
    return f"columns: {one_line(', '.join(names), 300)}"
