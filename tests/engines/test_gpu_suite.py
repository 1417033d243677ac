"""What `make test-gpu` measures on a GPU runs here at no size."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.engines import needs
from tests.gpu import architecture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@needs.deepspeed
def test_a_step_at_no_size(tmp_path: Path) -> None:
    """The training that is measured at 7B runs at tiny size, and says how fast it was."""
    from tests.gpu import training

    policy = architecture.build(tmp_path / "policy", "tiny")
    size: Any = {"steps": 2, "batch": 4, "cells": 3, "tokens": 20, "micro_batch": 2}
    facts = training.measure(policy, tmp_path / "out", **size, packing=True, cache_vision=True)
    figures = json.loads(training.told("tiny", facts))
    assert figures["tokens_per_second"] > 0 and figures["peak_memory_gb"] > 0
    assert figures["mfu"] is None or figures["device"] != "cpu"
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("engine", [pytest.param("vllm", marks=needs.vllm), "transformers"])
def test_samples_at_no_size(tmp_path: Path, engine: str) -> None:
    """The sampling that is measured at 7B runs at tiny size with both engines."""
    from tests.gpu import sampling

    policy = architecture.build(tmp_path / "policy", "tiny")
    figures = sampling.measure(policy, engine, sampling.requests(6, 4, 3, 12))
    told = json.loads(sampling.told("tiny", figures))
    assert told["samples"] == 24 and told["dropped"] == 0
    assert told["tokens_per_second"] > 0 and ("waited" in told) == (engine == "vllm")
