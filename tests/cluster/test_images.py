"""Our images in pods, under the very security contexts that stages have."""

import json

import pytest
import yaml

from tests.cluster.conftest import ROOT, Lab


@pytest.mark.parametrize("kind", ["verify", "explore", "train"])
def test_an_image_is_sound(kind: str, bare: Lab) -> None:
    """Each image does a little of its own work as user 10001 with a read-only root."""
    job = yaml.safe_load((ROOT / "k8s" / f"{kind}.yaml").read_text())
    spec = job["spec"]["template"]["spec"]
    spec["serviceAccountName"] = "default"
    (container,) = spec["containers"]
    container["command"] = ["python", "-c", (ROOT / "images" / kind / "smoke").read_text()]
    container["args"] = []
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "smoke"}, "spec": spec}
    bare.kubectl("create", "-f", "-", text=json.dumps(pod))

    def ended() -> str:
        (found,) = bare.get("pods")
        phase: str = found["status"]["phase"]
        return phase if phase in ("Succeeded", "Failed") else ""

    phase = bare.wait(ended, 300)
    said = bare.kubectl("logs", "smoke")
    assert phase == "Succeeded", said
    assert f"{kind}: sound" in said
