"""Rebalance: training examples from the successes of both rounds, as the strategy reshapes them.

Rollouts are read once, shard by shard. The right ones go to buckets on disk by ranges of query
ids, so that a bucket can be sorted in memory and the examples come out sorted, however many
there are.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from random import Random
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from si.artifacts import PARQUET, Artifact, Output, canonical
from si.dataset import Dataset
from si.errors import DataError
from si.job import Job, ShardFunction
from si.metrics import Array, matthew, pass_rates, step_counts
from si.randomness import keyed_rng
from si.records import EXAMPLES, KEY, LEVELS, outcomes, successes
from si.strategies import Strategy, by_name

BUCKET = 64 << 20  # bytes of rollout files, compressed, whose successes share a bucket
MOST_BUCKETS = 256
WANTED = [*KEY, "token_ids", "prefix_len", "text"]


def rebalance(job: Job) -> ShardFunction:
    """Stage function: rollouts and verdicts of both rounds to examples.parquet, sorted by
    (query, round, prefix, sample, copy), and the Matthew metrics to metrics.json.

    Settings: seed, strategy (vanilla, tc or rp), tc. Params: iteration, k. Inputs: data,
    levels, rollouts-1, verdicts-1 and, after a resampling round, rollouts-2 and verdicts-2.

    Raises:
        DataError: if verdicts are not about the rollouts beside them, or a query has no level,
            no place in the data, or no first round.
    """

    def shard(_: int) -> Output:
        settings, params = job.settings, job.params
        strategy = by_name(settings["strategy"], tc=settings["tc"])
        rng = partial(keyed_rng, settings["seed"], "rebalance", params["iteration"])
        queries = _queries(job)
        path = job.scratch / "examples.parquet"
        tally = _Tally(len(queries.ids))
        with pq.ParquetWriter(path, EXAMPLES, **PARQUET) as file:
            for bucket in _buckets(job, queries.ids):
                file.write_table(_examples(bucket, queries, strategy, params["k"], rng, tally))
        metrics = {
            "successes": matthew(queries.level, *tally.successes),
            "examples": matthew(queries.level, *tally.examples),
            **pass_rates(queries.level, queries.n, queries.k),
        }
        right, used = tally.successes[0], tally.examples[0]
        facts: dict[str, Any] = {
            "queries": len(queries.ids),
            "solved": int(np.count_nonzero(right)),
            "successes": int(right.sum()),
            "examples": int(used.sum()),
            "tokens": int(tally.examples[1].sum()),
            "identical": tally.identical / max(1, int(right.sum())),
        }
        files: dict[str, Any] = {"examples.parquet": path, "metrics.json": canonical(metrics)}
        return Output(files, facts["examples"], facts)

    return shard


class Queries(NamedTuple):
    """The first round's queries, sorted by id, as columns: what is known of each."""

    ids: pa.Array
    n: Array
    k: Array
    level: Array
    separator: Array
    separators: Sequence[str]


class _Tally:
    """Figures by query (number, tokens, steps) of successes and examples, bucket by bucket."""

    def __init__(self, queries: int):
        self.successes = np.zeros((3, queries), np.int64)
        self.examples = np.zeros((3, queries), np.int64)
        self.identical = 0


def _queries(job: Job) -> Queries:
    columns = ["query_id", "correct"]
    counted = outcomes(job.input("verdicts-1").tables("verdicts.parquet", columns))
    ids = counted["query_id"].combine_chunks()
    data = Dataset(job.input("data"))
    families = _lookup(ids, data.table(columns=["query_id", "family"]), "family", data.artifact)
    kinds = families.unique()
    separators = [data.separators().get(family, "\n") for family in kinds.to_pylist()]
    distinct = sorted(set(separators))
    by_kind = np.array([distinct.index(separator) for separator in separators], np.int8)
    levels = job.input("levels").tables("levels.parquet", ["query_id", "level"])
    names = _lookup(ids, levels, "level", job.input("levels"))
    return Queries(
        ids,
        counted["n"].to_numpy(),
        counted["k"].to_numpy(),
        pc.index_in(names, pa.array(LEVELS)).to_numpy(zero_copy_only=False),
        by_kind[pc.index_in(families, kinds).to_numpy(zero_copy_only=False)],
        distinct,
    )


def _lookup(ids: pa.Array, table: pa.Table, column: str, source: Artifact) -> pa.Array:
    """`column` of the queries in `ids`, in their order."""
    rows = pc.index_in(ids, table["query_id"].combine_chunks())
    if rows.null_count:
        raise DataError(
            f"{rows.null_count} queries have no {column} in {source.address}",
            f"the first is {ids.filter(rows.is_null())[0]}",
        )
    return table[column].take(rows).combine_chunks()


class Bucket(NamedTuple):
    """The successes of queries `start` to `stop`, in the order (round, shard, row)."""

    start: int
    stop: int
    successes: pa.Table


def _buckets(job: Job, ids: pa.Array) -> Iterator[Bucket]:
    """All successes, by ranges of query ids."""
    rounds = list(zip(job.inputs("rollouts"), job.inputs("verdicts"), strict=True))
    size = sum(blob.size for rollouts, _ in rounds for blob in rollouts.blobs())
    number = min(1 + size // BUCKET, MOST_BUCKETS)
    bounds = [len(ids) * i // number for i in range(number + 1)]
    edges = [ids[bound].as_py() for bound in bounds[1:-1]]
    paths = [job.scratch / f"bucket-{i}" for i in range(number)]
    schema = pa.schema([field for field in EXAMPLES if field.name in WANTED])
    files = [pa.ipc.new_stream(path, schema) for path in paths]
    for rollouts, verdicts in rounds:
        for shard in range(rollouts.manifest.spec.shards):
            right = successes(
                rollouts.table("rollouts.parquet", shard, WANTED),
                verdicts.table("verdicts.parquet", shard, [*KEY, "correct"]),
            )
            sorted_ids = right["query_id"]
            cuts = [bisect_left(sorted_ids, edge, key=pa.StringScalar.as_py) for edge in edges]
            for file, start, stop in zip(files, [0, *cuts], [*cuts, len(right)], strict=True):
                file.write_table(right.slice(start, stop - start))
    for start, stop, file, path in zip(bounds, bounds[1:], files, paths, strict=False):
        file.close()
        with pa.memory_map(str(path)) as source:
            yield Bucket(start, stop, pa.ipc.open_stream(source).read_all().combine_chunks())
        path.unlink()


def _examples(
    bucket: Bucket,
    queries: Queries,
    strategy: Strategy,
    k: int,
    rng: Callable[[str], Random],
    tally: _Tally,
) -> pa.Table:
    """The examples that the strategy makes of a bucket; figures go to `tally`."""
    right, here = bucket.successes, slice(bucket.start, bucket.stop)
    ids = queries.ids[here]
    index = pc.index_in(right["query_id"].combine_chunks(), ids)
    if index.null_count:
        raise DataError(
            f"{index.null_count} successes of the second round belong to no query of the first",
            f"the first is {right['query_id'].filter(index.is_null())[0]}",
        )
    query = index.to_numpy()
    # Stable, so that a query's successes stay in the order (round, prefix, sample).
    order = np.argsort(query, kind="stable")
    used = uses(strategy, np.bincount(query, minlength=len(ids)), ids, k, rng)
    rows, copies = np.repeat(order, used), _ranks(used)
    by_row = np.empty_like(used)
    by_row[order] = used
    tokens = pc.list_value_length(right["token_ids"]).to_numpy()
    steps = np.empty_like(used)
    for number, separator in enumerate(queries.separators):
        mine = queries.separator[here][query] == number
        steps[mine] = step_counts(right["text"].filter(mine).combine_chunks(), separator)
    for sums, weight in ((tally.successes, np.ones_like(used)), (tally.examples, by_row)):
        for what, values in enumerate((weight, weight * tokens, weight * steps)):
            sums[what, here] = np.bincount(query, values, minlength=len(ids))
    tally.identical += _identical(query, right["text"].combine_chunks())
    made = right.take(rows).append_column("copy", pa.array(copies, pa.int32()))
    return made.select(EXAMPLES.names).cast(EXAMPLES)


def uses(
    strategy: Strategy, counts: Array, ids: pa.Array, k: int, rng: Callable[[str], Random]
) -> Array:
    """How many examples the strategy makes of each success.

    `strategy.reshape` is asked once for each number of successes; only where it draws at random
    is it asked for every query.

    Args:
        counts: successes of each query; they lie one after another.
        ids: the queries' ids.
        k: K, first-round samples per query.
        rng: makes the generator of a query id.
    """
    starts = np.cumsum(counts) - counts
    used = np.zeros(counts.sum(), np.int64)
    picked: list[int] = []
    for count in np.unique(counts):
        which = np.flatnonzero(counts == count)
        try:
            pattern = strategy.reshape(range(count), k, _refuse)
        except _Choice:
            names = ids.take(which).to_pylist()
            for start, name in zip(starts[which].tolist(), names, strict=True):
                picked += strategy.reshape(range(start, start + count), k, partial(rng, name))
        else:
            used[starts[which][:, None] + np.arange(count)] = _times(pattern, count)
    return used + _times(picked, len(used))


class _Choice(Exception):
    """The strategy draws at random here."""


def _refuse() -> Random:
    raise _Choice


def _times(picked: Sequence[int], n: int) -> Array:
    """How often each of the numbers 0 to n-1 was picked."""
    return np.bincount(np.array(picked, np.int64), minlength=n)


def _ranks(used: Array) -> Array:
    """0, 1 ... n-1 for each n in `used`, one after the other."""
    ranks: Array = np.arange(used.sum()) - np.repeat(np.cumsum(used) - used, used)
    return ranks


def _identical(query: Array, texts: pa.Array) -> int:
    """How many texts are the same as another one of the same query."""
    codes = texts.dictionary_encode()
    pairs = query.astype(np.int64) * len(codes.dictionary) + codes.indices.to_numpy()
    _, times = np.unique(pairs, return_counts=True)
    return int(times[times > 1].sum())
