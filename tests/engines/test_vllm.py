"""vLLM as sampler, for real, on the CPU: against transformers, seeds, prefixes, adapters."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from si.config.recipe import Lora
from si.engines.trainer import TransformersTrainer
from si.engines.transformers import TransformersSampler
from si.randomness import keyed_seed
from si.records import Request, Sampled, TrainingRow
from tests.engines import needs
from tests.engines.conftest import GREEDY, SAMPLING
from tests.unit import tiny
from tests.unit.settings import training

pytestmark = [needs.vllm, pytest.mark.slow, pytest.mark.timeout(900)]


def load(policy: Path, base: Path) -> Any:
    from si.engines.vllm import VllmSampler

    return VllmSampler(policy, base, SAMPLING)


@pytest.fixture(scope="module")
def engine(policy: Path) -> Any:
    """One engine with the embedded policy, for all tests that do not need another."""
    return load(policy, policy)


@pytest.fixture(scope="module")
def plain(policy: Path) -> TransformersSampler:
    """The transformers engine with the same policy, greedy."""
    return TransformersSampler(policy, policy, GREEDY)


@contextmanager
def temperature(engine: Any, value: float) -> Iterator[None]:
    """Sample at another temperature for a while."""
    engine.common["temperature"] = value
    yield
    engine.common["temperature"] = SAMPLING.temperature


def sampled(engine: Any, requests: Sequence[Request], at: float = 1.0) -> list[list[Sampled]]:
    with temperature(engine, at):
        return list(engine.sample(requests))


def with_seeds(requests: Sequence[Request], count: int) -> list[Request]:
    return [
        replace(request, seeds=tuple(keyed_seed("vllm", i, j) for j in range(count)))
        for i, request in enumerate(requests)
    ]


def same(one: list[list[Sampled]], two: list[list[Sampled]]) -> float:
    """The share of samples with equal ids."""
    pairs = [
        a.token_ids == b.token_ids
        for left, right in zip(one, two, strict=True)
        for a, b in zip(left, right, strict=True)
    ]
    return sum(pairs) / len(pairs)


# --- the same policy as with transformers -------------------------------------------------


def test_prompts_are_those_of_transformers(
    engine: Any, plain: TransformersSampler, greedy: list[Request]
) -> None:
    """The ids that the engine computes, pictures' tokens included, are the processor's own."""
    for request in greedy[:10]:
        ids = engine.renderer.render(request)["prompt_token_ids"]
        assert list(ids) == plain.prompts(request.question, request.images).ids


def test_greedy_is_transformers(
    engine: Any, plain: TransformersSampler, greedy: list[Request]
) -> None:
    """Of 50 greedy responses at least 48 have the very tokens that transformers gives; their
    ends and log-probabilities agree too."""
    ours, theirs = sampled(engine, greedy, 0.0), list(plain.sample(greedy))
    assert same(ours, theirs) >= 48 / 50
    for (one,), (two,) in zip(ours, theirs, strict=True):
        if one.token_ids == two.token_ids:
            assert one.finish_reason == two.finish_reason
            assert one.logprob == pytest.approx(two.logprob, abs=1e-3)


def test_without_pictures_and_with_two(
    engine: Any, plain: TransformersSampler, greedy: list[Request]
) -> None:
    """Queries without pictures and with two are sampled as transformers does."""
    requests = [
        replace(greedy[0], images=()),
        replace(greedy[1], images=(tiny.picture(1), tiny.picture(2, 2))),
    ]
    assert sampled(engine, requests, 0.0) != []
    assert same(sampled(engine, requests, 0.0), list(plain.sample(requests))) == 1


# --- seeds --------------------------------------------------------------------------------


def test_equal_calls_give_equal_samples(engine: Any, greedy: list[Request]) -> None:
    """The same requests give the same samples, whatever was sampled in between."""
    requests = with_seeds(greedy[:24], 4)
    first = sampled(engine, requests)
    sampled(engine, with_seeds(greedy[24:30], 3))
    assert sampled(engine, requests) == first


def test_calls_follow_without_a_pause(engine: Any, greedy: list[Request]) -> None:
    """The next call is asked for before this one has ended; each gets the samples that it gets
    alone, but for rounding: 95 of 100 at least."""
    calls = [with_seeds(greedy[:6], 4), [], with_seeds(greedy[6:9], 4), with_seeds(greedy[9:12], 4)]
    asked = []

    def taken() -> Iterator[list[Request]]:
        for call in calls:
            asked.append(len(call))
            yield call

    stream = engine.stream(taken())
    results = [next(stream)]
    assert asked == [6, 0, 3, 3]
    results += stream
    assert [len(result) for result in results] == [6, 0, 3, 3]
    alone = [sampled(engine, call) for call in calls]
    assert same([s for r in results for s in r], [s for r in alone for s in r]) >= 0.95


def test_seeds_matter(engine: Any, greedy: list[Request]) -> None:
    """Samples of other seeds are other samples, somewhere."""
    requests = with_seeds(greedy[:24], 4)
    other = [replace(r, seeds=tuple(seed + 1 for seed in r.seeds)) for r in requests]
    assert same(sampled(engine, requests), sampled(engine, other)) < 0.9


def test_company_hardly_matters(engine: Any, greedy: list[Request]) -> None:
    """In any company a seed draws the same, but for rounding: in 95 of 100 samples at least."""
    requests = with_seeds(greedy[:24], 4)
    backwards = sampled(engine, requests[::-1])[::-1]
    assert same(sampled(engine, requests), backwards) >= 0.95


# --- what is made ready ahead ---------------------------------------------------------------


def test_a_query_is_rendered_once_for_its_draws(
    engine: Any, greedy: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Draws of one query from several prefixes share its rendered prompt, and each has its own
    prefix behind it."""
    ids = sampled(engine, greedy[:1], 0.0)[0][0].token_ids
    draws = [replace(greedy[0], prefix_ids=ids[:cut]) for cut in (0, 3, 7)] + [greedy[1]]
    expected = [engine.renderer.render(draw)["prompt_token_ids"] for draw in draws]
    render, begin, rendered, begun = engine.renderer.query, engine._begin, [], []

    def counted(question: str, *rest: Any) -> Any:
        rendered.append(question)
        return render(question, *rest)

    def noted(request: Request, made: Any) -> Any:
        begun.append(made["prompt_token_ids"])
        return begin(request, made)

    monkeypatch.setattr(engine.renderer, "query", counted)
    monkeypatch.setattr(engine, "_begin", noted)
    said = [samples[0].token_ids for samples in sampled(engine, draws, 0.0)]
    assert rendered == [greedy[0].question, greedy[1].question] and begun == expected
    assert [said[1], said[2]] == [ids[3:], ids[7:]]


def test_the_engine_begins_while_the_rest_is_rendered(
    engine: Any, greedy: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step is made with a few requests, however many there are; steps that had room
    for more are counted, and asked about once."""
    step, queued = engine._step, []

    def noted() -> Any:
        queued.append(engine._count)
        return step()

    monkeypatch.setattr(engine, "_step", noted)
    engine.take_figures()
    before = engine._count
    assert all(samples[0].token_ids for samples in sampled(engine, greedy))
    assert queued[0] - before == 16 and queued[-1] - before == len(greedy)
    figures = engine.take_figures()
    assert figures["steps"] == len(queued) and 0 < figures["starved"] < figures["steps"]
    assert engine.take_figures() == {"steps": 0, "starved": 0, "waited": 0}


def test_more_than_a_step_takes_is_sampled(engine: Any, greedy: list[Request]) -> None:
    """Prompts that do not fit into a step together wait for the next one; seeds do not mind."""
    long = [replace(r, question=r.question + " Please." * 45) for r in with_seeds(greedy[:24], 2)]
    tokens = sum(len(engine.renderer.render(request)["prompt_token_ids"]) for request in long)
    assert tokens > 1.2 * engine.engine.vllm_config.scheduler_config.max_num_batched_tokens
    assert all(one.token_ids for samples in sampled(engine, long) for one in samples)


# --- prefixes, limits, what is impossible -------------------------------------------------


def test_a_prefix_is_continued_id_by_id(engine: Any, greedy: list[Request]) -> None:
    """After a prefix's stored ids the greedy rest is the rest of the whole response; the prompt
    ends with these very ids, and the answer does not repeat them."""
    whole = [samples[0] for samples in sampled(engine, greedy[:20], 0.0)]
    cut = [
        replace(request, prefix_ids=one.token_ids[:5], max_new_tokens=request.max_new_tokens - 5)
        for request, one in zip(greedy, whole, strict=False)
    ]
    rest = [samples[0] for samples in sampled(engine, cut, 0.0)]
    for request, one, two in zip(cut, whole, rest, strict=True):
        assert tuple(engine.renderer.render(request)["prompt_token_ids"][-5:]) == one.token_ids[:5]
        assert two.token_ids == one.token_ids[5:]
        assert two.finish_reason == one.finish_reason


def test_forbidden_tokens_are_impossible(
    engine: Any, plain: TransformersSampler, greedy: list[Request]
) -> None:
    """Tokens that stand for pictures are never drawn, not even where a bias makes them certain."""
    forbidden = set(plain.forbidden.nonzero().flatten().tolist())
    assert forbidden
    engine.common["logit_bias"] = dict.fromkeys(forbidden, 100.0)
    drawn = sampled(engine, with_seeds(greedy[:16], 8), 2.0)
    del engine.common["logit_bias"]
    tokens = [token for samples in drawn for one in samples for token in one.token_ids]
    assert len(tokens) > 2000
    assert not forbidden & set(tokens)


def test_what_ends_a_response(engine: Any, greedy: list[Request]) -> None:
    """The end-of-turn token is kept and says "stop"; the limit says "length"."""
    end = engine.tokenizer.eos_token_id
    short = [replace(r, max_new_tokens=20) for r in with_seeds(greedy, 2)]
    everything = [one for samples in sampled(engine, short) for one in samples]
    assert {one.finish_reason for one in everything} == {"stop", "length"}
    for one in everything:
        assert (one.token_ids[-1] == end) == (one.finish_reason == "stop")
        assert end not in one.token_ids[:-1]
        assert len(one.token_ids) == 20 or one.finish_reason == "stop"


def test_overlong_prompts_are_dropped(engine: Any, greedy: list[Request]) -> None:
    """A prompt without room for its response is dropped by name; its neighbours are sampled."""
    long = replace(greedy[1], question=greedy[1].question * 200, seeds=(1, 2))
    first, dropped, last = sampled(engine, [greedy[0], long, greedy[2]])
    assert dropped == [Sampled((), "dropped", 0.0)] * 2
    assert first[0].token_ids and last[0].token_ids


# --- other engines ------------------------------------------------------------------------


def test_another_engine_draws_the_same(policy: Path, engine: Any, greedy: list[Request]) -> None:
    """A second engine with the same policy gives the same samples for the same seeds."""
    requests = with_seeds(greedy[:24], 4)
    assert same(sampled(load(policy, policy), requests), sampled(engine, requests)) == 1


def test_an_adapter_is_served_on_its_base(
    policy: Path, plain: TransformersSampler, greedy: list[Request], tmp_path: Path
) -> None:
    """A LoRA policy answers greedily as it does with transformers, and not as its base does."""
    answers = list(plain.sample(greedy))
    rows = [
        TrainingRow(request.question, request.images, other[0].token_ids)
        for request, other in zip(greedy[:24], answers[24:48], strict=True)
    ]
    lora = Lora(r=4, alpha=16).model_dump(mode="json")
    settings = training(lr=1e-2, batch=24, lora=lora, steps=8)
    TransformersTrainer().train(rows, policy, policy, tmp_path, settings, 0)
    adapted = TransformersSampler(tmp_path, policy, GREEDY)
    theirs = list(adapted.sample(greedy[:24]))
    ours = sampled(load(tmp_path, policy), greedy[:24], 0.0)
    assert same(ours, theirs) >= 22 / 24
    assert same(theirs, answers[:24]) < 0.8


def test_both_runners_take_what_forbids_tokens() -> None:
    """vLLM's second model runner, which a GPU has and the CPU's build has not, accepts the class as
    the first does, and is given the same logits."""
    from types import SimpleNamespace

    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import validate_logits_processors_parameters
    from vllm.v1.worker.gpu.sample.logits_processor import (
        build_custom_logits_processors_params_validator,
    )

    from si.engines.vllm_forbidden import Forbidden

    names, params = [f"{Forbidden.__module__}:{Forbidden.__name__}"], SamplingParams(seed=1)
    validate_logits_processors_parameters(names, params)
    build_custom_logits_processors_params_validator(names)(params)
    config = SimpleNamespace(additional_config={"forbidden_ids": [1, 3]})
    first = Forbidden(config, torch.device("cpu"), is_pin_memory=False)
    second = Forbidden(config, SimpleNamespace(device=torch.device("cpu")))
    expected = torch.tensor([[0, -torch.inf, 0, -torch.inf]])
    assert torch.equal(first.apply(torch.zeros(1, 4)), expected)
    assert torch.equal(second.apply(torch.zeros(1, 4), SimpleNamespace()), expected)


def test_an_engine_without_memory_is_narrowed_once(
    policy: Path, greedy: list[Request], monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """Out of memory at its start and said so, it begins again half as wide; a second time, or what
    has another reason, is the error that it was. The lack of memory is a fake, the rest is not."""
    from si.engines import vllm

    real, asked = vllm.LLM, []
    failures: list[Exception] = [torch.OutOfMemoryError("CUDA out of memory")]

    def scarce(**arguments: Any) -> Any:
        asked.append(arguments["max_num_seqs"])
        if failures:
            raise failures.pop()
        return real(**arguments)

    monkeypatch.setattr(vllm, "LLM", scarce)
    sampler = load(policy, policy)
    assert asked == [128, 64] and sampler.width == 64
    assert "SICTL_VLLM_MAX_NUM_SEQS=64" in capfd.readouterr().err

    step, steps = sampler._step, iter(range(100))

    def once() -> Any:
        if next(steps) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step()

    sampler._step = once
    with pytest.raises(torch.OutOfMemoryError):
        sampled(sampler, greedy[:4])
    sampler.lowered, steps = False, iter(range(100))
    sampler._step = step
    expected = sampled(sampler, greedy[:4])
    sampler._step = once
    assert sampled(sampler, greedy[:4]) == expected and sampler.width == 32

    failures.append(ValueError("no such model"))
    with pytest.raises(ValueError, match="no such model"):
        load(policy, policy)
