"""DeepSpeed as trainer, for real, on the CPU: against the plain one, in one and two processes."""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from si.config.recipe import Lora, Recipe, Train
from si.engines.batches import Example, shares
from si.engines.hf import load_processor
from si.engines.trainer import TransformersTrainer
from si.engines.transformers import TransformersSampler
from si.errors import NothingToTrain, RecipeError, SiError
from si.records import Request, TrainingRow
from tests.engines import needs
from tests.engines.conftest import SAMPLING
from tests.unit import tiny
from tests.unit.settings import sampling, training

pytestmark = [needs.deepspeed, pytest.mark.slow, pytest.mark.timeout(900)]

SETTINGS: dict[str, Any] = {"batch": 16, "micro_batch": 4, "lr": 1e-3, "steps": 5}
LORA = Lora(r=4, alpha=8).model_dump(mode="json")
# float32 weights after five steps of 1e-3; measured: 4e-6 at most, on two processes too.
CLOSE = 5e-5

Fit = Callable[..., tuple[Path, dict[str, Any]]]


@pytest.fixture(scope="module")
def rows(policy: Path) -> list[TrainingRow]:
    """Fifty examples of seven lengths about four pictures, each with a prefix of two tokens."""
    end = load_processor(policy).tokenizer.eos_token_id
    rng = random.Random(1)
    return [
        TrainingRow(
            f"Compute red plus blue {number % 4}.",
            (tiny.picture(number % 4),),
            (*(rng.randrange(200) for _ in range(5 + number % 7)), end),
            2,
        )
        for number in range(50)
    ]


@pytest.fixture
def fit(policy: Path, tmp_path: Path, rows: list[TrainingRow]) -> Fit:
    """Trains into a fresh folder: `fit(zero=3)` with DeepSpeed, `fit()` with the plain trainer."""
    count = iter(range(100))

    def run(zero: int | None = None, **more: Any) -> tuple[Path, dict[str, Any]]:
        out = tmp_path / f"out{next(count)}"
        out.mkdir()
        settings = SETTINGS | more
        trainer: Any = TransformersTrainer()
        if zero is not None:
            from si.engines.deepspeed import DeepSpeedTrainer

            trainer = DeepSpeedTrainer()
            settings["deepspeed"] = {**settings.get("deepspeed", {}), "zero": zero}
        done = trainer.train(rows, policy, policy, out, training(**settings), 0)
        speed = done.provenance
        assert len(speed["seconds"]) == done.steps and speed["peak_memory_bytes"] > 0
        return out, done.facts

    return run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    adapter = folder / "adapter_model.safetensors"
    return load_file(adapter if adapter.exists() else folder / "model.safetensors")


def furthest(one: Path, two: Path) -> float:
    """The largest difference between two policies' weights, which have the same names."""
    left, right = weights(one), weights(two)
    assert left.keys() == right.keys()
    return max(float((left[n].float() - right[n].float()).abs().max()) for n in left)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("zero", [0, 2, 3])
def test_it_trains_as_the_plain_trainer(
    fit: Fit, zero: int, lora: dict[str, Any] | None, policy: Path
) -> None:
    """Under every ZeRO stage, the whole model and an adapter end where the plain trainer ends, with
    its losses and facts, in files of the same names that transformers loads."""
    plain, expected = fit(lora=lora)
    out, facts = fit(zero, lora=lora)
    assert facts["losses"] == pytest.approx(expected["losses"], abs=2e-4)
    assert facts | {"losses": 0} == expected | {"losses": 0}
    assert furthest(plain, out) < CLOSE
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in plain.iterdir())
    TransformersSampler(out, policy, SAMPLING)


def test_masks_and_checkpointing_are_the_same(fit: Fit) -> None:
    """A masked prefix and recomputed activations change nothing between the two trainers."""
    plain, _ = fit(mask_prefix=True, epochs=1, steps=None)
    asked = {"gradient_checkpointing": True}
    out, _ = fit(2, mask_prefix=True, epochs=1, steps=None, deepspeed=asked)
    assert furthest(plain, out) < CLOSE


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("zero", [2, 3])
def test_packed_is_the_same(fit: Fit, zero: int, lora: dict[str, Any] | None) -> None:
    """Packed, and under ZeRO-2 with pictures kept, DeepSpeed ends where the plain trainer ends
    without either."""
    plain, expected = fit(lora=lora)
    out, facts = fit(zero, lora=lora, packing=True, cache_vision=zero == 2)
    assert facts["losses"] == pytest.approx(expected["losses"], abs=2e-4)
    assert furthest(plain, out) < CLOSE


def test_two_processes_pack_as_one(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes share packed rows, each keeps its own pictures, and all ends as with one."""
    one, expected = fit()
    monkeypatch.setenv("SICTL_TRAIN_PROCESSES", "2")
    two, facts = fit(2, packing=True, cache_vision=True)
    assert facts["losses"] == pytest.approx(expected["losses"], abs=2e-4)
    assert furthest(one, two) < CLOSE


def test_packed_in_bfloat16(fit: Fit) -> None:
    """Packed in bfloat16 the losses are those of padded rows within 0.1."""
    _, expected = fit(2, dtype="bfloat16")
    _, facts = fit(2, dtype="bfloat16", packing=True, cache_vision=True)
    assert facts["losses"] == pytest.approx(expected["losses"], abs=0.1)


def test_bfloat16_learns_as_much(fit: Fit) -> None:
    """In bfloat16, rounded in other places, the losses are the plain trainer's within 0.1."""
    _, expected = fit(dtype="bfloat16")
    out, facts = fit(2, dtype="bfloat16")
    assert facts["losses"] == pytest.approx(expected["losses"], abs=0.1)
    assert {tensor.dtype for tensor in weights(out).values()} == {torch.bfloat16}


@pytest.mark.parametrize("zero,lora", [(2, None), (3, LORA)], ids=["zero2-full", "zero3-lora"])
def test_two_processes_train_as_one(
    fit: Fit, zero: int, lora: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes end where one ends: the global batch is the recipe's."""
    one, expected = fit(lora=lora)
    monkeypatch.setenv("SICTL_TRAIN_PROCESSES", "2")
    two, facts = fit(zero, lora=lora)
    assert facts["losses"] == pytest.approx(expected["losses"], abs=2e-4)
    assert furthest(one, two) < CLOSE


@pytest.mark.parametrize(
    "zero,freeze,way", [(3, True, "zero=2"), (2, False, "freeze_vision=true"), (2, True, None)]
)
def test_what_would_wait_for_ever_is_refused(
    policy: Path,
    tmp_path: Path,
    rows: list[TrainingRow],
    monkeypatch: pytest.MonkeyPatch,
    zero: int,
    freeze: bool,
    way: str | None,
) -> None:
    """Queries with and without pictures, over two processes: refused where one that has no picture
    would leave the other waiting, trained where the vision tower is frozen under ZeRO-2."""
    from si.engines.deepspeed import DeepSpeedTrainer

    monkeypatch.setenv("SICTL_TRAIN_PROCESSES", "2")
    mixed = [*rows[:8], *(replace(row, images=()) for row in rows[8:16])]
    more = {"steps": 2, "freeze_vision": freeze, "deepspeed": {"zero": zero}}
    settings = training(**(SETTINGS | more))
    train = partial(DeepSpeedTrainer().train, mixed, policy, policy, tmp_path, settings, 0)
    if way is None:
        assert train().steps == 2
        return
    with pytest.raises(RecipeError, match="with and without images") as refused:
        train()
    assert way in refused.value.ways_out[0]


def test_what_a_process_says_is_heard(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of one of several processes is the launcher's error, in the same words."""
    monkeypatch.setenv("SICTL_TRAIN_PROCESSES", "2")
    with pytest.raises(NothingToTrain, match="longer than 5"):
        fit(2, max_length=5)
    monkeypatch.setenv("SICTL_TRAIN_PROCESSES", "two")
    with pytest.raises(RecipeError, match="SICTL_TRAIN_PROCESSES"):
        fit(2)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 7, 16])
def test_each_example_counts_once(
    rows: list[TrainingRow], packing: bool, world: int, count: int
) -> None:
    """Over all processes every example of a step counts once, and all have as many turns."""
    chosen = [Example(row, 0, number) for number, row in enumerate(rows[:count])]
    settings = Train(micro_batch=4, max_length=10, packing=packing)
    parts = [shares(chosen, settings, rank, world) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    counted = [e.length for part in parts for some, weight in part for e in some if weight]
    assert sorted(counted) == list(range(count))


def test_weights_gathered_wrongly_are_named(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a weight is not what its parts are together, nothing is written, and it is named."""
    import si.engines.gathering as adapter

    right = adapter._own_square
    monkeypatch.setattr(adapter, "_own_square", lambda p: right(p) / 2)
    with pytest.raises(SiError, match="not gathered"):
        fit(3, steps=1)


def test_zero_0_in_bfloat16_is_refused() -> None:
    """Plain data parallelism in bfloat16 is refused before anything is computed."""
    with pytest.raises(ValueError, match="use 2 or 3"):
        Recipe.model_validate(
            {"train": {"trainer": "deepspeed", "dtype": "bfloat16", "deepspeed": {"zero": 0}}}
        )


@needs.vllm
def test_vllm_samples_what_zero_3_wrote(fit: Fit, policy: Path, greedy: list[Request]) -> None:
    """A policy that was gathered from ZeRO-3 says in vLLM what it says in transformers."""
    from si.engines.vllm import VllmSampler

    settings = sampling(temperature=0.0, max_new_tokens=16)
    out, _ = fit(3)
    requests = greedy[:16]
    theirs = list(TransformersSampler(out, out, settings).sample(requests))
    ours = list(VllmSampler(out, out, settings).sample(requests))
    equal = [a[0].token_ids == b[0].token_ids for a, b in zip(ours, theirs, strict=True)]
    assert sum(equal) >= 14
