"""Anybody's rollouts as numbers: a query, a step and a reward for each sample.

`read` keeps some 30 bytes a sample, however long the responses are. Texts are read again, a
batch at a time, by who needs them (`Rollouts.batches`). `judge` tells right from wrong, `group`
puts the samples of a query together.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from si.datasets.dataset import Dataset
from si.errors import DataError
from si.metrics import Array, step_counts
from si.records import KEY, LEVELS
from si.rollouts.recognise import Layout
from si.store.artifact import Artifact
from si.store.keys import Ref, Spec
from si.store.port import Store

NAMED = 5  # bad rows that an error names
PICTURES = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


class Bad(NamedTuple):
    """A row that cannot be used: which field of it, and why. Rows are counted from 1."""

    file: str
    row: int
    field: str
    why: str

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}, {self.field}: {self.why}"


class Source(Protocol):
    """Where rollouts come from, to be scanned as often as is needed."""

    layout: Layout
    files: list[str]
    notes: list[str]
    bad: list[Bad]

    def scan(self, fields: Iterable[str]) -> Iterator[pa.Table]:
        """Batches in a fixed order, bad rows left out: query_id, step, reward, and what is asked
        for (and known) of prompt, response, images, length, lines, token_ids, token_ends."""


@dataclass
class Rollouts:
    """Rollouts as numbers, one entry a sample, in the order of the files.

    Attributes:
        ids: the queries' ids, in the order in which they come.
        query: of each sample, as a position in `ids`.
        step: iteration or training step of each sample; 0 where nothing tells.
        reward: as it was written.
        length: of each response in `unit` (tokens or characters); None if not known.
        lines: of each response, in steps of reasoning (lines that are not blank); None likewise.
        level: of each query, as a position in LEVELS; None if it has to be told from the samples.
        k: K as the run's recipe has it; None for files.
    """

    source: Source
    ids: pa.Array
    query: Array
    step: Array
    reward: Array
    unit: str
    length: Array | None = None
    lines: Array | None = None
    level: Array | None = None
    k: int | None = None

    def batches(self, fields: Iterable[str]) -> Iterator[tuple[slice, pa.Table]]:
        """The texts, batch by batch, each with the samples that it is about."""
        start = 0
        for table in self.source.scan(fields):
            yield slice(start, start + len(table)), table
            start += len(table)


def read(source: Source, skip_bad: bool = False) -> Rollouts:
    """All samples of a source, as numbers.

    Raises:
        DataError: if there is none, or if rows are bad and are not to be skipped.
    """
    codes: dict[str, int] = {}
    parts: dict[str, list[Array]] = {n: [] for n in ("query", "step", "reward", "length", "lines")}
    unit = "characters"
    for table in source.scan(("length", "lines")):
        found = table["query_id"].combine_chunks().dictionary_encode()
        known = [codes.setdefault(name, len(codes)) for name in found.dictionary.to_pylist()]
        parts["query"].append(np.array(known, np.int32)[found.indices.to_numpy()])
        for name in ("step", "reward", "length", "lines"):
            if name in table.column_names:
                parts[name].append(table[name].to_numpy())
        if b"unit" in (table.schema.metadata or {}):
            unit = table.schema.metadata[b"unit"].decode()
    if source.bad and not skip_bad:
        raise refusal(source.bad, "reward=COLUMN")
    if not codes:
        raise DataError(
            f"No rollouts in {', '.join(source.files[:3])}",
            f"{len(source.bad)} rows were skipped" if source.bad else "there is no row",
        )
    whole = {name: np.concatenate(arrays) for name, arrays in parts.items() if arrays}
    rows = len(whole["query"])
    length, lines = (
        whole[n] if len(whole.get(n, ())) == rows else None for n in ("length", "lines")
    )
    ids = pa.array(list(codes), pa.string())
    return Rollouts(
        source, ids, whole["query"], whole["step"], whole["reward"], unit, length, lines
    )


def refusal(bad: Sequence[Bad], mapped: str) -> DataError:
    """The error of rows that cannot be used; `mapped` is how --map could name other columns."""
    lines = [str(one) for one in bad[:NAMED]]
    if len(bad) > NAMED:
        lines.append(f"and {len(bad) - NAMED} more")
    return DataError(
        f"{len(bad)} row{'s' if len(bad) > 1 else ''} cannot be used",
        "\n".join(lines),
        ("Mend them, or leave them out: --skip-bad", f"Is it another column? --map {mapped}"),
    )


# --- what counts ---------------------------------------------------------------------------


class Verdicts(NamedTuple):
    """Which samples are right: reward >= `threshold`, and why that threshold."""

    right: Array
    threshold: float
    why: str


def judge(rollouts: Rollouts, threshold: float | None = None) -> Verdicts:
    """Tell right from wrong by the reward.

    Args:
        threshold: the lowest reward of a success. If not given: the higher one of two rewards
            seen (a single one above 0); 1 where more are seen and they reach it.

    Raises:
        DataError: if rewards have more than two values, none of them 1 or more.
    """
    reward = rollouts.reward
    low, high = float(reward.min()), float(reward.max())
    if threshold is not None:
        why = "as given"
    elif not ((reward > low) & (reward < high)).any():
        threshold = high if high > low else min(high, 1.0) if high > 0 else 1.0
        why = "the higher one of the two rewards seen" if high > low else "only one reward is seen"
    elif high >= 1:
        threshold, why = 1.0, f"rewards from {low:g} to {high:g} are seen; --threshold sets another"
    else:
        raise DataError(
            "It cannot be told which rewards are a success",
            f"{rollouts.source.layout.columns['reward']} in {rollouts.source.files[0]} goes from "
            f"{low:g} to {high:g}, in more than two values",
            f"Say from which reward on a response is right: --threshold {high:g}",
        )
    return Verdicts(reward >= threshold, float(threshold), why)


class Groups(NamedTuple):
    """The samples of one query in one step belong together, as columns sorted by (step, query).

    `of` is the group of each sample; `n` and `right` are its samples and right ones.
    """

    step: Array
    query: Array
    n: Array
    right: Array
    of: Array

    @property
    def k(self) -> int:
        """K: the most common number of samples, the larger one of equals."""
        sizes, times = np.unique(self.n, return_counts=True)
        return int(sizes[times == times.max()].max())


def group(rollouts: Rollouts, right: Array) -> Groups:
    """Samples by step and query."""
    steps, number = np.unique(rollouts.step, return_inverse=True)
    width = len(rollouts.ids)
    pairs, of = np.unique(number * width + rollouts.query, return_inverse=True)
    n = np.bincount(of, minlength=len(pairs))
    k = np.bincount(of[right], minlength=len(pairs))
    return Groups(steps[pairs // width], pairs % width, n, k, of)


# --- runs of ours --------------------------------------------------------------------------


class RunSource:
    """First rounds of a run of ours, by iteration: verdicts, and the rollouts beside them.

    A second round's samples are not drawn as the first one's are (they are more where more
    failed, and begin with what is right already), so no rate can be told from them.

    Args:
        store: where the run lies.
        verdicts: (iteration, its verify artefact).
    """

    def __init__(self, store: Store, name: str, verdicts: Sequence[tuple[int, Ref | str]]):
        self.layout = Layout("si-ctl", columns={"query_id": "query_id", "reward": "correct"})
        self.files = [name]
        self.notes: list[str] = []
        self.bad: list[Bad] = []
        self.verdicts = [(t, Artifact.open(store, ref)) for t, ref in verdicts]
        specs = [artifact.manifest.spec for _, artifact in self.verdicts]
        if not specs or any(spec.stage != "verify" for spec in specs):
            raise DataError(
                f"{name} holds no verdicts",
                f"stage {', '.join(spec.stage for spec in specs) or 'none'}",
                "Name a run, or an artefact in pool/verify.",
            )
        self.rollouts = [Artifact.open(store, spec.inputs["rollouts"]) for spec in specs]
        self.data = Dataset(Artifact.open(store, specs[0].inputs["data"]))
        self.k = self.rollouts[0].manifest.spec.params["k"]
        if any(made.manifest.spec.params["round"] == 2 for made in self.rollouts):
            self.notes.append(
                "These are a second round's samples: there are more of queries that failed more, "
                "and some begin with steps that are right. Rates do not say how hard a query is."
            )

    def scan(self, fields: Iterable[str]) -> Iterator[pa.Table]:
        wanted = set(fields)
        questions = {}
        if "prompt" in wanted:
            rows = self.data.table(columns=["query_id", "question"])
            questions = dict(zip(*(c.to_pylist() for c in rows.columns[:2]), strict=True))
        reads = ["token_ids"] if wanted & {"length", "token_ids"} else []
        reads += ["text"] if wanted & {"response", "lines"} else []
        reads += ["token_ends"] if "token_ends" in wanted else []
        for (t, verdicts), rollouts in zip(self.verdicts, self.rollouts, strict=True):
            for shard in range(verdicts.manifest.spec.shards):
                said = verdicts.table("verdicts.parquet", shard, [*KEY, "correct"])
                made = rollouts.table("rollouts.parquet", shard, [*KEY, *reads])
                if not made.select(KEY).equals(said.select(KEY)):
                    raise DataError(f"{verdicts.address} is not about {rollouts.address}")
                columns = {
                    "query_id": said["query_id"].combine_chunks(),
                    "step": pa.array(np.full(len(said), t, np.int64)),
                    "reward": said["correct"].combine_chunks().cast(pa.int8()).cast(pa.float64()),
                }
                columns |= {
                    n: made[n].combine_chunks() for n in ("token_ids", "token_ends") if n in reads
                }
                if "length" in wanted:
                    columns["length"] = pc.list_value_length(made["token_ids"]).cast(pa.int64())
                if "lines" in wanted:
                    columns["lines"] = pa.array(step_counts(made["text"].combine_chunks(), "\n"))
                if "response" in wanted:
                    columns["response"] = made["text"].combine_chunks()
                if "prompt" in wanted:
                    columns["prompt"] = pa.array(
                        [questions[q] for q in said["query_id"].to_pylist()]
                    )
                if "images" in wanted:
                    columns["images"] = self._images(said["query_id"].to_pylist())
                yield pa.table(columns).replace_schema_metadata({"unit": "tokens"})

    def _images(self, ids: Sequence[str]) -> pa.Array:
        found = self.data.images(ids)
        made = {q: [{"bytes": b, "path": None} for b in found.get(q, ())] for q in set(ids)}
        return pa.array([made[q] for q in ids], PICTURES)


def levelled(rollouts: Rollouts, examples: Iterable[Ref], store: Store) -> Rollouts:
    """The same rollouts with the levels that these examples of the run were counted by.

    Raises:
        DataError: if a query has none.
    """
    refs = {Spec.load(store, ref.address).inputs["levels"] for ref in examples}
    if not refs:
        return rollouts
    ordered = sorted(refs, key=lambda ref: ref.address)
    tables = [Artifact.open(store, ref).tables("levels.parquet", _LEVELS) for ref in ordered]
    table = pa.concat_tables(tables)
    rows = pc.index_in(rollouts.ids, table["query_id"].combine_chunks())
    if rows.null_count:
        raise DataError(
            f"{rows.null_count} queries have no level in {ordered[0].address}",
            f"the first is {rollouts.ids.filter(rows.is_null())[0]}",
        )
    names = table["level"].combine_chunks().take(rows)
    return replace(rollouts, level=pc.index_in(names, pa.array(LEVELS)).to_numpy())


_LEVELS = ["query_id", "level"]
