"""vLLM and DeepSpeed in our images' pods: CPU builds here, the same code as on GPUs."""

from typing import Any

import pytest

from tests.cluster.conftest import Lab

ENGINES = (
    *("--set", "sampling.engine=vllm"),
    *("--set", "train.trainer=deepspeed"),
    *("--set", "train.deepspeed.zero=3"),
    *("--set", "train.lora.r=4"),
    *("--iterations", "1"),
)
RUN = "embedded-gr-k4-s0"


@pytest.mark.timeout(1800)
def test_two_pods_train_together(bare: Lab) -> None:
    """Exploration by vLLM, a LoRA adapter trained under ZeRO-3 by two pods, evaluated by vLLM.

    One of the two is deleted while they train: both begin again, and the run ends.
    """
    bare.install(train={"workers": 2})
    bare.iterate("--detach", *ENGINES)

    def training() -> list[dict[str, Any]]:
        pods = bare.get("pods", "app.kubernetes.io/component=train")
        return pods if len([p for p in pods if p["status"]["phase"] == "Running"]) == 2 else []

    first, second = bare.wait(training, 900)
    bare.kubectl("delete", "pod", second["metadata"]["name"])
    done = bare.iterate(*ENGINES)  # attaches
    assert "Report:" in done.stdout
    jobs = bare.get("jobs", "si-ctl/stage=train")
    assert {job["metadata"]["name"][-1] for job in jobs} == {"1", "2"}
    assert all(job["spec"]["completions"] == 2 for job in jobs)
    (train,) = [s for s in bare.status(RUN)["stages"] if s["entry"] == "it01/train"]
    assert train["state"] == "done" and train["failed"] >= 1
    assert first["spec"]["subdomain"] == "lab-train"
