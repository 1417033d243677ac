"""Rebalance: training examples from the successes of both rounds, as the strategy reshapes them.

Rollouts are read once, shard by shard. Successes go to buckets on disk by ranges of query ids, so
that each bucket can be sorted in memory and the examples come out sorted, however many there are.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from si.config.recipe import Recipe, TcSettings
from si.datasets.dataset import Dataset
from si.errors import DataError
from si.lookahead import ordered_map
from si.metrics import Array, matthew, pass_rates, step_counts
from si.randomness import keyed_rng
from si.records import EXAMPLES, KEY, LEVELS, outcomes, successes
from si.stages import stage
from si.stages.job import Job, ShardFunction
from si.stages.stage import code_of
from si.store.artifact import Artifact
from si.store.commit import PARQUET, Output
from si.store.keys import canonical
from si.strategies import Strategy, by_name, rule_of, uses

T = TypeVar("T")

BUCKET = 32 << 20  # bytes of rollout files, compressed, whose successes share a bucket
MOST_BUCKETS = 256
HELD = 16  # shards whose successes are held before they are written to their buckets
THREADS = 2  # reading and sorting ahead of what is written
WANTED = [*KEY, "token_ids", "prefix_len", "text"]


class Settings(stage.Settings):
    """What re-balancing reads of the recipe; `strategy` is its reshaping rule."""

    seed: int = 0
    strategy: str = "vanilla"
    tc: TcSettings = TcSettings()

    @classmethod
    def of(cls, recipe: Recipe) -> "Settings":
        rule = rule_of(recipe.strategy, "reshape")
        return cls(seed=recipe.seed, strategy=rule, tc=recipe.tc, code=code_of(rule))


class Params(stage.Params):
    """Iteration, and samples per query in the first round."""

    iteration: int
    k: int


class Facts(stage.Facts):
    """Counts of queries, successes and examples; `tokens` of the examples' responses; `identical`
    is the share of successes whose text is that of another success of their query."""

    queries: int = 0
    solved: int = 0
    successes: int = 0
    examples: int = 0
    tokens: int = 0
    identical: float = 0.0

    def describe(self) -> str:
        return f"{self.examples} examples of {self.solved} solved queries"


def rebalance(job: Job[Settings, Params]) -> ShardFunction:
    """Stage function: rollouts and verdicts of both rounds to examples.parquet, sorted by
    (query, round, prefix, sample, copy), and the Matthew metrics to metrics.json.

    Inputs: data, levels, rollouts-1, verdicts-1 and, after a resampling round, rollouts-2 and
    verdicts-2.

    Raises:
        DataError: if verdicts are not about the rollouts beside them, or a query has no level,
            no place in the data, or no first round.
    """

    def shard(_: int) -> Output:
        settings, params = job.settings, job.params
        strategy = by_name(settings.strategy, tc=settings.tc.model_dump(mode="json"))
        rng = partial(keyed_rng, settings.seed, "rebalance", params.iteration)
        path = job.scratch / "examples.parquet"
        with ThreadPoolExecutor(THREADS) as pool:
            rounds = _rounds(job, pool)
            queries = _queries(job, pa.concat_tables(rounds[0].verdicts))
            tally = _Tally(len(queries.ids))
            work = partial(_examples, queries, strategy, params.k, rng, tally)
            with pq.ParquetWriter(path, EXAMPLES, use_dictionary=KEY, **PARQUET) as file:
                for examples in ordered_map(
                    pool, work, _buckets(job, rounds, queries.ids, pool), THREADS + 1
                ):
                    file.write_table(examples)
        metrics = {
            "successes": matthew(queries.level, *tally.successes),
            "examples": matthew(queries.level, *tally.examples),
            **pass_rates(queries.level, queries.n, queries.k),
        }
        right, used = tally.successes[0], tally.examples[0]
        facts = Facts(
            queries=len(queries.ids),
            solved=int(np.count_nonzero(right)),
            successes=int(right.sum()),
            examples=int(used.sum()),
            tokens=int(tally.examples[1].sum()),
            identical=int(tally.identical.sum()) / max(1, int(right.sum())),
        )
        files: dict[str, Any] = {"examples.parquet": path, "metrics.json": canonical(metrics)}
        return Output(files, facts.examples, facts.identity())

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
    """Figures by query: number, tokens and steps of its successes and of its examples, and how
    many successes say the same as another one."""

    def __init__(self, queries: int):
        self.successes = np.zeros((3, queries), np.int64)
        self.examples = np.zeros((3, queries), np.int64)
        self.identical = np.zeros(queries, np.int64)


class _Round(NamedTuple):
    """Rollouts, and the verdicts on each of their shards."""

    rollouts: Artifact
    verdicts: list[pa.Table]


def _rounds(job: Job[Settings, Params], pool: Executor) -> list[_Round]:
    def table(verdicts: Artifact, shard: int) -> pa.Table:
        return verdicts.table("verdicts.parquet", shard, [*KEY, "correct"])

    return [
        _Round(rollouts, list(pool.map(partial(table, said), range(said.manifest.spec.shards))))
        for rollouts, said in zip(job.inputs("rollouts"), job.inputs("verdicts"), strict=True)
    ]


def _queries(job: Job[Settings, Params], verdicts: pa.Table) -> Queries:
    counted = outcomes(verdicts)
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
    """The successes of queries `start` to `stop`, in the order (round, shard, row), in a file."""

    start: int
    stop: int
    path: Path


def _buckets(
    job: Job[Settings, Params], rounds: list[_Round], ids: pa.Array, pool: Executor
) -> Iterator[Bucket]:
    """All successes, by ranges of query ids."""

    def right(task: tuple[Artifact, int, pa.Table]) -> pa.Table:
        rollouts, shard, verdicts = task
        return successes(rollouts.table("rollouts.parquet", shard, WANTED), verdicts)

    size = sum(blob.size for rollouts, _ in rounds for blob in rollouts.blobs())
    number = min(1 + size // BUCKET, MOST_BUCKETS)
    bounds = [len(ids) * i // number for i in range(number + 1)]
    edges = [ids[bound].as_py() for bound in bounds[1:-1]]
    paths = [job.scratch / f"bucket-{i}" for i in range(number)]
    schema = pa.schema([field for field in EXAMPLES if field.name in WANTED])
    files = [pa.ipc.new_stream(path, schema) for path in paths]
    tasks = ((r.rollouts, shard, said) for r in rounds for shard, said in enumerate(r.verdicts))
    held: list[list[pa.Table]] = [[] for _ in files]
    for number, table in enumerate(ordered_map(pool, right, tasks, THREADS + 1), 1):
        cuts = [bisect_left(table["query_id"], edge, key=pa.StringScalar.as_py) for edge in edges]
        for parts, start, stop in zip(held, [0, *cuts], [*cuts, len(table)], strict=True):
            parts.append(table.slice(start, stop - start))
        if number % HELD == 0:
            _write(held, files)
    _write(held, files)
    for start, stop, file, path in zip(bounds, bounds[1:], files, paths, strict=False):
        file.close()
        yield Bucket(start, stop, path)


def _write(held: list[list[pa.Table]], files: Sequence[Any]) -> None:
    """Write what is held for each file, in one piece, and let go of it."""
    for parts, file in zip(held, files, strict=True):
        if parts:
            file.write_table(pa.concat_tables(parts).combine_chunks())
        parts.clear()


def _examples(
    queries: Queries,
    strategy: Strategy,
    k: int,
    rng: Callable[[str], Random],
    tally: _Tally,
    bucket: Bucket,
) -> pa.Table:
    """The examples that the strategy makes of a bucket; figures go to `tally`."""
    with pa.memory_map(str(bucket.path)) as source:
        right = pa.ipc.open_stream(source).read_all().combine_chunks()
    bucket.path.unlink()
    here = slice(bucket.start, bucket.stop)
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
    same = _identical(query, right["text"].combine_chunks())
    tally.identical[here] = np.bincount(query[same], minlength=len(ids))
    made = right.take(rows).append_column("copy", pa.array(copies, pa.int32()))
    return made.select(EXAMPLES.names).cast(EXAMPLES)


def _ranks(used: Array) -> Array:
    """0, 1 ... n-1 for each n in `used`, one after the other."""
    ranks: Array = np.arange(used.sum()) - np.repeat(np.cumsum(used) - used, used)
    return ranks


def _identical(query: Array, texts: pa.Array) -> Array:
    """Rows whose text is the same as another one of their query."""
    rows = _shared(query, pc.binary_length(texts).to_numpy())  # most are told apart by length
    codes = texts.take(rows).dictionary_encode().indices.to_numpy()
    same: Array = rows[_shared(query[rows], codes)]
    return same


def _shared(query: Array, code: Array) -> Array:
    """Rows whose pair of query and code occurs more than once."""
    pairs = query.astype(np.int64) * (int(code.max(initial=0)) + 1) + code
    _, place, times = np.unique(pairs, return_inverse=True, return_counts=True)
    return np.flatnonzero(times[place] > 1)
