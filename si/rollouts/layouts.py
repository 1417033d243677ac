"""Write training rows in the layouts that other tools document.

- trl: `prompt` and `completion`, as messages if the prompt is known as messages (conversational
  prompt-completion), else as text; `images` if there are any
- sharegpt (LLaMA-Factory): `conversations` of `from` and `value`, `images` as paths, and an
  `<image>` in the text for each
- verl: `messages` of `role` and `content`, `images`; Parquet (its multi-turn SFT data set)
- swift (ms-swift): `messages`, `images` as paths
- jsonl: `query_id`, `step`, `prompt`, `response`, `copy`
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from si.errors import DataError
from si.machine.files import output
from si.rollouts.table import IMAGES

MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
TURN = pa.struct([("from", pa.string()), ("value", pa.string())])
SUFFIXES = {
    "trl": (".jsonl", ".json", ".parquet"),
    "sharegpt": (".json", ".jsonl"),
    "verl": (".parquet",),
    "swift": (".jsonl",),
    "jsonl": (".jsonl",),
}
PIECE = 10_000  # rows written at a time

Prompt = str | list[dict[str, str]]


class TrainingRows:
    """Turns samples into rows of one layout.

    Args:
        name: trl, sharegpt, verl, swift or jsonl.
        out: the file for the rows, or None.
        source: name of the layout that the rollouts had, for their prompts.
        notes: is extended by notes for the user on prompts.
        place: what becomes of an image in a row; by default it stays as it is.
    """

    def __init__(
        self,
        name: str,
        out: Path | None,
        source: str,
        notes: list[str],
        place: Callable[[Mapping[str, Any]], Any] = dict,
    ):
        self.name, self.out, self.source, self.notes = name, out, source, notes
        self.place = place
        self.images = False  # whether a row has any
        self.make = {
            "trl": self._trl,
            "sharegpt": self._sharegpt,
            "verl": self._verl,
            "swift": self._verl,
            "jsonl": self._plain,
        }[name]

    def row(self, sample: Mapping[str, Any], copy: int) -> dict[str, Any]:
        """The row of a sample; `copy` numbers the copies of it from 0."""
        made = self.make(sample)
        return made | {"copy": copy} if self.name == "jsonl" else made

    def schema(self, first: Mapping[str, Any]) -> pa.Schema:
        """The schema of all rows, by the columns of the first one."""
        kinds: dict[str, pa.DataType] = {"images": IMAGES}
        for name, value in first.items():
            if isinstance(value, list):
                inner = TURN if value and "from" in value[0] else MESSAGE
                kinds.setdefault(name, pa.list_(inner))
            else:
                kinds.setdefault(name, pa.int64() if isinstance(value, int) else pa.string())
        return pa.schema([(name, kinds[name]) for name in first])

    def _plain(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        wanted = ("query_id", "step", "prompt", "response")
        return {name: sample[name] for name in wanted if name in sample}

    def _trl(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        prompt = self._prompt(sample)
        images = self._images(sample)
        if images:  # TRL puts them before the first user turn by itself
            turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            prompt = [turn | {"content": _unmarked(turn["content"])} for turn in turns]
        if isinstance(prompt, str):
            return {"prompt": prompt, "completion": sample["response"], **images}
        answer = [{"role": "assistant", "content": sample["response"]}]
        return {"prompt": prompt, "completion": answer, **images}

    def _verl(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        return {"messages": self._messages(sample), **self._images(sample)}

    def _sharegpt(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        names = {"user": "human", "assistant": "gpt"}
        turns = [
            {"from": names.get(turn["role"], turn["role"]), "value": turn["content"]}
            for turn in self._messages(sample)
        ]
        return {"conversations": turns, **self._images(sample)}

    def _messages(self, sample: Mapping[str, Any]) -> list[dict[str, str]]:
        """The whole conversation, with an `<image>` in the user's text for each image."""
        prompt = self._prompt(sample)
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        images = sample.get("images") or []
        missing = len(images) - sum(turn["content"].count(MARK) for turn in turns)
        if missing > 0:
            last = max((i for i, t in enumerate(turns) if t["role"] == "user"), default=0)
            turns[last] = turns[last] | {"content": MARK * missing + turns[last]["content"]}
        return [*turns, {"role": "assistant", "content": sample["response"]}]

    def _prompt(self, sample: Mapping[str, Any]) -> Prompt:
        if sample.get("prompt") is None:
            raise DataError(
                f"{sample['query_id']} has no prompt",
                f"the layout {self.name} needs one",
                "Name its column: --map prompt=COLUMN",
            )
        stripped = self.source == "verl"
        whole = stripped or self.name in ("sharegpt", "verl", "swift") or bool(sample.get("images"))
        # A run of si-ctl stores the question itself, without a chat template around it.
        if self.source == "si-ctl":
            return [{"role": "user", "content": sample["prompt"]}]
        prompt = parse_prompt(with_marks(sample["prompt"]), stripped, whole)
        self._check_marks(sample, prompt)
        if isinstance(prompt, str) and whole:
            self._note("Prompts are not in messages: each one becomes a message of the user.")
        return prompt

    def _check_marks(self, sample: Mapping[str, Any], prompt: Prompt) -> None:
        """Refuse a row whose prompt shows more images than it has: training on it fails."""
        texts = [prompt] if isinstance(prompt, str) else [turn["content"] for turn in prompt]
        marks = sum(text.count(MARK) for text in texts)
        images = len(sample.get("images") or [])
        if marks > images:
            raise DataError(
                f"The prompt of {sample['query_id']} shows {marks} image{'s'[: marks - 1]}, "
                f"but its row has {images or 'none'}",
                f"prompt: {' '.join(str(sample['prompt']).split())[:120]!r}",
                "Take the images from the data that were sampled from: --data FILE, or the "
                "address of a data set in the store",
            )

    def _images(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        images = sample.get("images") or []
        self.images = self.images or bool(images)
        return {"images": [self.place(image) for image in images]} if images else {}

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


MARK = "<image>"
# What chat templates write for an image, once or once per patch.
_TOKENS = re.compile(
    r"(?:<\|vision_start\|>)?(?:<\|image_pad\|>)+(?:<\|vision_end\|>)?"
    r"|<img>(?:<IMG_CONTEXT>)*</img>|(?:<IMG_CONTEXT>)+|<image ?\d+>"
)


def with_marks(text: str) -> str:
    """A prompt with an `<image>` for each image, whatever tokens a chat template wrote."""
    return _TOKENS.sub(MARK, text)


def _unmarked(text: str) -> str:
    return text.replace(f"{MARK}\n", "").replace(MARK, "")


_CHATML = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>\n?", re.DOTALL)
_STRIPPED = re.compile(r"(?:system\n(.*?)\n)?user\n(.*)\nassistant\n?", re.DOTALL)


@lru_cache(maxsize=1024)
def parse_prompt(prompt: str, stripped: bool = False, whole: bool = True) -> Prompt:
    """A prompt as messages if it is possible to parse them, else as it is.

    Args:
        stripped: it was written without the special tokens of a chat template (verl), so that
            `user\\nWhy?\\nassistant\\n` is one message of the user.
        whole: parse text with the tokens of ChatML, too.
    """
    if prompt.startswith("[{"):
        try:
            turns = json.loads(prompt)
        except ValueError:
            return prompt
        if all(isinstance(turn, dict) and "role" in turn for turn in turns):
            return [
                {"role": str(t["role"]), "content": _content_text(t.get("content"))} for t in turns
            ]
        return prompt
    if whole and prompt.startswith("<|im_start|>"):
        found = _CHATML.findall(prompt)
        rest = _CHATML.sub("", prompt).strip()
        if found and rest in ("", "<|im_start|>assistant"):
            return [{"role": role, "content": content} for role, content in found]
    one = _STRIPPED.fullmatch(prompt) if stripped else None
    if one and "\nassistant\n" not in one[2]:
        system = [{"role": "system", "content": one[1]}] if one[1] is not None else []
        return [*system, {"role": "user", "content": one[2]}]
    return prompt


def _content_text(content: Any) -> str:
    """The text of a message; of one in parts, with an `<image>` for each image."""
    if isinstance(content, list):
        return "".join(
            "<image>" if part.get("type") in ("image", "image_url") else part.get("text") or ""
            for part in content
            if isinstance(part, Mapping)
        )
    return "" if content is None else str(content)


# --- files ---------------------------------------------------------------------------------


def write(
    rows: Iterator[dict[str, Any]],
    schema: Callable[[Mapping[str, Any]], pa.Schema],
    out: Path | None,
    force: bool,
) -> tuple[int, pa.Table | None]:
    """Write rows into a file, completely or not at all; or into a table in memory.

    Args:
        schema: gives the schema, given the first row.
        out: .parquet, .jsonl or .json; None for a table.
        force: overwrite an existing file.

    Returns:
        The number of rows, and the table if there is no file.
    """
    first = next(rows, None)
    columns = schema(first or {})
    pieces = _pieces(rows if first is None else chain([first], rows))
    if out is None:
        tables = [pa.Table.from_pylist(piece, columns) for piece in pieces]
        table = pa.concat_tables(tables) if tables else columns.empty_table()
        return len(table), table
    with output(out, force) as file:
        count = _FILES[out.suffix](pieces, columns, file)
    return count, None


def _pieces(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while piece := list(islice(rows, PIECE)):
        yield piece


def _parquet(pieces: Iterator[list[dict[str, Any]]], schema: pa.Schema, file: Any) -> int:
    count = 0
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for piece in pieces:
            writer.write_table(pa.Table.from_pylist(piece, schema))
            count += len(piece)
    return count


def _jsonl(pieces: Iterator[list[dict[str, Any]]], _: pa.Schema, file: Any) -> int:
    return _joined(pieces, file, "", "\n", "\n")


def _json(pieces: Iterator[list[dict[str, Any]]], _: pa.Schema, file: Any) -> int:
    return _joined(pieces, file, "[\n", ",\n", "\n]\n")


def _joined(
    pieces: Iterator[list[dict[str, Any]]], file: Any, begin: str, between: str, end: str
) -> int:
    count = 0
    file.write(begin.encode())
    for piece in pieces:
        text = between.join(json.dumps(row, ensure_ascii=False) for row in piece)
        file.write(((between if count else "") + text).encode("utf-8", "replace"))
        count += len(piece)
    file.write((end if count or begin else "").encode())
    return count


_FILES = {".parquet": _parquet, ".jsonl": _jsonl, ".json": _json}
