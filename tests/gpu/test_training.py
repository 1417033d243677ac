"""A 7B's training step on a GPU, and the tiny loop end to end. Figures are printed (`-s`)."""

import json
from pathlib import Path

import pytest

from tests.engines import needs
from tests.gpu import architecture
from tests.loop.running import si_ctl, wreck

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return architecture.build(tmp_path_factory.mktemp("policy"), "7b")


@needs.deepspeed
@pytest.mark.parametrize("micro", [1, 4])
def test_a_step_of_a_7b(seven: Path, tmp_path: Path, micro: int) -> None:
    """LoRA on a 7B Qwen2-VL with ZeRO-2 in bfloat16 trains, and is written as it was trained."""
    from tests.gpu import training

    facts = training.measure(
        seven, tmp_path / "out", steps=4, batch=16, cells=28, tokens=400, micro_batch=micro
    )
    print("\n" + training.told(f"7B, LoRA, ZeRO-2, micro_batch {micro}", facts))
    assert facts["steps"] == 4 and facts["adapter"]
    assert facts["provenance"]["mfu"] is None or 0 < facts["provenance"]["mfu"] < 1


def test_the_tiny_loop(tmp_path: Path) -> None:
    """Two iterations of guided resampling with the embedded policy run on the GPU to a report."""
    words = ["iterate", "--strategy", "gr", "--k", "4", "--iterations", "2", "--workers", "1"]
    si_ctl(*words, "--set", "data.slice_size=40", "--set", "evaluate.limit=20", cwd=tmp_path)
    assert wreck(tmp_path / "si-runs") == []
    assert list((tmp_path / "si-runs" / "reports").glob("*.html"))
    trained = [
        json.loads(path.read_text())["train"]
        for path in (tmp_path / "si-runs" / "pool" / "train").glob("*/provenance/*.json")
    ]
    assert trained and all(speed["device"] != "cpu" for speed in trained)
