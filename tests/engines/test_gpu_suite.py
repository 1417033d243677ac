"""What `make test-gpu` measures on a GPU runs here at no size."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.engines import needs
from tests.gpu import architecture

pytestmark = [needs.deepspeed, pytest.mark.slow, pytest.mark.timeout(600)]


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
