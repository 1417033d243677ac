"""The loop with both engines, end to end: nothing scripted."""

import json
from pathlib import Path

import pytest

from tests.engines import needs
from tests.loop.running import si_ctl_process, wreck

pytestmark = [needs.vllm, needs.deepspeed, pytest.mark.slow, pytest.mark.timeout(1800)]


def test_two_iterations_to_a_report(tmp_path: Path) -> None:
    """Guided resampling by vLLM, training by DeepSpeed under ZeRO-3: two iterations to a report."""
    words = ["iterate", "--strategy", "gr", "--k", "4", "--iterations", "2", "--workers", "1"]
    for setting in (
        "sampling.engine=vllm",
        "train.trainer=deepspeed",
        "train.deepspeed.zero=3",
        "data.slice_size=40",
        "evaluate.limit=20",
    ):
        words += ["--set", setting]
    si_ctl_process(*words, cwd=tmp_path)
    told = json.loads(si_ctl_process("status", "gr", "--json", cwd=tmp_path).stdout)
    stages = {s["entry"]: s for i in told["iterations"] for s in i["stages"]}
    assert {"it01/explore-2", "it02/train", "it02/evaluate", "it02/report"} <= stages.keys()
    assert wreck(tmp_path / "si-runs") == []
    pages = list((tmp_path / "si-runs" / "reports").glob("*.html"))
    assert len(pages) == 1
