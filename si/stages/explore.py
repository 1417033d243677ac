"""Explore: sample responses to queries, a shard of queries at a time.

What a shard holds depends on the stage's spec alone: uniform draws of K samples for
the selected queries, or the draws that a resampling stage committed.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from si.config.recipe import Recipe, Sampling
from si.config.section import LATER, Section
from si.datasets.dataset import Dataset
from si.engines.port import Sampler
from si.plugins import load_class
from si.randomness import keyed_seed
from si.records import ROLLOUTS, Draw, Query, Request, Sampled, render_prompt
from si.stages import stage
from si.stages.job import Job, ShardFunction
from si.stages.stage import code_of
from si.store.commit import Output

ENGINES = {
    "transformers": "si.engines.transformers:TransformersSampler",
    "vllm": "si.engines.vllm:VllmSampler",
}
DRAWS_FILE = "draws.parquet"
ROLLOUTS_FILE = "rollouts.parquet"


def shard_draws(draws: Sequence[Draw], shard_queries: int) -> list[list[Draw]]:
    """The draws in shards of `shard_queries` distinct queries each.

    Queries go to shards in the order given, in which a query's draws lie together; a
    shard's own draws are sorted by (query_id, prefix_id), as its rows will be.
    """
    queries = [list(group) for _, group in groupby(draws, key=lambda draw: draw.query_id)]
    return [
        sorted(
            (draw for group in queries[start : start + shard_queries] for draw in group),
            key=lambda draw: (draw.query_id, draw.prefix_id),
        )
        for start in range(0, len(queries), shard_queries)
    ]


class Settings(stage.Settings):
    """What exploration reads of the recipe."""

    seed: int = 0
    sampling: Sampling = Sampling()
    family: Annotated[str, LATER] = Field("auto", alias="model.family")

    @classmethod
    def of(cls, recipe: Recipe) -> "Settings":
        family = recipe.model.family
        return cls(seed=recipe.seed, sampling=recipe.sampling, family=family, code=code_of(family))


class Slice(Section):
    """Queries of a split in the data's own order: rows `start` to `stop`, the latter excluded."""

    split: str
    start: int
    stop: int


class Params(stage.Params):
    """What the loop asks of exploration.

    Attributes:
        iteration: the iteration whose seeds are used; 0 where responses do not depend on it.
        round: 1, 2 for the draws of a resampling stage, 0 for levels and greedy evaluation,
            3 (`EVALUATION`) for sampled evaluation.
        k: samples per query; 0 where draws say how many.
        select: the queries, where there are no draws.
        shard_queries: distinct queries per shard.
        greedy: one response per query at temperature 0.
        temperature: of the samples, where it is not the recipe's `sampling.temperature`.
    """

    iteration: int
    round: int
    k: int
    select: list[Slice]
    shard_queries: int
    greedy: bool
    temperature: Annotated[float | None, LATER] = None


class Facts(stage.Facts):
    """Counts over a stage's shards; `tokens` are sampled ones, `dropped` are unusable samples."""

    queries: int = 0
    samples: int = 0
    tokens: int = 0
    dropped: int = 0

    def describe(self) -> str:
        dropped = f", {self.dropped} dropped" if self.dropped else ""
        return f"{self.samples} samples, {self.tokens} tokens{dropped}"


def explore(job: Job[Settings, Params]) -> ShardFunction:
    """Stage function: a policy and queries, or draws, to rollouts.

    Inputs: data, policy, base, and draws if there are any.
    """
    return Explorer(job)


class Explorer:
    """Does the stage's shards, with one engine, which is loaded for the first of them."""

    def __init__(self, job: Job[Settings, Params]):
        self.job = job
        self.data = Dataset(job.input("data"))
        self.shards = shard_draws(_draws(job, self.data), job.params.shard_queries)
        self.queries = {query.query_id: query for query in self.data.queries(self.data.table())}

    @cached_property
    def sampler(self) -> Sampler:
        return _sampler(self.job)

    def __call__(self, shard: int) -> Output:
        requests = self.requests(shard)
        return self.output(shard, requests, self.sampler.sample(requests))

    def stream(self, shards: Iterator[int]) -> Iterator[tuple[int, Output]]:
        """The shards in turn. An engine that can take the next one's requests while the last
        responses of this one are sampled does so."""
        taken: deque[tuple[int, list[Request]]] = deque()

        def calls() -> Iterator[list[Request]]:
            for shard in shards:
                taken.append((shard, self.requests(shard)))
                yield taken[-1][1]

        for answers in self.sampler.stream(calls()):
            shard, requests = taken.popleft()
            yield shard, self.output(shard, requests, answers)

    def requests(self, shard: int) -> list[Request]:
        """What the engine is asked for a shard, draw by draw."""
        draws = self.shards[shard]
        images = self.data.images(draw.query_id for draw in draws)
        return [
            _request(self.job, draw, self.queries[draw.query_id], images.get(draw.query_id, ()))
            for draw in draws
        ]

    def output(
        self, shard: int, requests: Sequence[Request], answers: Iterable[Sequence[Sampled]]
    ) -> Output:
        """The shard's rollouts."""
        rows = [
            row
            for draw, request, samples in zip(self.shards[shard], requests, answers, strict=True)
            for row in _rows(self.job, self.sampler, draw, request, samples)
        ]
        reasons = [row["finish_reason"] for row in rows]
        facts = Facts(
            queries=len({draw.query_id for draw in self.shards[shard]}),
            samples=len(rows),
            tokens=sum(len(row["token_ids"]) - row["prefix_len"] for row in rows),
            dropped=reasons.count("dropped"),
        )
        table = pa.Table.from_pylist(rows, ROLLOUTS)
        figures = self.sampler.take_figures()
        provenance = {"engine": figures} if figures else {}
        return Output({ROLLOUTS_FILE: table}, len(rows), facts.identity(), provenance)


def _draws(job: Job[Settings, Params], data: Dataset) -> list[Draw]:
    """What to sample, for the whole stage, in the order that shards follow."""
    if job.has("draws"):
        rows = job.input("draws").tables(DRAWS_FILE).to_pylist()
        rows.sort(key=lambda row: (row["query_id"], row["prefix_id"]))
        return [Draw(**{**row, "prefix_ids": tuple(row["prefix_ids"])}) for row in rows]
    k = 1 if job.params.greedy else job.params.k
    selected = data.select([piece.identity() for piece in job.params.select])[
        "query_id"
    ].to_pylist()
    return [Draw(query_id, k) for query_id in selected]


def _sampler(job: Job[Settings, Params]) -> Sampler:
    """The engine with the policy loaded."""
    settings = job.settings.sampling
    temperature = 0.0 if job.params.greedy else job.params.temperature
    if temperature is not None:
        settings = settings.model_copy(update={"temperature": temperature})
    engine = load_class("engine", settings.engine, ENGINES, Sampler)  # type: ignore[type-abstract]
    policy = job.folder("policy")
    # Policy 0 is only needed beneath an adapter; else it is not even fetched.
    adapter = job.input("policy").manifest.facts.get("adapter", False)
    base: Path = job.folder("base") if adapter else policy
    return engine(policy, base, settings, job.settings.family)


def _request(
    job: Job[Settings, Params], draw: Draw, query: Query, images: tuple[bytes, ...]
) -> Request:
    params = job.params
    seeds = tuple(
        keyed_seed(
            job.settings.seed,
            params.iteration,
            params.round,
            draw.query_id,
            draw.prefix_id,
            sample,
        )
        for sample in range(draw.n)
    )
    sampling = job.settings.sampling
    limit = sampling.max_new_tokens - len(draw.prefix_ids)
    question = render_prompt(sampling.prompt_template, query.question)
    return Request(question, images, seeds, draw.prefix_ids, limit)


def _rows(
    job: Job[Settings, Params],
    sampler: Sampler,
    draw: Draw,
    request: Request,
    samples: Sequence[Sampled],
) -> Iterator[Mapping[str, Any]]:
    for number, (seed, sampled) in enumerate(zip(request.seeds, samples, strict=True)):
        dropped = sampled.finish_reason == "dropped"
        token_ids = () if dropped else (*draw.prefix_ids, *sampled.token_ids)
        text, token_ends = sampler.decode(token_ids)
        yield {
            "query_id": draw.query_id,
            "round": job.params.round,
            "prefix_id": draw.prefix_id,
            "sample": number,
            "seed": seed,
            "token_ids": token_ids,
            "token_ends": token_ends,
            "prefix_len": 0 if dropped else len(draw.prefix_ids),
            "text": text,
            "finish_reason": sampled.finish_reason,
            "logprob": sampled.logprob,
        }
