"""What a run will cost: counts from the recipe and the strategies themselves, time from rates.

Counts are expectations. A query's pass rate p is assumed to be Beta distributed; its k correct
samples of K are then beta-binomial, and so is what a second round adds, given k. To find what the
strategies ask for and keep, `si.strategies` is called on simulated queries, so a custom strategy is
counted like ours. Pass rates and lengths are assumed to stay constant over the iterations.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil, exp, floor, lgamma
from typing import Any

from si.config.place import Place
from si.config.recipe import Recipe
from si.costs.assumptions import CPU, Assumptions, Width
from si.entry import Entry
from si.randomness import keyed_rng
from si.records import Draw, Outcome
from si.runs.usage import HOUR
from si.stages import STAGES
from si.strategies import Strategy, by_name, rule_of

POPULATION = 2000  # simulated queries for a strategy


@dataclass(frozen=True)
class Step:
    """A stage of the run: what it computes and what it costs.

    Attributes:
        entry: as in the run (`it01/explore`); stage: its kind.
        identity: stages of two runs with equal identities are one artefact, computed once.
        samples, tokens: responses and tokens that are sampled or verified.
        examples, steps: a training's examples and gradient steps; tokens are then those of
            prompts and responses over all epochs.
        device_seconds: of GPUs, or of workers without a GPU.
    """

    entry: str
    stage: str
    identity: tuple[Any, ...]
    queries: float = 0.0
    shards: int = 1
    samples: float = 0.0
    tokens: float = 0.0
    examples: float = 0.0
    steps: int = 0
    device_seconds: float = 0.0
    wall: float = 0.0
    bytes: float = 0.0
    on_gpu: bool = False

    def money(self, place: Place) -> float:
        price = place.price_per_gpu_hour if self.on_gpu else place.price_per_cpu_hour
        return self.device_seconds * price / HOUR

    def to_json(self, place: Place) -> dict[str, Any]:
        return {
            "entry": self.entry,
            "stage": self.stage,
            "queries": round(self.queries, 1),
            "samples": round(self.samples, 1),
            "tokens": round(self.tokens),
            "examples": round(self.examples, 1),
            "steps": self.steps,
            "seconds": round(self.device_seconds, 2),
            "gpu_hours": round(self.device_seconds / HOUR if self.on_gpu else 0.0, 5),
            "wall_seconds": round(self.wall, 2),
            "bytes": round(self.bytes),
            "cost": round(self.money(place), 4),
        }


@dataclass(frozen=True)
class Total:
    """Sums over stages.

    Attributes:
        seconds: of all devices and workers.
        explore_hours, train_hours: of the devices that sample and train, GPUs or workers;
            gpu_hours: both, if they are GPUs.
    """

    samples: float
    tokens: float
    examples: float
    trained: float
    steps: int
    seconds: float
    gpu_hours: float
    explore_hours: float
    train_hours: float
    wall: float
    bytes: float
    cost: float

    @classmethod
    def of(cls, steps: Sequence[Step], place: Place) -> "Total":
        explored = [s for s in steps if s.stage == "explore"]
        trained = [s for s in steps if s.stage == "train"]
        return cls(
            sum(s.samples for s in explored),
            sum(s.tokens for s in explored),
            sum(s.examples for s in trained),
            sum(s.tokens for s in trained),
            sum(s.steps for s in trained),
            sum(s.device_seconds for s in steps),
            sum(s.device_seconds for s in steps if s.on_gpu) / HOUR,
            sum(s.device_seconds for s in explored) / HOUR,
            sum(s.device_seconds for s in trained) / HOUR,
            sum(s.wall for s in steps),
            sum(s.bytes for s in steps),
            sum(s.money(place) for s in steps),
        )

    @property
    def device_hours(self) -> float:
        """GPU hours; worker hours if there are no GPUs."""
        return self.gpu_hours or self.seconds / HOUR

    def to_json(self) -> dict[str, Any]:
        return {name: round(value, 5) for name, value in asdict(self).items()}


def estimate(recipe: Recipe, assumed: Assumptions, width: Width) -> list[Step]:
    """The stages of a run from policy 0's scores to the report, with the cost of each."""
    return [_timed(step, assumed, width) for step in _steps(recipe, assumed)]


def shared(runs: Sequence[Sequence[Step]]) -> list[Step]:
    """The stages of several runs in one store: shared stages are computed once."""
    return list({step.identity: step for steps in runs for step in steps}.values())


# --- counts --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Round:
    """Expectations of one iteration for one query: second-round samples, the guided ones among
    them, correct samples, examples."""

    second: float
    guided: float
    right: float
    examples: float


def expected(recipe: Recipe, assumed: Assumptions) -> Round:
    """An iteration's expectations for one query, from the strategy's two rules."""
    k = recipe.k
    strategy = by_name(
        recipe.strategy,
        tc=recipe.tc.model_dump(),
        ar=recipe.ar.model_dump(),
        gr=recipe.gr.model_dump(),
    )
    a = assumed.pass_rate * assumed.spread
    b = assumed.spread - a
    first = successes(k, a, b)
    asked = _asked(strategy, first, k)
    guides = rule_of(recipe.strategy, "resample") == "gr"
    kept: dict[int, int] = {}
    second = guided = right = examples = 0.0
    for hits, chance in enumerate(first):
        more = asked[hits]
        second += chance * more
        rate, weight = (a + hits) / (a + b + k), a + b + k
        if guides and (hits or recipe.gr.reference):
            guided += chance * more
            rate += assumed.guided * (1 - rate)
        for draws, share in ((floor(more), 1 - more % 1), (ceil(more), more % 1)):
            if not share:
                continue
            for found, odds in enumerate(successes(draws, rate * weight, (1 - rate) * weight)):
                s = hits + found
                if s not in kept:
                    kept[s] = len(strategy.reshape(range(s), k, lambda: keyed_rng("estimate")))
                right += chance * share * odds * s
                examples += chance * share * odds * kept[s]
    return Round(second, guided, right, examples)


def successes(n: int, a: float, b: float) -> list[float]:
    """Probabilities of 0 to n correct samples if the pass rate is Beta(a, b): beta-binomial."""
    if a <= 0 or b <= 0:  # all correct, or none
        return [float(s == (n if a > 0 else 0)) for s in range(n + 1)]

    def beta(x: float, y: float) -> float:
        return lgamma(x) + lgamma(y) - lgamma(x + y)

    return [
        exp(lgamma(n + 1) - lgamma(s + 1) - lgamma(n - s + 1) + beta(s + a, n - s + b) - beta(a, b))
        for s in range(n + 1)
    ]


def _asked(strategy: Strategy, first: Sequence[float], k: int) -> list[float]:
    """Second-round samples for a query with 0 to k correct ones, as the strategy asks for them
    among queries of this distribution."""
    ids: list[list[str]] = []
    reached, done = 0.0, 0
    for hits, chance in enumerate(first):
        reached += chance
        until = round(POPULATION * reached)
        ids.append([f"{hits}-{i}" for i in range(done, until)])
        done = until
    outcomes = [Outcome(name, k, hits) for hits, names in enumerate(ids) for name in names]

    def nowhere(query_id: str, source: str) -> list[Any]:
        return []

    draws: list[Draw] = list(
        strategy.resample(outcomes, nowhere, k, lambda q: keyed_rng("estimate", q))
    )
    wanted = [0] * (k + 1)
    for draw in draws:
        wanted[int(draw.query_id.partition("-")[0])] += draw.n
    return [n / max(1, len(names)) for n, names in zip(wanted, ids, strict=True)]


def _steps(recipe: Recipe, assumed: Assumptions) -> Iterator[Step]:
    """The stages of a run in the order of the loop, without their times."""
    return _Loop(recipe, assumed).steps()


class _Loop:
    """The loop in figures. A step's key says which stages several runs share: they have equal keys
    until their policies or rules differ."""

    def __init__(self, recipe: Recipe, assumed: Assumptions):
        self.recipe, self.assumed = recipe, assumed
        self.one = expected(recipe, assumed)
        self.resampling = rule_of(recipe.strategy, "resample")
        self.reshaping = rule_of(recipe.strategy, "reshape")

    def steps(self) -> Iterator[Step]:
        recipe, assumed = self.recipe, self.assumed
        yield Step(str(Entry(0, "data")), "data", ("data",), bytes=assumed.data_bytes)
        yield Step(str(Entry(0, "policy")), "policy", ("policy",), bytes=assumed.base_bytes)
        yield from self.levels(0, assumed.held_out)
        yield from self.evaluation(0)
        for t in range(1, recipe.iterations + 1):
            yield from self.iteration(t)
        last = str(Entry(recipe.iterations, "report"))
        yield Step(last, "report", ("report", recipe.k, recipe.strategy))

    def iteration(self, t: int) -> Iterator[Step]:
        recipe, assumed, one = self.recipe, self.assumed, self.one
        n, k, response = assumed.queries, recipe.k, assumed.response
        start = (k,) if t == 1 else (k, recipe.strategy)
        yield from self.sampled(Entry(t, "explore"), start, n, n * k, n * k * response)
        if t == 1 or (recipe.levels.k and recipe.data.schedule != "fixed"):
            yield from self.levels(t, n)
        asks = (*start, self.resampling)
        if self.resampling != "vanilla":
            yield Step(str(Entry(t, "resample")), "resample", (t, "resample", *asks), n)
            sampled_share = one.second - one.guided + one.guided * assumed.continued
            tokens = n * sampled_share * assumed.response_second
            yield from self.sampled(Entry(t, "explore-2"), asks, n, n * one.second, tokens)
        keeps = (*asks, self.reshaping)
        examples = n * one.examples
        yield Step(
            str(Entry(t, "rebalance")),
            "rebalance",
            (t, "rebalance", *keeps),
            n,
            examples=examples,
            bytes=examples * response * assumed.token_bytes,
        )
        yield _training(recipe, assumed, t, examples, keeps)
        yield from self.evaluation(t, *keeps)

    def sampled(
        self, entry: Entry, identity: tuple[Any, ...], queries: float, samples: float, tokens: float
    ) -> Iterator[Step]:
        """Exploration and verification of its samples."""
        held_out = entry.step.startswith("evaluate")
        per_shard = self.recipe.held_out_shard if held_out else self.recipe.explore.shard_queries
        shards = max(1, ceil(queries / per_shard))
        explore, verify = str(entry), str(Entry(entry.t, entry.step.replace("explore", "verify")))
        size = tokens * self.assumed.token_bytes
        key = (explore, *identity)
        yield Step(explore, "explore", key, queries, shards, samples, tokens, bytes=size)
        size = samples * self.assumed.verdict_bytes
        yield Step(verify, "verify", (verify, *identity), queries, shards, samples, bytes=size)

    def levels(self, t: int, queries: float) -> Iterator[Step]:
        """Measured levels of queries; nothing where the data set has them."""
        measured = self.recipe.levels.k
        if self.assumed.levels_known and measured:
            return
        per_query = measured or self.recipe.k
        samples = queries * per_query
        if measured or not t:
            tokens = samples * self.assumed.response
            entry = Entry(t, "levels-explore")
            yield from self.sampled(entry, (per_query,), queries, samples, tokens)
        yield Step(str(Entry(t, "levels")), "levels", (t, "levels", per_query), queries)

    def evaluation(self, t: int, *identity: Any) -> Iterator[Step]:
        held, asked = self.assumed.held_out, self.recipe.evaluate
        length = self.assumed.response_scored if asked.greedy else self.assumed.response
        samples = held * asked.samples
        entry = Entry(t, "evaluate-explore")
        yield from self.sampled(entry, identity, held, samples, samples * length)
        yield Step(str(Entry(t, "evaluate")), "evaluate", (t, "evaluate", *identity), held)


def _training(
    recipe: Recipe, assumed: Assumptions, t: int, examples: float, identity: tuple[Any, ...]
) -> Step:
    train = recipe.train
    pool = examples * (t if train.pool == "all" else 1)
    steps = ceil(pool * train.epochs / train.batch)
    seen = pool * train.epochs
    match train.match_steps:
        case int(given):
            steps, seen = given, float(given * train.batch)
        case list(given) if t <= len(given):
            steps, seen = given[t - 1], float(given[t - 1] * train.batch)
    tokens = seen * (assumed.prompt + assumed.pictures + assumed.response)
    return Step(
        str(Entry(t, "train")),
        "train",
        (t, "train", *identity),
        tokens=tokens,
        examples=seen,
        steps=steps,
        bytes=assumed.policy_bytes,
    )


# --- time ----------------------------------------------------------------------------------


def _timed(step: Step, assumed: Assumptions, width: Width) -> Step:
    """The step with its device seconds and wall time."""
    gpu = assumed.device != CPU and step.stage in STAGES and STAGES[step.stage].gpus
    match step.stage:
        case "explore":
            devices = min(width.explore, step.shards)
            prompts = step.queries * (assumed.prompt + assumed.pictures) * assumed.prompt_seconds
            start, work = assumed.explore_start, prompts + step.tokens * assumed.token_seconds
        case "train":
            devices = width.train
            start, work = assumed.train_start, step.tokens * assumed.trained_seconds
        case "verify":
            devices = min(width.verify, step.shards)
            start, work = assumed.verify_start, step.samples * assumed.verdict_seconds
        case "data" | "policy":
            return step
        case _:
            devices, start, work = 1, 0.0, assumed.stage_seconds
    wall = start + work / devices + assumed.between
    return replace(step, device_seconds=devices * start + work, wall=wall, on_gpu=gpu)
