"""A 7B's training step on a GPU, and the tiny loop end to end. Figures are printed (`-s`)."""

import json
from pathlib import Path
from typing import Any

import pytest

from si.embedded import EMBEDDED_POLICY
from tests.engines import needs
from tests.gpu import architecture
from tests.loop.running import si_ctl_process, wreck

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return architecture.build(tmp_path_factory.mktemp("policy"), "7b")


@needs.deepspeed
@pytest.mark.parametrize("more", [{}, {"packing": True}, {"packing": True, "cache_vision": True}])
def test_a_step_of_a_7b(seven: Path, tmp_path: Path, more: dict[str, bool]) -> None:
    """LoRA on a 7B Qwen2-VL with ZeRO-2 in bfloat16 trains, and is written as it was trained."""
    from tests.gpu import training

    size: Any = {"steps": 4, "batch": 16, "cells": 28, "tokens": 400, "micro_batch": 4}
    facts = training.measure(seven, tmp_path / "out", **size, **more)
    print("\n" + training.told(f"7B, LoRA, ZeRO-2, {', '.join(more) or 'padded'}", facts))
    assert facts["steps"] == 4 and facts["adapter"]
    assert facts["provenance"]["mfu"] is None or 0 < facts["provenance"]["mfu"] < 1


@pytest.mark.parametrize("more", [{"packing": True}, {"liger": True}, {"cache_vision": True}])
def test_other_ways_to_compute(tmp_path: Path, more: dict[str, bool]) -> None:
    """By the variable-length kernel, by Liger's, and with pictures kept, the embedded policy's
    losses in bfloat16 are the plain ones within 0.1."""
    from si.engines.trainer import TransformersTrainer
    from tests.gpu import training

    if "liger" in more:
        pytest.importorskip("liger_kernel")
    rows = training.rows(EMBEDDED_POLICY, 64, 3, 30)
    losses = []
    for name, asked in (("plain", {}), ("other", more)):
        settings = training(8, dtype="bfloat16", lr=1e-3, batch=16, **asked)
        (tmp_path / name).mkdir()
        done = TransformersTrainer().train(
            rows, EMBEDDED_POLICY, EMBEDDED_POLICY, tmp_path / name, settings, 0
        )
        losses.append(done.losses)
    assert losses[1] == pytest.approx(losses[0], abs=0.1)


def test_the_tiny_loop(tmp_path: Path) -> None:
    """Two iterations of guided resampling with the embedded policy run on the GPU to a report."""
    words = ["iterate", "--strategy", "gr", "--k", "4", "--iterations", "2", "--workers", "1"]
    si_ctl_process(
        *words, "--set", "data.slice_size=40", "--set", "evaluate.limit=20", cwd=tmp_path
    )
    assert wreck(tmp_path / "si-runs") == []
    assert list((tmp_path / "si-runs" / "reports").glob("*.html"))
    trained = [
        json.loads(path.read_text())["train"]
        for path in (tmp_path / "si-runs" / "pool" / "train").glob("*/provenance/*.json")
    ]
    assert trained and all(speed["device"] != "cpu" for speed in trained)
