"""What a run will cost: counts against the strategies themselves, rates against their sources."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from si.config.loading import load
from si.config.place import Place
from si.config.recipe import Recipe
from si.config.requires import Requires
from si.costs import throughput
from si.costs.assumptions import Assumptions, Width, published, width_of
from si.costs.estimate import Total, estimate, expected, shared, successes
from si.costs.throughput import SAMPLING, sampling
from si.errors import RecipeError
from si.machine import gpus
from si.machine.data_sheets import GPUS, gpu_of
from si.randomness import keyed_rng
from si.records import Outcome
from si.stages.worker import held
from si.strategies import by_name

QWEN = {
    "name": "qwen",
    "model": {"source": "Qwen/Qwen2-VL-7B-Instruct"},
    "data": {"source": "hub:hiyouga/geometry3k", "schedule": "fixed"},
    "sampling": {"engine": "vllm", "dtype": "bfloat16", "max_new_tokens": 1024},
    "train": {"trainer": "deepspeed", "dtype": "bfloat16", "batch": 128, "lora": {"r": 16}},
}
GPU_PODS = {"workers": 4, "image": "x", "resources": {"limits": {"nvidia.com/gpu": "2"}}}


def qwen(**more: object) -> Recipe:
    return Recipe.model_validate(QWEN | more)


def assumed(recipe: Recipe, **given: float) -> Assumptions:
    return published(recipe, Place(), given)


@given(st.integers(0, 20), st.floats(0.05, 5), st.floats(0.05, 5))
def test_chances_are_chances(n: int, a: float, b: float) -> None:
    """The chances of 0 to n right samples add up to 1, and their mean is n a / (a + b)."""
    chances = successes(n, a, b)
    assert math.isclose(sum(chances), 1, abs_tol=1e-9)
    mean = sum(s * chance for s, chance in enumerate(chances))
    assert math.isclose(mean, n * a / (a + b), abs_tol=1e-6)


@pytest.mark.parametrize(("pass_rate", "right"), [(0.0, 0.0), (1.0, 8.0)])
def test_always_and_never(pass_rate: float, right: float) -> None:
    """A policy that is never or always right needs no distribution."""
    one = expected(qwen(strategy="vanilla"), assumed(qwen(), pass_rate=pass_rate))
    assert (one.right, one.examples) == (right, right)


STRATEGIES = ["vanilla", "tc", "rp", "ar", "gr", "ar+tc", "ar+rp", "gr+tc", "gr+rp"]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("k", [4, 8])
def test_counts_are_what_the_strategy_does(strategy: str, k: int) -> None:
    """Second-round samples and examples are those of the strategy itself on 4,000 queries that are
    sampled, resampled and reshaped, within four standard errors and a hundredth."""
    mean, spread, queries = 0.6, 2.0, 4000
    rule, rng = by_name(strategy), random.Random(f"{strategy}-{k}")
    rates = {f"q{i}": rng.betavariate(mean * spread, (1 - mean) * spread) for i in range(queries)}

    def sample(query: str, n: int) -> int:
        return sum(rng.random() < rates[query] for _ in range(n))

    first = {query: sample(query, k) for query in rates}
    outcomes = [Outcome(query, k, right) for query, right in first.items()]
    draws = list(rule.resample(outcomes, lambda *_: [], k, lambda q: keyed_rng("test", q)))
    second = {draw.query_id: sample(draw.query_id, draw.n) for draw in draws}
    made = [
        len(rule.reshape(range(first[q] + second.get(q, 0)), k, lambda: keyed_rng("test")))
        for q in rates
    ]
    found = expected(qwen(strategy=strategy, k=k), assumed(qwen(), pass_rate=mean, spread=spread))
    near = 4 * k / math.sqrt(queries) * 0.4 + 0.01 * k
    assert abs(found.second - sum(draw.n for draw in draws) / queries) < near
    assert abs(found.examples - sum(made) / queries) < near


def test_a_larger_budget_asks_for_more() -> None:
    """ar's second round is budget x sum(K - k_i), up to its cap."""
    recipe, base = qwen(strategy="ar"), assumed(qwen())
    once = expected(recipe, base).second
    half = qwen(strategy="ar", ar={"budget": 0.5})
    assert math.isclose(once, 8 * (1 - base.pass_rate), rel_tol=0.02)
    assert math.isclose(expected(half, base).second, once / 2, rel_tol=0.02)
    capped = qwen(strategy="ar", ar={"budget": 9.0, "cap": 8})
    assert expected(capped, base).second <= 8


def test_guided_prefixes_bring_more_examples() -> None:
    """The better a prefix helps, the more right samples gr has, from as many draws."""
    recipe = qwen(strategy="gr")
    plain, guided = (expected(recipe, assumed(qwen(), guided=g)) for g in (0.0, 0.6))
    assert guided.second == plain.second and guided.examples > plain.examples


def test_doubling_k_doubles_the_first_round() -> None:
    """Twice the K is twice the samples and tokens of exploring, and no other evaluation."""
    one, two = (estimate(qwen(strategy="vanilla", k=k), assumed(qwen()), Width()) for k in (8, 16))
    for entry, factor in (("it01/explore", 2), ("it01/evaluate-explore", 1)):
        a, b = (next(s for s in steps if s.entry == entry) for steps in (one, two))
        assert (b.samples, b.tokens) == (factor * a.samples, factor * a.tokens)


def test_what_runs_share() -> None:
    """Runs of one K share levels, policy 0's scores and iteration 1's first round; runs of another
    K all but the first round; the same strategy twice shares everything."""
    base = assumed(qwen())

    def steps(strategy: str, k: int) -> list:
        return estimate(qwen(strategy=strategy, k=k), base, Width())

    def common(*runs: list) -> set[str]:
        first, second = ({step.identity: step.entry for step in run} for run in runs)
        return {first[identity] for identity in first.keys() & second.keys()}

    zero = {step.entry for step in steps("gr", 8) if step.entry.startswith("it00/")}
    levels = {"it01/levels-explore", "it01/levels-verify", "it01/levels"}
    first = {"it01/explore", "it01/verify"}
    assert common(steps("gr", 8), steps("rp", 8)) == zero | levels | first
    assert common(steps("gr", 8), steps("rp", 16)) == zero | levels
    second = {"it01/resample", "it01/explore-2", "it01/verify-2"}
    assert common(steps("gr", 8), steps("gr+tc", 8)) == zero | levels | first | second
    assert len(shared([steps("gr", 8), steps("gr", 8)])) == len(steps("gr", 8))


def test_steps_follow_from_examples() -> None:
    """Gradient steps are ceil(examples x epochs / batch); match_steps overrides them; a pool of all
    iterations grows."""
    base = assumed(qwen())

    def trained(**train: object) -> list[int]:
        recipe = qwen(strategy="vanilla", iterations=3, train={**QWEN["train"], **train})
        return [s.steps for s in estimate(recipe, base, Width()) if s.stage == "train"]

    examples = 2101 * expected(qwen(strategy="vanilla"), base).examples
    assert trained() == [math.ceil(examples / 128)] * 3
    assert trained(epochs=2)[0] == math.ceil(2 * examples / 128)
    assert trained(match_steps=7) == [7, 7, 7]
    assert trained(match_steps=[5, 6, 7]) == [5, 6, 7]
    assert trained(pool="all")[2] == math.ceil(3 * examples / 128)


def test_more_gpus_take_less_time_and_no_fewer_hours() -> None:
    """Width divides wall time; GPU hours grow by the engines' starts alone."""
    base, place = assumed(qwen()), Place(price_per_gpu_hour=2)
    one, eight = (Total.of(estimate(qwen(), base, Width(n, n, 2)), place) for n in (1, 8))
    assert eight.wall < one.wall and eight.gpu_hours > one.gpu_hours
    assert math.isclose(eight.cost, 2 * eight.gpu_hours)


def test_width_comes_from_the_pods() -> None:
    """Pods x GPUs of each explore and train; asked for, the number is the user's."""
    place = load(
        environment={},
        flags={"place.kubernetes.explore": GPU_PODS, "place.kubernetes.train": GPU_PODS},
    )[1]
    width = width_of(place, "A100", None)
    assert (width.explore, width.train) == (8, 8) and "kubernetes" in width.why
    assert width_of(place, "A100", 3).explore == 3
    assert width_of(Place(gpus=4), "A100", None).train == 4
    requires = Requires.model_validate({"train": {"gpus": 8}})
    width = width_of(Place(), "A100", None, requires)
    assert (width.explore, width.train) == (1, 8) and "requires" in width.why
    assert width_of(Place(workers=3), "cpu", 5) == Width(3, 1, 3, "workers on this machine")


@pytest.mark.parametrize("like", SAMPLING)
def test_rates_explain_the_loads_that_they_are_from(like: str) -> None:
    """The two rates of a GPU give back the seconds of both measured loads, and of a third one with
    prompts of 4,000 tokens within a fifth (attention grows with the length)."""
    gpu = gpu_of(like)
    rates, weights = sampling(gpu), throughput.SAMPLING_WEIGHTS
    third = {"A100": (1997942, 99783, 407.05), "H100": (1997942, 99803, 227.57)}[like]
    for (prompt, sampled, seconds), near in (*((s, 1e-9) for s in SAMPLING[like]), (third, 0.2)):
        found = prompt * 2 * weights / (rates.prompts * gpu.peak)
        found += sampled * weights / rates.passing
        assert abs(found / seconds - 1) < near


def test_another_model_on_the_embedded_data() -> None:
    """The embedded data, whose bytes no artefact tells yet, can be estimated with any model."""
    recipe = Recipe.model_validate({"model": {"source": "Qwen/Qwen2-VL-7B-Instruct"}})
    found = published(recipe, Place(), {}, sizes={"queries": 200, "held_out": 700})
    assert found.data_bytes == throughput.EMBEDDED["data_bytes"]
    assert found.sources["data_bytes"] == throughput.EMBEDDED_SOURCE


def test_rates_scale_to_another_model() -> None:
    """A 9B that was measured elsewhere (Qwen3.5-9B, H100, 342,058 prompt and 281,412 sampled tokens
    in 54.74 s) is foreseen within a tenth from the 14B."""
    gpu = gpu_of("H100")
    rates = sampling(gpu)
    seconds = 342058 * 2 * 9e9 / (rates.prompts * gpu.peak) + 281412 * 9e9 / rates.passing
    assert abs(seconds / 54.74 - 1) < 0.1


def test_every_gpu_has_rates_and_a_source() -> None:
    """No GPU of the table is without figures, and none of them without words on where from."""
    for gpu in GPUS:
        share, source = throughput.training(gpu)
        assert 0 < share < 1 and source
        assert sampling(gpu).passing > 0 and sampling(gpu).source
        assert gpu_of(f"NVIDIA {gpu.name} 80GB") == gpu
    assert gpu_of("NVIDIA A100-SXM4-80GB").name == gpu_of("a100").name == "A100"
    assert gpu_of("TPU v5") is None


@pytest.mark.parametrize(
    ("place", "recipe", "said"),
    [
        ({"gpu_type": "TPU"}, qwen(), "No figures are known for the GPU 'TPU'"),
        ({}, qwen(model={"source": "some/model"}), "size of the model some/model is not known"),
    ],
)
def test_what_cannot_be_said_is_refused(place: dict, recipe: Recipe, said: str) -> None:
    """An unknown GPU or model is named, with what is known and --calibrate."""
    with pytest.raises(RecipeError, match=said) as refused:
        published(recipe, Place(**place), {})
    assert "--calibrate" in str(refused.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pas_rate": 0.5}, "did you mean pass_rate"),
        ({"pass_rate": 1.5}, "between 0 and 1"),
        ({"response": "long"}, "not a number"),
        ({"response": -1}, "0 or more"),
        ({"spread": 0}, "not 0"),
        ({"mfu": 0}, "not 0"),
    ],
)
def test_wrong_assumptions_are_named(given: dict, said: str) -> None:
    """An unknown assumption is met with the nearest one, a wrong value with what is right."""
    with pytest.raises(RecipeError, match=said):
        assumed(qwen(), **given)


def test_shares_of_a_peak_are_refused_where_seconds_are_measured() -> None:
    """mfu would change nothing on a CPU, or beside a run's own figures."""
    with pytest.raises(RecipeError, match="has no effect"):
        published(Recipe(), Place(), {"mfu": 0.3})
    with pytest.raises(RecipeError, match="has no effect"):
        published(Recipe(), Place(), {}).but({"mfu": 0.3}, "--assume")


def test_every_assumption_has_a_source() -> None:
    """Nothing is taken for granted without words on where it is from; one's own say so."""
    for recipe in (qwen(), Recipe()):
        found = published(recipe, Place(), {"response": 300})
        rows = {row["name"]: row for row in found.to_json()}
        assert all(row["source"] for row in rows.values() if row["value"]), rows
        assert rows["response"]["source"] == "--assume" and rows["response"]["value"] == 300


def test_lora_trains_cheaper_than_all_weights() -> None:
    """A frozen weight costs 4 FLOPs a token, one that trains 6; a frozen tower only its forward."""
    lora = assumed(qwen()).trained_seconds
    whole = assumed(qwen(train={**QWEN["train"], "lora": None})).trained_seconds
    tower = {**QWEN["train"], "lora": None, "freeze_vision": False}
    assert lora < whole < assumed(qwen(train=tower)).trained_seconds


def test_a_worker_says_which_gpus_it_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages that compute on GPUs record how many they held, on all machines that train together;
    the others, and machines without any, record nothing."""
    monkeypatch.setattr(gpus, "count", lambda: 4)
    monkeypatch.setattr(gpus, "kind", lambda: "NVIDIA A100-SXM4-80GB")
    a100 = "NVIDIA A100-SXM4-80GB"
    assert held("explore", {gpus.MASK: "2,3"}) == {"gpus": 2, "gpu": a100}
    together = {"SICTL_TRAIN_NODE": "0", "SICTL_TRAIN_NODES": "2"}
    assert held("train", together) == {"gpus": 8, "gpu": a100}
    assert held("verify", {}) == {} and held("explore", {gpus.MASK: ""}) == {}
    monkeypatch.setattr(gpus, "count", lambda: 0)
    assert held("train", {}) == {}
