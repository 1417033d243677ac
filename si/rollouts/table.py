"""Rollouts as numbers: a query, a step and a reward for each sample.

`read` keeps about 30 bytes per sample, however long the responses are. Code that needs texts reads
them again, batch by batch (`Rollouts.batches`). `judge` applies a reward threshold, and `group`
counts the samples of each query.
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
from si.rollouts.known_tools import Layout
from si.store.artifact import Artifact
from si.store.keys import Ref, Spec
from si.store.port import Store

# Rewards of a checker that gives 0.9 for the answer and 0.1 for its format (verl's Geometry3K).
FORMAT_BONUS = {0.0, 0.1, 0.9, 1.0}
LISTED_REWARDS = 12  # rewards that an error lists with their counts
CUTS = 3  # thresholds that it suggests: at the widest gaps between rewards
RARE = 0.02  # share of the responses on one side of a gap, below which it separates nothing
ROUNDING = 1e-6  # of rewards that were written in single precision
NAMED = 5  # bad rows that an error names
IMAGES = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


class Bad(NamedTuple):
    """A row that cannot be used: its number, counted from 1, the field at fault, and why."""

    file: str
    row: int
    field: str
    why: str

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}, {self.field}: {self.why}"


class Source(Protocol):
    """Rollouts that can be scanned several times.

    Attributes:
        layout: how they are written, with the columns that they have.
        files: names of the files, for messages.
        notes: for the user, on how the files are read.
        bad: rows that cannot be used; complete after the first scan.
    """

    layout: Layout
    files: list[str]
    notes: list[str]
    bad: list[Bad]

    def scan(self, fields: Iterable[str]) -> Iterator[pa.Table]:
        """Batches in a fixed order, without bad rows.

        Args:
            fields: which of prompt, response, images, length, lines, token_ids and token_ends to
                read; those that the source lacks are left out.

        Yields:
            Tables with query_id, step, reward and these fields. Their metadata may hold `unit`,
            that of length: tokens or characters.
        """


@dataclass
class Rollouts:
    """Rollouts as numbers, in the order of the files.

    Attributes:
        ids: [queries], ids in the order of their first samples.
        query: [samples], each sample's query as a position in `ids`.
        step: [samples], iteration or training step; 0 where the source has none.
        reward: [samples], as it was written.
        unit: the unit of `length`: tokens or characters.
        length: [samples], length of the response; None if unknown.
        lines: [samples], steps of reasoning: lines that are not blank; None if unknown.
        level: [queries], as a position in LEVELS; None if it has to be estimated from the samples.
        k: K of the run's recipe; None for files.
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
        """Further fields, batch by batch, each with the slice of the samples that it belongs to."""
        start = 0
        for table in self.source.scan(fields):
            yield slice(start, start + len(table)), table
            start += len(table)


def read(source: Source, skip_bad: bool = False) -> Rollouts:
    """All samples of a source as numbers.

    Args:
        skip_bad: leave out bad rows instead of refusing the source.

    Raises:
        DataError: if there are no samples, or bad rows and not `skip_bad`.
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
            f"{len(source.bad)} rows were skipped" if source.bad else "there are no rows",
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
    """The error for bad rows.

    Args:
        mapped: columns to suggest for --map, `reward=COLUMN`.
    """
    lines = [str(one) for one in bad[:NAMED]]
    if len(bad) > NAMED:
        lines.append(f"and {len(bad) - NAMED} more")
    return DataError(
        f"{len(bad)} row{'s' if len(bad) > 1 else ''} cannot be used",
        "\n".join(lines),
        (
            "Fix them, or leave them out: --skip-bad",
            f"If other columns are meant, name them: --map {mapped}",
        ),
    )


# --- counts ----------------------------------------------------------------------------------


class Verdicts(NamedTuple):
    """[samples] whether each is correct: reward >= `threshold`; and why this threshold."""

    right: Array
    threshold: float
    why: str


def judge(rollouts: Rollouts, threshold: float | None = None) -> Verdicts:
    """Decide by a reward threshold which samples are correct.

    Args:
        threshold: the lowest reward of a correct sample. By default the higher of two rewards that
            occur (the only one, if it is above 0); 0.9 for those of `FORMAT_BONUS`.

    Raises:
        DataError: if no default applies, because more than two rewards occur.
    """
    reward = rollouts.reward
    low, high = float(reward.min()), float(reward.max())
    if threshold is not None:
        why = "as given"
    elif not ((reward > low) & (reward < high)).any():
        threshold = high if high > low else min(high, 1.0) if high > 0 else 1.0
        why = "the higher of the two rewards" if high > low else "the only reward"
    else:
        values, counts = np.unique(reward.round(4), return_counts=True)
        if not set(values.tolist()) <= FORMAT_BONUS:
            raise _unclear(rollouts, values, counts)
        threshold, why = 0.9, "0.9 for the answer and 0.1 for its format"
    return Verdicts(reward >= threshold - ROUNDING, float(threshold), why)


def _unclear(rollouts: Rollouts, values: Array, counts: Array) -> DataError:
    """The error that asks for a threshold: the rewards that occur, and what separates them.

    Args:
        values: the rewards that occur, ascending.
        counts: how many samples have each.
    """
    above = (counts.sum() - np.cumsum(counts))[:-1] / counts.sum()
    gaps = np.where((above > RARE) & (above < 1 - RARE), np.diff(values), 0)
    cuts = sorted(np.argsort(-gaps, kind="stable")[:CUTS].tolist(), reverse=True)
    column = rollouts.source.layout.columns["reward"]
    if len(values) <= LISTED_REWARDS:
        seen = ", ".join(
            f"{value:g} ({count:,}x)"
            for value, count in zip(values.tolist(), counts.tolist(), strict=True)
        )
    else:
        quarters = np.quantile(rollouts.reward, (0.25, 0.5, 0.75)).tolist()
        seen = (
            f"{len(values):,} values from {values[0]:g} to {values[-1]:g}, quartiles "
            + ", ".join(f"{value:.3g}" for value in quarters)
        )
    ways = [
        f"--threshold {values[cut + 1]:g} ({100 * above[cut]:.1f} % of the responses are correct)"
        for cut in cuts
    ]
    return DataError(
        "It is unclear which rewards are a success",
        f"{column} in {rollouts.source.files[0]}: {seen}",
        ("Give the lowest reward of a correct response:", *ways),
    )


class Groups(NamedTuple):
    """Groups of samples: those of one query in one step. Groups are sorted by (step, query).

    Attributes:
        step: [groups].
        query: [groups], as a position in `Rollouts.ids`.
        n: [groups], samples.
        right: [groups], correct samples.
        group_of: [samples], the group of each sample.
    """

    step: Array
    query: Array
    n: Array
    right: Array
    group_of: Array

    @property
    def k(self) -> int:
        """K: the most common number of samples in a group; of equally common ones the largest."""
        sizes, times = np.unique(self.n, return_counts=True)
        return int(sizes[times == times.max()].max())


def group(rollouts: Rollouts, right: Array) -> Groups:
    """Group the samples by step and query.

    Args:
        right: [samples], whether each is correct.
    """
    steps, number = np.unique(rollouts.step, return_inverse=True)
    width = len(rollouts.ids)
    pairs, group_of = np.unique(number * width + rollouts.query, return_inverse=True)
    n = np.bincount(group_of, minlength=len(pairs))
    k = np.bincount(group_of[right], minlength=len(pairs))
    return Groups(steps[pairs // width], pairs % width, n, k, group_of)


# --- runs of si-ctl --------------------------------------------------------------------------


class RunSource:
    """The first rounds of a run of si-ctl: verdicts, with their rollouts.

    Second rounds are left out. They have more samples of queries that failed more often, and
    samples that continue correct steps, so that their rates do not measure the queries.

    Args:
        name: names the run in messages.
        verdicts: (iteration, address of its verify artefact).

    Raises:
        DataError: if an artefact is not one of verify.
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
                f"its stages are {', '.join(spec.stage for spec in specs) or 'none'}",
                "Name a run, or an artefact in pool/verify.",
            )
        self.rollouts = [Artifact.open(store, spec.inputs["rollouts"]) for spec in specs]
        self.data = Dataset(Artifact.open(store, specs[0].inputs["data"]))
        self.k = self.rollouts[0].manifest.spec.params["k"]
        if any(each.manifest.spec.params["round"] == 2 for each in self.rollouts):
            self.notes.append(
                "These are samples of a second round: queries that failed more often have more of "
                "them, and some continue correct steps. Their rates do not measure difficulty."
            )

    def scan(self, fields: Iterable[str]) -> Iterator[pa.Table]:
        """One batch per shard, as `Source.scan` says; the steps are iterations."""
        wanted = set(fields)
        questions: dict[str, str] = {}
        if "prompt" in wanted:
            rows = self.data.table(columns=["query_id", "question"])
            questions = dict(zip(*(c.to_pylist() for c in rows.columns[:2]), strict=True))
        reads = ["token_ids"] if wanted & {"length", "token_ids"} else []
        reads += ["text"] if wanted & {"response", "lines"} else []
        reads += ["token_ends"] if "token_ends" in wanted else []
        for (t, verdicts), rollouts in zip(self.verdicts, self.rollouts, strict=True):
            for shard in range(verdicts.manifest.spec.shards):
                judged = verdicts.table("verdicts.parquet", shard, [*KEY, "correct"])
                sampled = rollouts.table("rollouts.parquet", shard, [*KEY, *reads])
                if not sampled.select(KEY).equals(judged.select(KEY)):
                    raise DataError(
                        f"The verdicts {verdicts.address} belong to other samples than the "
                        f"rollouts {rollouts.address}",
                        f"in shard {shard}",
                    )
                columns = self._columns(judged, sampled, wanted, questions)
                columns["step"] = pa.array(np.full(len(judged), t, np.int64))
                yield pa.table(columns).replace_schema_metadata({"unit": "tokens"})

    def _columns(
        self, judged: pa.Table, sampled: pa.Table, wanted: set[str], questions: dict[str, str]
    ) -> dict[str, pa.Array]:
        """The columns of a batch but the step.

        Args:
            questions: query id -> question, if prompts are wanted.
        """
        ids = judged["query_id"].combine_chunks()
        found = {
            "query_id": ids,
            "reward": judged["correct"].combine_chunks().cast(pa.int8()).cast(pa.float64()),
        }
        for name in ("token_ids", "token_ends"):
            if name in sampled.column_names:
                found[name] = sampled[name].combine_chunks()
        if "length" in wanted:
            found["length"] = pc.list_value_length(found["token_ids"]).cast(pa.int64())
        if "lines" in wanted:
            found["lines"] = pa.array(step_counts(sampled["text"].combine_chunks(), "\n"))
        if "response" in wanted:
            found["response"] = sampled["text"].combine_chunks()
        if "prompt" in wanted:
            found["prompt"] = pa.array([questions[q] for q in ids.to_pylist()])
        if "images" in wanted:
            found["images"] = self._images(ids.to_pylist())
        return found

    def _images(self, ids: Sequence[str]) -> pa.Array:
        images = self.data.images(ids)
        cells = {q: [{"bytes": b, "path": None} for b in images.get(q, ())] for q in set(ids)}
        return pa.array([cells[q] for q in ids], IMAGES)


def with_levels(rollouts: Rollouts, examples: Iterable[Ref], store: Store) -> Rollouts:
    """The rollouts with the measured levels of their run.

    Args:
        examples: the run's rebalance artefacts, whose inputs name the levels.

    Raises:
        DataError: if a query has no level.
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
