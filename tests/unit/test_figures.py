"""A training's speed: what is counted, and where it goes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from si.config.recipe import Lora
from si.engines import speed, trainer
from si.engines.batches import make_batch, make_examples, summed_loss
from si.engines.hf import Prompts, load_processor
from si.engines.speed import Cost, Step, peak, summary
from si.records import TrainingRow
from tests.unit import tiny
from tests.unit.settings import training

LORA = Lora(r=4, alpha=8).model_dump(mode="json")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("policy"), hidden=128, layers=3)


@pytest.mark.parametrize("more", [{}, {"lora": LORA}, {"freeze_vision": False}])
def test_flops_are_those_that_torch_counts(policy: Path, more: dict[str, Any]) -> None:
    """A step's FLOPs are within a tenth of those that torch counts in the operations themselves,
    whatever trains."""
    settings = training(**more).train
    rows = [TrainingRow("Which?", (tiny.picture(1),), tuple(range(100)), 0)]
    prompts = Prompts(load_processor(policy))
    examples = make_examples(rows, prompts, settings)
    model = trainer.open_policy(policy, policy, settings)
    trainer.without_adapter(model).set_attn_implementation("eager")  # torch sees its products
    batch = make_batch(model, prompts, settings, examples)
    with FlopCounterMode(display=False) as counted:
        summed_loss(trainer.without_adapter(model), batch, model.device, torch.float32).backward()
    cost = Cost.of(trainer.without_adapter(model))
    assert cost.flops(e.lengths for e in examples) == pytest.approx(
        counted.get_total_flops(), rel=0.1
    )


def test_a_device_is_known_by_its_name() -> None:
    """The peak is that of the device itself, not of one whose name begins alike."""
    assert peak("NVIDIA H100 80GB HBM3", "bfloat16") == 989e12
    assert peak("NVIDIA H100 PCIe", "bfloat16") == 756e12
    assert peak("NVIDIA A100-SXM4-80GB", "bfloat16") == 312e12
    assert peak("NVIDIA L40S", "bfloat16") == 362e12
    for unknown in ("NVIDIA L40", "NVIDIA A10G", "cpu"):
        assert peak(unknown, "bfloat16") is None
    assert peak("NVIDIA H100 80GB HBM3", "float32") is None


def test_the_share_of_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """MFU is the FLOPs of all steps over what all devices could have done in their seconds."""
    steps = [Step(1.0, 0.1, 1.0, 2.0, 300, 1e12), Step(1.0, 0.1, 1.0, 1.0, 300, 2e12)]
    monkeypatch.setattr(speed, "peak", lambda device, dtype: 1e12)
    said = summary(steps, "bfloat16", devices=2, most=7)
    assert said["mfu"] == 0.5
    assert said["tokens_per_second"] == 200
    assert (said["seconds"], said["tokens"]) == ([2.0, 1.0], [300, 300])
    assert (said["devices"], said["peak_memory_bytes"]) == (2, 7)
