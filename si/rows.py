"""Anybody's rollouts to training rows, in the layouts that other tools read; or to draws.

The rules are those of `si.strategies`, keyed as in the loop, so that the same rollouts give the
same rows whatever the tool that reads them. Choices are made on numbers; texts pass through a
batch at a time, straight into the file.

Layouts (as documented by their tools):

- trl: `prompt` and `completion`, as messages where the prompt is known as messages
  (conversational prompt-completion), else as text; `images` where there are any
- sharegpt (LLaMA-Factory): `conversations` of `from` and `value`, `images` as paths, an `<image>`
  in the text for each
- verl: `messages` of `role` and `content`, `images`; Parquet (its multi-turn SFT data set)
- jsonl: `query_id`, `step`, `prompt`, `response`, `copy`
"""

import json
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from si.errors import DataError, RecipeError, SiError
from si.metrics import Array
from si.randomness import keyed_rng
from si.records import Draw, Outcome, Trajectory
from si.rollouts import PICTURES, Groups, Rollouts, group, judge
from si.strategies import Strategy, by_name, uses

MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
TURN = pa.struct([("from", pa.string()), ("value", pa.string())])
SUFFIXES = {
    "trl": (".jsonl", ".json", ".parquet"),
    "sharegpt": (".json", ".jsonl"),
    "verl": (".parquet",),
    "jsonl": (".jsonl",),
}
PIECE = 10_000  # rows that are written at a time

Prompt = str | list[dict[str, str]]


@dataclass(frozen=True)
class Rebalanced:
    """What was made of some rollouts.

    Attributes:
        kind: examples or draws.
        rows: how many rows the file or table has.
        samples: how many samples the draws ask for; 0 for examples.
        successes, queries: right samples there are, and how many queries have a row.
        path: where the rows lie; None if they are in `table`.
        notes: what one should know of how it was made.
    """

    strategy: str
    layout: str
    kind: str
    rows: int
    samples: int
    successes: int
    queries: int
    k: int
    threshold: float
    path: str | None = None
    notes: list[str] = field(default_factory=list)
    table: pa.Table | None = None

    def to_json(self) -> dict[str, Any]:
        """All but the table, JSON-serialisable."""
        return {name: value for name, value in asdict(self).items() if name != "table"}


def rebalance(
    rollouts: Rollouts,
    strategy: str,
    layout: str = "trl",
    out: Path | None = None,
    seed: int = 0,
    threshold: float | None = None,
    k: int | None = None,
    force: bool = False,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Rebalanced:
    """Training rows of the examples that a strategy makes; of one that resamples, its draws.

    Args:
        strategy: vanilla, tc, rp, ar, gr, or a composition such as gr+tc.
        layout: trl, sharegpt, verl or jsonl; draws are plain rows in each.
        out: the file to write; None for a table.
        seed: key of the random choices.
        threshold: lowest reward of a success; see `si.rollouts.judge`.
        k: K; by default the most common number of samples of a query in a step.
        force: replace a file that is there.
        settings: of the strategies, as `si.strategies.by_name` takes them.

    Raises:
        RecipeError: for an unknown strategy or layout, or a file name that does not fit it.
        DataError: if the file is there already, or responses are not.
    """
    try:
        rule = by_name(strategy, **(settings or {}))
    except ValueError as error:
        raise RecipeError(str(error)) from error
    resamples = strategy.partition("+")[0] in ("ar", "gr")
    _check(layout, out, resamples, force)
    verdicts = judge(rollouts, threshold)
    groups = group(rollouts, verdicts.right)
    size = k or rollouts.k or groups.k
    notes = list(rollouts.source.notes)
    work = _Work(rollouts, groups, verdicts.right, rule, size, seed)
    queries: set[str] = set()
    samples = 0
    if resamples:
        made = list(work.draws())
        queries, samples = {row["query_id"] for row in made}, sum(row["n"] for row in made)
        rows, schema = iter(made), lambda _: _DRAWS
        if "+" in strategy:
            notes.append(
                f"These are {strategy}'s draws. Add what they bring to the first round, and "
                f"rebalance both with {strategy.partition('+')[2]}."
            )
    else:
        used = work.used()
        if not used.any():
            raise DataError(
                "There is nothing to write: no sample is right",
                f"{verdicts.threshold:g} or more is right ({verdicts.why})",
                "Say from which reward on a response is right: --threshold",
            )
        writer = _Layout(layout, out, rollouts.source.layout.name, notes)
        rows, schema = work.examples(used, writer), writer.schema
        solved = len(np.unique(rollouts.query[used > 0]))
    count, table = _write(rows, schema, out, force)
    return Rebalanced(
        strategy,
        layout,
        "draws" if resamples else "examples",
        count,
        samples,
        int(verdicts.right.sum()),
        len(queries) if resamples else solved,
        size,
        verdicts.threshold,
        str(out) if out else None,
        notes,
        table,
    )


def _check(layout: str, out: Path | None, resamples: bool, force: bool) -> None:
    if layout not in SUFFIXES:
        raise RecipeError(f"unknown layout {layout!r}, known: {', '.join(SUFFIXES)}")
    if out is None:
        return
    fitting = (".jsonl", ".json", ".parquet") if resamples else SUFFIXES[layout]
    if out.suffix not in fitting:
        what = "draws" if resamples else f"the layout {layout}"
        raise RecipeError(
            f"{out} does not fit {what}: its name has to end in {' or '.join(fitting)}"
        )
    if out.exists() and not force:
        raise _there(out)


# --- what the strategy makes ---------------------------------------------------------------


@dataclass
class _Work:
    """One strategy at work on some rollouts."""

    rollouts: Rollouts
    groups: Groups
    right: Array
    rule: Strategy
    k: int
    seed: int

    def used(self) -> Array:
        """How many examples are made of each sample; 0 of wrong ones."""
        rows, _ = self._successes()
        numbers = pa.array(np.arange(len(self.groups.n)))

        def rng(g: Any) -> Random:
            query = self.rollouts.ids[int(self.groups.query[g])].as_py()
            return keyed_rng(self.seed, "rebalance", int(self.groups.step[g]), query)

        used = np.zeros(len(self.right), np.int64)
        used[rows] = uses(self.rule, self.groups.right, numbers, self.k, rng)
        return used

    def examples(self, used: Array, layout: "_Layout") -> Iterator[dict[str, Any]]:
        """Rows in the order of the samples, copies of one side by side."""
        seen = False
        for here, table in self.rollouts.batches(("prompt", "response", "images")):
            seen = seen or "response" in table.column_names
            if not seen:
                raise DataError(
                    f"{self.rollouts.source.files[0]} has no responses",
                    "training rows need them",
                    "Say where they are: --map response=COLUMN",
                )
            mine = used[here]
            chosen = np.flatnonzero(mine)
            for row, times in zip(
                table.take(pa.array(chosen)).to_pylist(), mine[chosen].tolist(), strict=True
            ):
                if row["response"] is None:
                    raise DataError(f"A right sample of {row['query_id']} has no response")
                yield from (layout.row(row, copy) for copy in range(times))

    def draws(self) -> Iterator[dict[str, Any]]:
        """The second round's draws, by step and query."""
        picked: dict[int, int] = {}  # group -> the sample whose steps its draws begin with

        def note(g: int, row: int, source: str) -> Trajectory:
            picked[g] = row
            return Trajectory("", (), (), source)  # has no steps to cut, so plain draws follow

        asking = {int(self.groups.query[g]) for _, g in self._asked(note)}
        prompts, texts = self._texts(asking, set(picked.values()))

        def tell(g: int, row: int, source: str) -> Trajectory:
            text, ids, ends = texts[row]
            return Trajectory(text, ids, ends, source)

        for draw, g in self._asked(tell):
            prefix = ""
            if draw.prefix_ids:
                text, _, ends = texts[picked[g]]
                prefix = text[: ends[len(draw.prefix_ids) - 1]]
            yield {
                "query_id": draw.query_id,
                "step": int(self.groups.step[g]),
                "n": draw.n,
                "prompt": prompts.get(int(self.groups.query[g])),
                "prefix_id": draw.prefix_id,
                "prefix": prefix,
                "source": draw.source,
            }

    def _asked(
        self, trajectory: Callable[[int, int, str], Trajectory]
    ) -> Iterator[tuple[Draw, int]]:
        """The strategy's draws with the groups that they are for, step by step."""
        rows, starts = self._successes()
        groups, earlier = self.groups, _earlier(self.groups)
        for step in np.unique(groups.step).tolist():
            here = np.flatnonzero(groups.step == step)
            ids = self.rollouts.ids.take(pa.array(groups.query[here])).to_pylist()
            group_of = dict(zip(ids, here.tolist(), strict=True))

            def trajectories(
                query_id: str, source: str, group_of: dict[str, int] = group_of
            ) -> list[Callable[[], Trajectory]]:
                g = group_of[query_id]
                mine = [g] if source == "own" else earlier(g) if source == "earlier" else []
                return [
                    partial(trajectory, g, row, source)
                    for one in mine
                    for row in rows[starts[one] : starts[one] + groups.right[one]].tolist()
                ]

            outcomes = map(Outcome, ids, groups.n[here].tolist(), groups.right[here].tolist())
            rng = partial(keyed_rng, self.seed, "resample", step)
            for draw in self.rule.resample(outcomes, trajectories, self.k, rng):
                yield draw, group_of[draw.query_id]

    def _successes(self) -> tuple[Array, Array]:
        """Right samples, group by group in their order, and where each group's begin."""
        rows = np.flatnonzero(self.right)
        rows = rows[np.argsort(self.groups.of[rows], kind="stable")]
        return rows, np.cumsum(self.groups.right) - self.groups.right

    def _texts(
        self, queries: set[int], rows: set[int]
    ) -> tuple[dict[int, str], dict[int, tuple[str, tuple[int, ...], tuple[int, ...]]]]:
        """Prompts of these queries; text, token ids and token ends of these samples. Where the
        file has no ids, each character stands for a token, so that a cut is the same."""
        prompts: dict[int, str] = {}
        texts = {}
        for here, table in self.rollouts.batches(_TEXTS):
            names = table.column_names
            query = self.rollouts.query[here]
            if "prompt" in names:
                for place in np.unique(query, return_index=True)[1].tolist():
                    if int(query[place]) in queries:
                        prompts.setdefault(int(query[place]), table["prompt"][place].as_py())
            for row in sorted(rows.intersection(range(here.start, here.stop))):
                if "response" not in names:
                    break
                text = table["response"][row - here.start].as_py() or ""
                ids, ends = tuple(map(ord, text)), tuple(range(1, len(text) + 1))
                if "token_ids" in names:
                    ids = tuple(table["token_ids"][row - here.start].as_py())
                    ends = tuple(table["token_ends"][row - here.start].as_py())
                texts[row] = (text, ids, ends)
        if rows and not texts:
            raise DataError(
                f"{self.rollouts.source.files[0]} has no responses",
                "gr begins with the steps of right ones",
                "Say where they are (--map response=COLUMN), or take ar.",
            )
        return prompts, texts


_TEXTS = ("prompt", "response", "token_ids", "token_ends")
_DRAWS = pa.schema(
    [
        ("query_id", pa.string()),
        ("step", pa.int64()),
        ("n", pa.int64()),
        ("prompt", pa.string()),
        ("prefix_id", pa.string()),
        ("prefix", pa.string()),
        ("source", pa.string()),
    ]
)


def _earlier(groups: Groups) -> Callable[[int], list[int]]:
    """Looks up the same query's groups in earlier steps, oldest first."""
    order = np.lexsort((groups.step, groups.query))
    before = np.full(len(order), -1, np.int64)
    same = groups.query[order[1:]] == groups.query[order[:-1]]
    before[order[1:][same]] = order[:-1][same]

    def look(g: int) -> list[int]:
        found: list[int] = []
        while before[g] >= 0:
            g = int(before[g])
            found.append(g)
        return found[::-1]

    return look


# --- layouts -------------------------------------------------------------------------------


class _Layout:
    """Turns a sample into a row of one layout.

    Args:
        out: where the rows will lie; images that are bytes go beside a file of JSON.
        notes: hears of what was done to prompts and images.
    """

    def __init__(self, name: str, out: Path | None, source: str, notes: list[str]):
        self.name, self.out, self.source, self.notes = name, out, source, notes
        self.make = {
            "trl": self._trl,
            "sharegpt": self._sharegpt,
            "verl": self._verl,
            "jsonl": self._plain,
        }[name]

    def row(self, sample: Mapping[str, Any], copy: int) -> dict[str, Any]:
        """The row of a sample's copy number `copy`."""
        made = self.make(sample)
        return made | {"copy": copy} if self.name == "jsonl" else made

    def schema(self, first: Mapping[str, Any]) -> pa.Schema:
        """The rows' columns, as the first row has them."""
        kinds: dict[str, pa.DataType] = {"images": PICTURES}
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
        """The whole conversation, with an `<image>` in the user's words for each image."""
        prompt = self._prompt(sample)
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        pictures = sample.get("images") or []
        missing = len(pictures) - sum(turn["content"].count("<image>") for turn in turns)
        if missing > 0:
            last = max((i for i, t in enumerate(turns) if t["role"] == "user"), default=0)
            turns[last] = turns[last] | {"content": "<image>" * missing + turns[last]["content"]}
        return [*turns, {"role": "assistant", "content": sample["response"]}]

    def _prompt(self, sample: Mapping[str, Any]) -> Prompt:
        if sample.get("prompt") is None:
            raise DataError(
                f"{sample['query_id']} has no prompt",
                f"the layout {self.name} needs one",
                "Say where it is: --map prompt=COLUMN",
            )
        stripped = self.source == "verl"
        whole = stripped or self.name in ("sharegpt", "verl")
        # A run of ours knows the question as it was asked, before any chat template.
        if self.source == "si-ctl":
            return [{"role": "user", "content": sample["prompt"]}]
        prompt = conversation(sample["prompt"], stripped, whole)
        if isinstance(prompt, str) and whole:
            self._note("Prompts are not known as messages: each is written as one of the user's.")
        return prompt

    def _images(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        pictures = sample.get("images") or []
        if not pictures:
            return {}
        if self.out is None or self.out.suffix == ".parquet":
            return {"images": pictures}
        folder = self.out.with_name(f"{self.out.stem}-images")
        paths = []
        for picture in pictures:
            if not picture["bytes"]:
                paths.append(picture["path"])
                continue
            kind = "jpg" if picture["bytes"][:2] == b"\xff\xd8" else "png"
            path = folder / f"{sha256(picture['bytes']).hexdigest()[:16]}.{kind}"
            if not path.exists():
                folder.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture["bytes"])
                self._note(f"Images lie in {folder}.")
            paths.append(f"{folder.name}/{path.name}")
        return {"images": paths}

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


_CHATML = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>\n?", re.DOTALL)
_STRIPPED = re.compile(r"(?:system\n(.*?)\n)?user\n(.*)\nassistant\n?", re.DOTALL)


@lru_cache(maxsize=1024)
def conversation(prompt: str, stripped: bool = False, whole: bool = True) -> Prompt:
    """A prompt as messages if it can be told which they are, else as it is.

    Args:
        stripped: the chat template's special tokens were left out when it was written (verl), so
            that `user\\nWhy?\\nassistant\\n` is one message of the user's.
        whole: text with ChatML's tokens is taken apart, too.
    """
    if prompt.startswith("[{"):
        try:
            turns = json.loads(prompt)
        except ValueError:
            return prompt
        if all(isinstance(turn, dict) and "role" in turn for turn in turns):
            return [{"role": str(t["role"]), "content": _said(t.get("content"))} for t in turns]
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


def _said(content: Any) -> str:
    """A message's words; of parts the text, with an `<image>` for each image."""
    if isinstance(content, list):
        return "".join(
            "<image>" if part.get("type") in ("image", "image_url") else part.get("text") or ""
            for part in content
            if isinstance(part, Mapping)
        )
    return "" if content is None else str(content)


# --- files ---------------------------------------------------------------------------------


def _write(
    rows: Iterator[dict[str, Any]],
    schema: Callable[[Mapping[str, Any]], pa.Schema],
    out: Path | None,
    force: bool,
) -> tuple[int, pa.Table | None]:
    """Rows to a file, all of it or none; to a table if there is none."""
    first = next(rows, None)
    columns = schema(first or {})
    pieces = _pieces(rows if first is None else chain([first], rows))
    if out is None:
        tables = [pa.Table.from_pylist(piece, columns) for piece in pieces]
        table = pa.concat_tables(tables) if tables else columns.empty_table()
        return len(table), table
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}")
    try:
        with part.open("wb") as file:
            count = _FILES[out.suffix](pieces, columns, file)
            file.flush()
            os.fsync(file.fileno())
        if force:
            part.replace(out)
        else:
            out.hardlink_to(part)  # fails if it is there by now
    except FileExistsError as error:
        raise _there(out) from error
    except OSError as error:
        raise SiError(f"{out} cannot be written", str(error)) from error
    finally:
        part.unlink(missing_ok=True)
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


def _there(out: Path) -> DataError:
    return DataError(
        f"{out} is there already",
        "nothing was written",
        ("Replace it: --force", "Name another file: --out"),
    )
