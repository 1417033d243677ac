"""What goes wrong on a cluster is named within seconds, while the Job still waits."""

import json
import os
import subprocess
import time
from datetime import datetime

import pytest

from tests.cluster.conftest import KUBECTL, Lab
from tests.loop.running import SI_CTL, environment

RUN = "embedded-gr-k4-s0"


def problem(lab: Lab, seconds: float = 300) -> dict:
    """The first problem that the run's object tells."""

    def look() -> dict | None:
        return next((s["problem"] for s in lab.status(RUN).get("stages", []) if s["problem"]), None)

    found: dict = lab.wait(look, seconds)
    return found


@pytest.fixture
def gpu_node() -> str:
    """The name of a node whose GPUs a test may pretend."""
    words = [KUBECTL, "get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]
    return subprocess.run(words, capture_output=True, check=True, text=True).stdout


def capacity(node: str, gpus: str | None) -> None:
    """Say that the node has so many GPUs; None takes them away."""
    path = "/status/capacity/nvidia.com~1gpu"
    patch = {"op": "add", "path": path, "value": gpus} if gpus else {"op": "remove", "path": path}
    words = [KUBECTL, "patch", "node", node, "--subresource=status", "--type=json"]
    subprocess.run([*words, "-p", json.dumps([patch])], check=gpus is not None, capture_output=True)


def test_a_gpu_that_no_node_has(bare: Lab, gpu_node: str) -> None:
    """Exploration waits for a GPU, and says so; once a node has one, the run goes on."""
    capacity(gpu_node, None)
    wanted = {"limits": {"memory": "4Gi", "nvidia.com/gpu": "1"}}
    bare.install(explore={"resources": wanted})
    bare.iterate("--detach")
    told = problem(bare)
    assert told["headline"] == "No node fits the pods"
    assert "Insufficient nvidia.com/gpu" in told["detail"]
    shown = bare.si_ctl("status", "--on", "kubernetes", "-n", bare.namespace, RUN).stdout
    assert "Insufficient nvidia.com/gpu" in shown
    try:
        capacity(gpu_node, "4")
        bare.wait(
            lambda: any(
                stage["entry"] == "it00/evaluate-explore" and stage["state"] == "done"
                for stage in bare.status(RUN)["stages"]
            ),
            240,
        )
        assert not [stage for stage in bare.status(RUN)["stages"] if stage["problem"]]
    finally:
        capacity(gpu_node, None)


def test_a_missing_secret(bare: Lab) -> None:
    """The controller's own pod cannot start: the attached command tells, and lets it wait."""
    bare.install(secret="no-such-secret")
    words = ["timeout", "-s", "INT", "25", str(SI_CTL), "iterate"]
    done = subprocess.run(
        [*words, "--on", "kubernetes", "-n", bare.namespace],
        cwd=bare.folder,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert "A Secret is missing" in done.stdout, done.stdout + done.stderr
    assert "no-such-secret" in done.stdout


def test_an_image_that_cannot_be_pulled(bare: Lab) -> None:
    """An image that is nowhere is named by its reference."""
    bare.install(explore={"image": "registry.invalid/nothing:1"})
    bare.iterate("--detach")
    told = problem(bare)
    assert told["headline"] == "The image registry.invalid/nothing:1 cannot be pulled"


def test_a_quota_that_is_used_up(bare: Lab) -> None:
    """A quota that leaves no room for a stage's pods is named."""
    bare.install()
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "few"},
        "spec": {"hard": {"pods": "1"}},
    }
    bare.kubectl("create", "-f", "-", text=json.dumps(quota))
    bare.iterate("--detach")
    assert problem(bare)["headline"] == "The namespace's quota is used up"


def test_a_pod_that_runs_out_of_memory(bare: Lab) -> None:
    """Too little memory is named, with the setting that gives more."""
    tight = {"limits": {"memory": "64Mi", "nvidia.com/gpu": None}}
    bare.install(explore={"resources": tight})
    done = bare.iterate(check=False)
    assert done.returncode != 0
    assert "out of memory" in done.stderr + done.stdout
    assert "resources.limits.memory" in done.stderr
    tree = bare.status(RUN)
    assert tree["phase"] == "failed"
    assert any("OOMKilled" in f["why"] for s in tree["stages"] for f in s["failures"])


def test_nobody_polls(bare: Lab, gpu_node: str) -> None:
    """While a stage waits, the controller asks the API fewer than five times a minute."""
    capacity(gpu_node, None)
    wanted = {"limits": {"memory": "4Gi", "nvidia.com/gpu": "1"}}
    bare.install(explore={"resources": wanted})
    bare.iterate("--detach")
    problem(bare)
    time.sleep(20)  # what the beginning of the wait still writes
    began = time.time()
    time.sleep(120)
    log = subprocess.run(
        os.environ["SI_TEST_AUDIT"].split(), capture_output=True, check=True, text=True
    ).stdout
    account = f"system:serviceaccount:{bare.namespace}:"
    asked = []
    for line in log.splitlines():
        if account not in line or "si-ctl/" not in line:
            continue
        event = json.loads(line)
        if datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp() >= began:
            asked.append((event["verb"], event["requestURI"]))
    print(f"{len(asked)} requests in two idle minutes: {asked}")
    assert asked, "the audit log has nothing of the controller"
    assert len(asked) < 2 * 5
