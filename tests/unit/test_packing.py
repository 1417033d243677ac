"""Packed rows and kept pictures: the same as each example by itself, in every family."""

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from si.config.recipe import Lora, Train
from si.embedded import EMBEDDED_POLICY
from si.engines import packing, trainer, vision
from si.engines.batches import Batch, make_batch, make_examples, summed_loss
from si.engines.hf import Prompts, load_processor
from si.engines.trainer import TransformersTrainer
from si.errors import RecipeError
from si.records import TrainingRow
from tests.unit import kin, tiny
from tests.unit.settings import training

LORA = Lora(r=4, alpha=8, dropout=0.0).model_dump(mode="json")
PLAIN: dict[str, Any] = {"batch": 16, "micro_batch": 4, "lr": 1e-3}
SETTINGS: dict[str, Any] = PLAIN | {"packing": True}
# float32 weights after five steps of 1e-3, in which they move by 3.5e-3; measured: 3e-6 at most.
CLOSE = 5e-5


def made_rows(policy: Path, count: int = 40) -> list[TrainingRow]:
    """Rows of seven lengths about none to two pictures of three sizes, with a prefix of two."""
    end = load_processor(policy).tokenizer.eos_token_id
    rng = random.Random(1)
    return [
        TrainingRow(
            f"Compute red plus blue {number % 5}.",
            tuple(tiny.picture(number % 5 + i, 2 + (number + i) % 3) for i in range(number % 3)),
            (*(rng.randrange(200) for _ in range(5 + number % 7)), end),
            2,
        )
        for number in range(count)
    ]


# --- rows -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    length: int


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(60, 200), st.integers(1, 4))
def test_every_example_has_one_place(lengths: list[int], room: int, world: int) -> None:
    """Packed, each example is in one row, no row is over-full, and all processes get as many."""
    pieces = [Piece(length) for length in lengths]
    rows = packing.packs(pieces, room, world)
    assert sorted(p.length for row in rows for p in row) == sorted(lengths)
    assert all(sum(p.length for p in row) <= room for row in rows)
    assert rows and len(rows) % world == 0
    # Two rows that fit into one would be one row too many.
    assert len(rows) <= world * (1 + 2 * sum(lengths) // (room * world))


def test_rows_are_even() -> None:
    """Two processes get a step's tokens in halves, not one a full row and one the rest."""
    filled = [sum(p.length for p in row) for row in packing.packs([Piece(10)] * 12, 100, 2)]
    assert filled == [60, 60]


# --- logits ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("families")
    made = {name: kin.build(name, folder / name) for name in (*kin.FAMILIES, kin.OTHER)}
    return made | {"embedded": EMBEDDED_POLICY}


def opened(policy: Path, settings: dict[str, Any]) -> tuple[Any, Prompts]:
    asked = training(**settings)
    prompts = Prompts.open(policy, asked.prompts)
    model = trainer.open_policy(policy, policy, asked.train).eval()
    trainer.configure(model, prompts, asked.train)
    return model, prompts


def batch_of(model: Any, prompts: Prompts, rows: Sequence[TrainingRow], **more: Any) -> Batch:
    settings = training(**(SETTINGS | more)).train
    return make_batch(model, prompts, settings, make_examples(rows, prompts, settings))


@torch.no_grad()
def logits(model: Any, batch: Batch) -> torch.Tensor:
    """Those that foretell response tokens, float32 (tokens, vocabulary)."""
    inputs, keep, labels = batch.to(model.device)
    found = model(**inputs, use_cache=False, logits_to_keep=keep).logits
    return found[:, : labels.shape[1]].flatten(0, 1)


@pytest.mark.parametrize("name", [*kin.FAMILIES, "embedded"])
def test_packed_logits_are_those_of_each_alone(policies: dict[str, Path], name: str) -> None:
    """In one row with others, an example has the logits that it has alone, unpacked: positions,
    pictures and attention are its own."""
    model, prompts = opened(policies[name], SETTINGS)
    alone, _ = opened(policies[name], PLAIN)
    rows = made_rows(policies[name], 7)
    packed = logits(model, batch_of(model, prompts, rows))
    apart = [logits(alone, batch_of(alone, prompts, [row], packing=False)) for row in rows]
    torch.testing.assert_close(packed, torch.cat(apart), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [*kin.FAMILIES, "embedded"])
def test_no_example_sees_another(policies: dict[str, Path], name: str) -> None:
    """Other words, tokens or pictures in one example of a row change no bit of the others'
    logits, and do change its own."""
    model, prompts = opened(policies[name], SETTINGS)
    rows = made_rows(policies[name], 6)[1:]
    row = rows[2]
    other = (
        replace(
            row,
            question=row.question.replace("red", "Red"),
            images=tuple(tiny.picture(99, 2 + (3 + i) % 3) for i in range(len(row.images))),
            token_ids=tuple((token + 1) % 200 for token in row.token_ids),
        )
        if row.images
        else replace(row, token_ids=row.token_ids[::-1])
    )
    one = batch_of(model, prompts, rows)
    two = batch_of(model, prompts, [*rows[:2], other, *rows[3:]])
    assert one.inputs["input_ids"].shape == two.inputs["input_ids"].shape
    sizes = [len(r.token_ids) for r in rows]
    before, after = logits(model, one).split(sizes), logits(model, two).split(sizes)
    equal = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert equal == [True, True, False, True, True]


def test_masked_prefixes_stay_out(policies: dict[str, Path]) -> None:
    """Packed, a masked prefix has no target and the rest's loss is the same."""
    settings = SETTINGS | {"mask_prefix": True}
    model, prompts = opened(policies["embedded"], settings)
    alone, _ = opened(policies["embedded"], PLAIN)
    rows = made_rows(policies["embedded"], 7)
    batches = [
        batch_of(some, prompts, rows, mask_prefix=True, packing=some is model)
        for some in (model, alone)
    ]
    with torch.no_grad():
        packed, padded = (
            float(summed_loss(some, batch, torch.device("cpu"), torch.float32))
            for some, batch in zip((model, alone), batches, strict=True)
        )
    assert packed == pytest.approx(padded, rel=1e-5)


def test_unknown_families_are_not_packed(policies: dict[str, Path]) -> None:
    """A family that nobody has described, whose attention may not be causal, is refused."""
    with pytest.raises(RecipeError, match="packing"):
        opened(policies[kin.OTHER], SETTINGS)


# --- training -------------------------------------------------------------------------------


def train(out: Path, policy: Path, **more: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    out.mkdir()
    rows = made_rows(policy)
    settings = training(steps=5, **(PLAIN | more))
    facts = TransformersTrainer().train(rows, policy, policy, out, settings, 0).facts
    adapter = out / "adapter_model.safetensors"
    return load_file(adapter if adapter.exists() else out / "model.safetensors"), facts


def furthest(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    assert one.keys() == two.keys()
    return max(float((one[n].float() - two[n].float()).abs().max()) for n in one)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_it_trains_the_same(tmp_path: Path, lora: dict[str, Any] | None) -> None:
    """Packed, with pictures kept, or both: weights after five steps are the unpacked training's
    within 5e-5, losses too, in a folder of the same files."""
    want, expected = train(tmp_path / "plain", EMBEDDED_POLICY, lora=lora)
    for name, more in (
        ("packed", {"packing": True}),
        ("kept", {"cache_vision": True}),
        ("both", {"packing": True, "cache_vision": True}),
    ):
        got, facts = train(tmp_path / name, EMBEDDED_POLICY, lora=lora, **more)
        assert furthest(want, got) < CLOSE, name
        assert facts["losses"] == pytest.approx(expected["losses"], abs=2e-4)
        assert facts | {"losses": 0, "grad_norms": 0} == expected | {"losses": 0, "grad_norms": 0}
    for name in ("config.json", "adapter_config.json"):
        if (tmp_path / "plain" / name).exists():
            files = [(tmp_path / each / name).read_bytes() for each in ("plain", "both")]
            assert files[0] == files[1]


@pytest.mark.parametrize("name", kin.FAMILIES)
def test_every_family_trains_the_same(policies: dict[str, Path], tmp_path: Path, name: str) -> None:
    """Packed and with pictures kept, each family's loss over a batch is the plain one's."""
    settings = SETTINGS | {"cache_vision": True}
    model, prompts = opened(policies[name], settings)
    alone, _ = opened(policies[name], PLAIN)
    rows = made_rows(policies[name], 9)
    kept = vision.FrozenVision(model, torch.float32, prompts.family.is_vision)
    batch = batch_of(model, prompts, rows, cache_vision=True)
    assert "pixel_values" not in batch.inputs
    cpu = torch.device("cpu")
    want = summed_loss(alone, batch_of(alone, prompts, rows, packing=False), cpu, torch.float32)
    for _ in range(2):  # computed, then kept
        got = summed_loss(model, batch, cpu, torch.float32, kept)
        assert got.item() == pytest.approx(want.item(), rel=1e-5)


@pytest.mark.slow
def test_pictures_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many examples, steps and epochs its pictures have, the tower sees them once."""
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

    seen: list[int] = []
    compute = Qwen2VLModel.get_image_features

    @functools.wraps(compute)
    def counted(self: Any, pixel_values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(len(pixel_values))
        return compute(self, pixel_values, *args, **kwargs)

    monkeypatch.setattr(Qwen2VLModel, "get_image_features", counted)
    rows = made_rows(EMBEDDED_POLICY)
    train(tmp_path / "out", EMBEDDED_POLICY, cache_vision=True)
    assert len(seen) == len({row.images for row in rows if row.images})


def test_memory_is_bounded(policies: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what does not fit, the pictures that were not seen for longest go, and are computed
    again as before."""
    model, prompts = opened(policies["qwen2_vl"], SETTINGS | {"cache_vision": True})
    rows = [row for row in made_rows(policies["qwen2_vl"], 9) if row.images]
    batch = batch_of(model, prompts, rows, cache_vision=True)
    kept = vision.FrozenVision(model, torch.float32, prompts.family.is_vision)
    monkeypatch.setattr(vision, "CACHE_BYTES", 10_000)
    one = kept.features(batch)["mm_encoder_outputs"]["image"].pooler_output
    two = kept.features(batch)["mm_encoder_outputs"]["image"].pooler_output
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert 0 < len(kept._kept) < len({row.images for row in rows}) and kept._bytes <= 10_000


def test_what_trains_is_not_kept(policies: dict[str, Path]) -> None:
    """A vision tower that trains is refused: by the recipe, and by the weights themselves."""
    with pytest.raises(ValueError, match="freeze_vision"):
        Train(cache_vision=True, freeze_vision=False)
    with pytest.raises(ValueError, match="zero"):
        Train.model_validate(
            {"cache_vision": True, "trainer": "deepspeed", "deepspeed": {"zero": 3}}
        )
    model, prompts = opened(policies["qwen2_vl"], PLAIN | {"freeze_vision": False})
    with pytest.raises(RecipeError, match="frozen"):
        vision.FrozenVision(model, torch.float32, prompts.family.is_vision)


def test_checkpointing_changes_no_byte(tmp_path: Path) -> None:
    """Activations computed twice give the weights that kept ones give, bit for bit."""
    want, _ = train(tmp_path / "plain", EMBEDDED_POLICY)
    got, _ = train(tmp_path / "twice", EMBEDDED_POLICY, gradient_checkpointing=True)
    assert furthest(want, got) == 0


def test_liger_needs_a_gpu() -> None:
    """Without a GPU Liger's kernels are refused in words."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(RecipeError, match="requires a GPU"):
        opened(EMBEDDED_POLICY, PLAIN | {"liger": True})
