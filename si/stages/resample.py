"""Resample: the second round's draws, as the strategy asks for them."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any

import pyarrow as pa
from pydantic import Field

from si.config.recipe import ArSettings, GrSettings, Recipe
from si.datasets.dataset import Dataset
from si.randomness import keyed_rng
from si.records import DRAWS, KEY, Outcome, Trajectory, outcomes, successes
from si.stages import stage
from si.stages.job import Job, ShardFunction
from si.stages.stage import code_of
from si.store.artifact import Artifact
from si.store.commit import Output
from si.strategies import SOURCES, by_name, rule_of


class Settings(stage.Settings):
    """What resampling reads of the recipe; `strategy` is its resampling rule."""

    seed: int = 0
    strategy: str = "gr"
    ar: ArSettings = ArSettings()
    gr: GrSettings = GrSettings()
    max_new_tokens: int | None = Field(None, alias="sampling.max_new_tokens")

    @classmethod
    def of(cls, recipe: Recipe) -> "Settings":
        rule = rule_of(recipe.strategy, "resample")
        return cls(
            seed=recipe.seed,
            strategy=rule,
            ar=recipe.ar,
            gr=recipe.gr,
            max_new_tokens=recipe.sampling.max_new_tokens,
            code=code_of(rule),
        )


class Params(stage.Params):
    """Iteration, and samples per query in the first round."""

    iteration: int
    k: int


class Facts(stage.Facts):
    """Counts of the second round's draws; `samples_SOURCE` by where a prefix comes from."""

    queries: int = 0
    draws: int = 0
    samples: int = 0
    samples_own: int = 0
    samples_earlier: int = 0
    samples_reference: int = 0
    samples_plain: int = 0

    def describe(self) -> str:
        counts = {source: getattr(self, f"samples_{source}") for source in (*SOURCES, "plain")}
        sources = [f"{count} {source}" for source, count in counts.items() if count]
        return f"{self.samples} more samples asked ({', '.join(sources) or 'none'})"


def resample(job: Job[Settings, Params]) -> ShardFunction:
    """Stage function: first-round verdicts to draws.parquet, sorted by query and prefix.

    Inputs: data, rollouts, verdicts; earlier-rollouts-t and earlier-verdicts-t where every
    iteration has the same queries; policy (its tokenizer.json) where gr may use rationales.
    """

    def shard(_: int) -> Output:
        settings, params = job.settings, job.params
        strategy = by_name(
            settings.strategy,
            ar=settings.ar.model_dump(mode="json"),
            gr=settings.gr.model_dump(mode="json"),
        )
        asked = strategy.resample(
            _outcomes(job.input("verdicts")),
            _Trajectories(job),
            params.k,
            partial(keyed_rng, settings.seed, "resample", params.iteration),
        )
        draws = sorted(asked, key=lambda draw: (draw.query_id, draw.prefix_id))
        columns = [pa.array([getattr(d, f.name) for d in draws], f.type) for f in DRAWS]
        samples = dict.fromkeys((*SOURCES, "plain"), 0)
        for draw in draws:
            samples[draw.source] += draw.n
        facts = Facts(
            queries=len({draw.query_id for draw in draws}),
            draws=len(draws),
            samples=sum(samples.values()),
            **{f"samples_{source}": n for source, n in samples.items()},
        )
        table = pa.table(columns, DRAWS)
        return Output({"draws.parquet": table}, len(draws), facts.identity())

    return shard


def _outcomes(verdicts: Artifact) -> Iterator[Outcome]:
    """Each query's outcome, shard by shard: queries of a shard lie together."""
    for shard in range(verdicts.manifest.spec.shards):
        counted = outcomes(verdicts.table("verdicts.parquet", shard, ["query_id", "correct"]))
        yield from map(Outcome, *(column.to_pylist() for column in counted.columns))


class _Trajectories:
    """Where guided resampling finds trajectories: (query id, source) -> candidates."""

    def __init__(self, job: Job[Settings, Params]):
        self.job = job

    def __call__(self, query_id: str, source: str) -> list[Callable[[], Trajectory]]:
        separator = self.separators[query_id]
        if source == "reference":
            ids = self._rationale(query_id)
            return [partial(self._reference, ids, separator)] if ids else []
        rounds = self.own if source == "own" else self.earlier
        return [
            partial(found.trajectory, row, source, separator)
            for found in rounds
            for row in found.rows(query_id)
        ]

    @cached_property
    def own(self) -> list["_Successes"]:
        return [_Successes(self.job.input("rollouts"), self.job.input("verdicts"))]

    @cached_property
    def earlier(self) -> list["_Successes"]:
        rollouts, verdicts = (self.job.inputs(f"earlier-{s}") for s in ("rollouts", "verdicts"))
        return [_Successes(r, v) for r, v in zip(rollouts, verdicts, strict=True)]

    @cached_property
    def queries(self) -> pa.Table:
        return Dataset(self.job.input("data")).table(columns=["query_id", "family", "rationale"])

    @cached_property
    def separators(self) -> dict[str, str]:
        """Query id -> what ends a step in its family."""
        declared = Dataset(self.job.input("data")).separators()
        ids, families = (self.queries[name].to_pylist() for name in ("query_id", "family"))
        return {q: declared.get(family, "\n") for q, family in zip(ids, families, strict=True)}

    @cached_property
    def rationales(self) -> dict[str, str]:
        ids, texts = (self.queries[name].to_pylist() for name in ("query_id", "rationale"))
        return {query_id: text for query_id, text in zip(ids, texts, strict=True) if text}

    @cached_property
    def tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        return Tokenizer.from_str(self.job.input("policy").read("tokenizer.json").decode())

    def _rationale(self, query_id: str) -> list[int]:
        """The rationale's token ids; none if there is none, or if it is longer than a response
        may be (settings may tell), so that its continuation could not end."""
        text = self.rationales.get(query_id, "")
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids if text else []
        limit = self.job.settings.max_new_tokens
        return ids if limit is None or len(ids) <= limit else []

    def _reference(self, ids: list[int], separator: str) -> Trajectory:
        """The rationale as a response of the policy: token ends by what each token adds."""
        from tokenizers.decoders import DecodeStream

        stream = DecodeStream(skip_special_tokens=True)
        text, ends = "", []
        for token in ids:
            text += stream.step(self.tokenizer, token) or ""
            ends.append(len(text))
        return Trajectory(text, tuple(ids), tuple(ends), "reference", separator)


class _Successes:
    """The right rollouts of one exploration, by query.

    One shard is in memory at a time: queries are asked for shard by shard. A row becomes a
    Python object only when it is chosen.
    """

    def __init__(self, rollouts: Artifact, verdicts: Artifact):
        self.rollouts, self.verdicts = rollouts, verdicts
        self.shard_of: dict[str, int] = {}
        for shard in range(verdicts.manifest.spec.shards):
            said = verdicts.table("verdicts.parquet", shard, ["query_id", "correct"])
            solved = said.filter(said["correct"])["query_id"].unique().to_pylist()
            self.shard_of |= dict.fromkeys(solved, shard)
        self._loaded = -1

    def rows(self, query_id: str) -> list[tuple[int, int]]:
        """The query's successes as (shard, row), in order."""
        shard = self.shard_of.get(query_id)
        if shard is None:
            return []
        self._load(shard)
        return [(shard, row) for row in self._rows[query_id]]

    def trajectory(self, place: tuple[int, int], source: str, separator: str) -> Trajectory:
        """A row as a trajectory."""
        shard, row = place
        self._load(shard)
        text, ids, ends = (column[row].as_py() for column in self._columns)
        return Trajectory(text, tuple(ids), tuple(ends), source, separator)

    def _load(self, shard: int) -> None:
        if shard == self._loaded:
            return
        wanted = ["text", "token_ids", "token_ends"]
        right = successes(
            self.rollouts.table("rollouts.parquet", shard, [*KEY, *wanted]),
            self.verdicts.table("verdicts.parquet", shard, [*KEY, "correct"]),
        )
        self._columns = [right[name].combine_chunks() for name in wanted]
        self._rows: dict[str, list[int]] = defaultdict(list)
        for row, query_id in enumerate(right["query_id"].to_pylist()):
            self._rows[query_id].append(row)
        self._loaded = shard
