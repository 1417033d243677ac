"""Each family at tiny size, from its config to a trained policy and back, on the real engines: what
vLLM samples is what transformers samples, and what DeepSpeed has trained vLLM loads whole."""

import multiprocessing
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from si.config.recipe import Lora, Sampling
from si.engines.convert_internvl import convert
from si.engines.families import family_of
from si.engines.hf import Prompts, decode_images
from si.engines.port import PromptSettings
from si.engines.trainer import TransformersTrainer
from si.engines.transformers import TransformersSampler
from si.engines.writing import tensor_names
from si.records import Request, TrainingRow
from tests.engines import needs
from tests.engines.test_deepspeed import CLOSE, furthest
from tests.loop.test_families import iterate
from tests.unit import kin, kin_chat, tiny
from tests.unit.settings import sampling, training

pytestmark = [needs.vllm, needs.deepspeed, pytest.mark.slow, pytest.mark.timeout(1800)]

GREEDY = sampling(temperature=0.0)
TRAIN: dict[str, Any] = {"batch": 8, "micro_batch": 4, "lr": 1e-3, "steps": 3}
LORA = Lora(r=4, alpha=8).model_dump(mode="json")
# One picture, several of several sizes, none; a prefix.
ASKED = [Request(f"Compute {n}", (tiny.picture(n, 2 + n % 5),), (n,), (), 24) for n in range(12)]
ASKED += [
    Request("Which?", (tiny.picture(2, 5), tiny.picture(3)), (1,), (), 24),
    Request("No picture", (), (1,), (), 24),
    Request("Go on", (tiny.picture(4),), (1,), (4, 9, 40), 24),
]


DESCRIBED = ("qwen2_vl", "internvl")
KINDS = {"whole": None, "lora": LORA}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A policy of each family."""
    folder = tmp_path_factory.mktemp("kin")
    return {family: kin.build(family, folder / family) for family in kin.FAMILIES}


@pytest.fixture(scope="module")
def trained(made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`<family>/<whole or lora>-<ZeRO stage, or 0 for the plain trainer>`: what training wrote. In
    a process of its own: vLLM ends the process group that DeepSpeed would go on with."""
    folder = tmp_path_factory.mktemp("trained")
    process = multiprocessing.get_context("spawn").Process(target=train, args=(made, folder))
    process.start()
    process.join()
    assert process.exitcode == 0
    return folder


def train(made: dict[str, Path], folder: Path) -> None:
    from si.engines.deepspeed import DeepSpeedTrainer

    rows = [
        TrainingRow(f"Say {n % 3}", (tiny.picture(n % 4, 2 + n % 3),), (*range(n, n + 5), 40), 0)
        for n in range(24)
    ]
    for family, (kind, lora), zero in product(DESCRIBED, KINDS.items(), (0, 2, 3)):
        out = folder / family / f"{kind}-{zero}"
        out.mkdir(parents=True)
        settings = training(**TRAIN, lora=lora, deepspeed={"zero": zero})
        trainer = DeepSpeedTrainer() if zero else TransformersTrainer()
        trainer.train(rows, made[family], made[family], out, settings, 0)


def both(policy: Path, base: Path, more: Sampling) -> tuple[list[Any], list[Any]]:
    """Greedy responses by vLLM and by transformers."""
    from si.engines.vllm import VllmSampler

    theirs = [answers[0] for answers in TransformersSampler(policy, base, more).sample(ASKED)]
    ours = [answers[0] for answers in VllmSampler(policy, base, more).sample(ASKED)]
    return ours, theirs


def assert_same(ours: list[Any], theirs: list[Any]) -> None:
    assert [a.token_ids for a in ours] == [b.token_ids for b in theirs]
    assert max(abs(a.logprob - b.logprob) for a, b in zip(ours, theirs, strict=True)) < 1e-3


@pytest.mark.parametrize("limit", [None, 8], ids=["whole", "shrunk"])
@pytest.mark.parametrize("family", kin.FAMILIES)
def test_vllm_says_what_transformers_says(
    family: str, limit: int | None, made: dict[str, Path]
) -> None:
    """Greedy tokens are equal, with pictures as they are and with those that a limit shrinks."""
    policy = made[family]
    prompts = [Prompts.open(policy, PromptSettings(image_tokens=n)) for n in (None, 8)]
    large = (tiny.picture(3, 6),)
    assert len(prompts[1]("Hi", large).ids) < len(prompts[0]("Hi", large).ids)
    assert_same(*both(policy, policy, sampling(temperature=0.0, image_tokens=limit)))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """The weights that vLLM has loaded, before it packs them for its kernels: one entry a load."""
    from vllm.model_executor.model_loader import base_loader

    seen: list[dict[str, torch.Tensor]] = []
    pack = base_loader.process_weights_after_loading

    def look(model: Any, *arguments: Any) -> None:
        seen.append({name: p.detach().clone() for name, p in model.named_parameters()})
        pack(model, *arguments)

    monkeypatch.setattr(base_loader, "process_weights_after_loading", look)
    return seen


def squares(policy: Path, weights: dict[str, torch.Tensor]) -> dict[bool, float]:
    """Sums of squares of vision weights and of the others: what fusing matrices leaves alone."""
    is_vision = family_of(policy).is_vision
    sums = {True: 0.0, False: 0.0}
    for name, weight in weights.items():
        sums[is_vision(name)] += float(weight.double().pow(2).sum())
    return sums


@pytest.mark.parametrize("family", DESCRIBED)
def test_deepspeed_trains_as_the_plain_trainer(
    family: str, made: dict[str, Path], trained: Path
) -> None:
    """Under ZeRO-2 and ZeRO-3, whole and LoRA, training ends where the plain trainer ends, in
    tensors of the names that policy 0's files have."""
    policy, out = made[family], trained / family
    for kind, zero in product(KINDS, (2, 3)):
        assert furthest(out / f"{kind}-0", out / f"{kind}-{zero}") < CLOSE
    for zero in (2, 3):
        assert tensor_names(out / f"whole-{zero}") == tensor_names(policy)
    assert furthest(policy, out / "whole-3") > 1e-3  # it has learnt


@pytest.mark.parametrize("family", DESCRIBED)
def test_vllm_loads_whole_what_was_trained(
    family: str, made: dict[str, Path], trained: Path, loaded: list[dict[str, torch.Tensor]]
) -> None:
    """vLLM holds the trained weights with the same norms, and it says what transformers says: of a
    whole model from ZeRO-3, and of an adapter from ZeRO-2."""
    policy, out = made[family], trained / family
    assert_same(*both(out / "whole-3", policy, GREEDY))
    written = squares(policy, load_file(out / "whole-3" / "model.safetensors"))
    assert squares(policy, loaded[0]) == pytest.approx(written, rel=1e-6)
    assert_same(*both(out / "lora-2", policy, GREEDY))


def test_internvl_goes_round(tmp_path: Path) -> None:
    """The loop with both engines on InternVL: explored, guided, trained as LoRA under ZeRO-3,
    explored again with the adapter, scored."""
    facts = iterate(
        tmp_path,
        "internvl",
        sampling={"engine": "vllm", "image_tokens": 8},
        train={"trainer": "deepspeed", "deepspeed": {"zero": 3}, "lora": {"r": 4, "alpha": 8}},
    )
    assert facts["it01/explore-2"]["samples"] > 0 and facts["it01/train"]["adapter"]
    assert "it01/evaluate" in facts


# What vLLM needs of a checkpoint's own code to read its config; the model's class is vLLM's.
CONFIGURATION = """
from transformers import PretrainedConfig, Qwen2Config


class Vision(PretrainedConfig):
    model_type = "intern_vit_6b"


class InternVLChatConfig(PretrainedConfig):
    model_type = "internvl_chat"
    has_no_defaults_at_init = True

    def __init__(self, vision_config=None, llm_config=None, **fields):
        super().__init__(**fields)
        self.vision_config = Vision(**(vision_config or {}))
        self.llm_config = Qwen2Config(**(llm_config or {}))
"""


def test_converted_it_says_what_the_original_says(tmp_path: Path) -> None:
    """vLLM's own class for InternVL's first layout says of it, token by token, what transformers
    says after si-ctl's conversion: tiles, normalisation, projector and all."""
    from si.engines.vllm import LLM, SamplingParams

    folder, _ = kin_chat.build(tmp_path / "chat", tmp_path / "twin")
    out = convert(folder, tmp_path / "out")
    asked = [request for request in ASKED if len(request.images) == 1 and not request.prefix_ids]
    sampler = TransformersSampler(out, out, GREEDY)
    theirs = [answers[0].token_ids for answers in sampler.sample(asked)]

    (folder / "configuration_internvl_chat.py").write_text(CONFIGURATION)
    engine = LLM(
        str(folder),
        trust_remote_code=True,
        dtype="float32",
        enforce_eager=True,
        block_size=32,
        max_model_len=512,
        limit_mm_per_prompt={"image": 1, "video": 0},
    )
    turn = "<|im_start|>user\n<image>\n{}<|im_end|>\n<|im_start|>assistant\n"
    prompts = [
        {
            "prompt": turn.format(request.question),
            "multi_modal_data": {"image": decode_images(request.images)[0]},
        }
        for request in asked
    ]
    never = dict.fromkeys(sampler.forbidden.nonzero().flatten().tolist(), -100.0)
    params = SamplingParams(
        temperature=0, max_tokens=24, stop_token_ids=sorted(sampler.ends), logit_bias=never
    )
    ours = [tuple(made.outputs[0].token_ids) for made in engine.generate(prompts, params)]
    assert ours == theirs
