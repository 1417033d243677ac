"""Find the files of a data set in a source, and the split that each one stands for."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from si.datasets.rows import Access, File, folder_files
from si.errors import DataError
from si.readers.files import KINDS, kind_by_name, kind_of
from si.readers.json_files import json_tables, json_value
from si.untrusted import one_line

# Files that describe a data set rather than hold it, and files that `datasets` caches beside one.
NOT_ROWS = re.compile(r"(dataset_infos?|dataset_dict|state|config|metadata_schema)\.json|cache-.*")
ORDER = ("arrow", "parquet", "jsonl", "json", "csv")  # the first of these that a folder has is read
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("dev", "development", "val", "valid", "validation", "eval"), "dev"),
    **dict.fromkeys(("test", "testing", "tst", "testmini", "minitest"), "test"),
}


def split_names(given: Mapping[str, str]) -> dict[str, str]:
    """Name in lower case -> split: the usual names, and those of `--split`.

    Args:
        given: name -> split. A name that is a split's own also stands for its other usual names:
            `test=train` holds for `testmini`.
    """
    lower = {name.lower(): split for name, split in given.items()}
    return {name: lower.get(split, split) for name, split in SPLIT_NAMES.items()} | lower


def find_files(
    source: Path,
    splits: Mapping[str, str],
    access: Access | None = None,
    encoding: str = "",
    notes: list[str] | None = None,
) -> list[File]:
    """The files of a source, in a fixed order: the one file, or those that a folder holds.

    From a folder with files of several kinds only those of the first kind are read, in the order
    Arrow, Parquet, JSON lines, JSON, CSV: the others are usually the same rows, or annotations.

    Args:
        source: a file or a folder.
        splits: name -> split, in addition to `SPLIT_NAMES`, for names of files and folders.
        access: which files rows may name; by default those in the source's folder.
        encoding: of texts; see `si.readers.reading.open_text`.
        notes: is extended by what the user should know.

    Raises:
        DataError: if there is nothing to read, or a file is damaged.
    """
    notes = [] if notes is None else notes
    if source.is_file():
        kinds = {source: kind_of(source)}
        if not kinds[source]:
            raise DataError(
                f"{source.name} is not a file of rows",
                f"known: {', '.join(KINDS)}, .zip, also with .gz, and JSON lines under any name",
            )
    elif source.is_dir():
        kinds = _of_first_kind(source, notes)
    else:
        raise DataError(
            f"{source} does not exist",
            "",
            "To import from the Hugging Face hub, name the data set as owner/name.",
        )
    if not kinds:
        raise DataError(
            f"{source} holds no files that can be imported",
            f"looked for {', '.join('*' + suffix for suffix in KINDS)}, also with .gz",
        )
    root = source if source.is_dir() else source.parent
    names = split_names(splits)
    found = []
    for path, kind in kinds.items():
        name = path.relative_to(root).as_posix()
        split = split_of(root, path, names)
        made = File(root, name, kind, split, path, "", encoding, access or Access())
        found.append(made)
    files = [part for file in _folders(found, names) for part in _tables(file, names)]
    return [file if file.rows else replace(file, rows=file.count()) for file in files]


def _of_first_kind(folder: Path, notes: list[str]) -> dict[Path, str]:
    """The files of rows in a folder, with their kind."""
    found = {
        path: kind_by_name(path)
        for path in sorted(folder.rglob("*"))
        if kind_by_name(path)
        and path.is_file()
        and not NOT_ROWS.fullmatch(path.name)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
    kinds = sorted(set(found.values()), key=ORDER.index)
    if not kinds:
        return {}
    paths = [path for path, kind in found.items() if kind == kinds[0]]
    left = [path for path, kind in found.items() if kind != kinds[0]]
    if left:
        shown = ", ".join(path.relative_to(folder).as_posix() for path in left[:3])
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        notes.append(
            f"Only the {kinds[0]} files are read. Left out: {one_line(shown, 200)}{more}. "
            "To import these, name them instead of the folder."
        )
    paths = _saved_files(paths) if kinds[0] == "arrow" else paths
    return {path: kind_of(path) if kinds[0] == "json" else kinds[0] for path in paths}


# --- JSON with several lists, and a folder per problem ---------------------------------------


def _tables(file: File, names: Mapping[str, str]) -> Iterator[File]:
    """A file; of JSON that holds a list for each split, one for each list.

    Raises:
        DataError: if JSON holds several lists, and a key does not name a split.
    """
    if file.kind != "json":
        yield file
        return
    tables = json_tables(json_value(file.path, file.name, file.encoding))
    if len(tables) < 2:
        if not tables:
            raise DataError(
                f"The file {one_line(file.name)} does not hold a list of rows",
                "a list of objects was expected, or an object with a list for each split",
                "Convert rows of other layouts with a function: --rows module:function",
            )
        yield replace(file, rows=len(tables[""]))
        return
    unknown = [key for key in tables if key.lower() not in names]
    if unknown:
        raise DataError(
            f"The file {one_line(file.name)} holds several lists of rows",
            f"lists: {one_line(', '.join(tables), 200)}",
            f"Assign each to a split: --split {unknown[0]}=train",
        )
    for key in tables:
        name, split = f"{file.name} ({key})", names[key.lower()]
        yield replace(file, name=name, key=key, split=split, rows=len(tables[key]))


def _folders(files: Sequence[File], names: Mapping[str, str]) -> list[File]:
    """Files; those of one name that hold an object each, in folders side by side, become one.

    Of several such names in the folders, those with an answer hold the problems.
    """
    groups: dict[tuple[Path, str], list[File]] = {}
    for file in files:
        if file.kind == "json" and file.path.parent != file.root:
            groups.setdefault((file.path.parent.parent, file.path.name), []).append(file)
    single: dict[tuple[Path, str], bool] = {}  # whether the objects have an answer
    for (parent, name), members in groups.items():
        value = json_value(members[0].path, members[0].name, members[0].encoding)
        if isinstance(value, dict) and not json_tables(value):
            single[parent, name] = "answer" in {str(key).lower() for key in value}
    notes = [group for group, answered in single.items() if not answered]
    dropped = {file.path for group in notes for file in groups[group]}
    if all(group in notes for group in single):
        return list(files)  # problems without answers: each file is refused by name
    problems = [group for group, answered in single.items() if answered]
    kept = [f for f in files if f.path not in dropped]
    inside = {path for parent, name in problems for path in folder_files(parent, name)}
    made = []
    for parent, name in problems:
        root, shown = files[0].root, parent.relative_to(files[0].root).as_posix()
        split = split_of(root, parent / name, names)
        title = f"{shown}/*/{name}"
        made.append(
            replace(files[0], name=title, kind="folders", split=split, path=parent, key=name)
        )
    return [f for f in kept if f.path not in inside] + made


# --- splits ----------------------------------------------------------------------------------


def split_of(root: Path, path: Path, names: Mapping[str, str]) -> str | None:
    """The split named by the file, else by the nearest folder, else by the notes of `datasets`.

    Args:
        names: name -> split, in lower case.
    """
    relative = path.relative_to(root)
    for part in (relative.stem, *reversed(relative.parent.parts)):
        whole = part.lower()
        for word in (whole, *re.split(r"[^a-z]+", whole)):
            if word in names:
                return names[word]
    saved = _saved_state(path.parent).get("_split")
    return names.get(saved.lower()) if isinstance(saved, str) else None


def _saved_state(folder: Path) -> dict[str, Any]:
    """The `state.json` that `datasets` writes into a folder it saves; empty where there is none."""
    try:
        state = json.loads((folder / "state.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _saved_files(paths: list[Path]) -> list[Path]:
    """Arrow files, in the order of their folder's `state.json`; those it does not list are left
    out."""
    kept = []
    for folder in dict.fromkeys(path.parent for path in paths):
        here = {path.name: path for path in paths if path.parent == folder}
        listed = _saved_state(folder).get("_data_files")
        if isinstance(listed, list):
            names = [str(entry["filename"]) for entry in listed if "filename" in entry]
            missing = [name for name in names if name not in here]
            if missing:
                raise DataError(
                    f"The data set saved in {one_line(folder.name)} is incomplete",
                    f"its state.json lists {missing[0]!r}, which is missing",
                    "Save or copy the data set again.",
                )
            kept += [here[name] for name in names]
        else:
            kept += here.values()
    return kept
