"""What a recipe names of the model hub, fetched by a Job of its own; the hub is a pod of ours."""

import json
from pathlib import Path
from typing import Any

import pytest

from si.config.place import Place
from tests.cluster.conftest import Lab
from tests.unit import hub

RUN = "embedded-gr-k4-s0"
TOKEN = "hf_made-up-for-this-test"
MODEL = ("--set", "model.source=me/tiny", "--iterations", "1")
# The embedded policy under another name; every request is a line of the log.
SERVE = """
import http.server, pathlib, shutil, sys
sys.path.insert(0, "/hub")
import hub, si.embedded

root = pathlib.Path("/tmp/hub")
shutil.copytree(si.embedded.EMBEDDED_POLICY, root / "models/me/tiny")


class Telling(hub.Hub):
    root, asked = root, []

    def do_GET(self):
        print(self.path, self.headers.get("Authorization"), flush=True)
        super().do_GET()

    do_HEAD = do_GET


http.server.ThreadingHTTPServer(("", 8080), Telling).serve_forever()
"""


def _hub(lab: Lab) -> list[dict[str, Any]]:
    """The objects of a hub at http://hub:8080, restricted as the namespace wants them."""
    script = {"hub.py": Path(hub.__file__).read_text()}
    nobody = {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {
        "name": "hub",
        "image": Place().kubernetes.verify.image,
        "command": ["python", "-c", SERVE],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "script", "mountPath": "/hub"}],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
    }
    pod = {
        "containers": [container],
        "securityContext": nobody,
        "volumes": [{"name": "script", "configMap": {"name": "hub"}}],
    }
    head: dict[str, Any] = {"name": "hub", "labels": {"app": "hub"}}
    service = {"selector": {"app": "hub"}, "ports": [{"port": 8080}]}
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": head, "data": script},
        {"apiVersion": "v1", "kind": "Pod", "metadata": head, "spec": pod},
        {"apiVersion": "v1", "kind": "Service", "metadata": head, "spec": service},
    ]


@pytest.fixture
def with_hub(bare: Lab) -> Lab:
    """The chart, a hub, and a token for it."""
    env = {"HF_ENDPOINT": "http://hub:8080", "HF_HUB_DISABLE_XET": "1"}
    bare.install(hub_secret="hub-token", explore={"env": env})
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hub-token"}}
    for made in (*_hub(bare), secret | {"stringData": {"HF_TOKEN": TOKEN}}):
        bare.kubectl("create", "-f", "-", text=json.dumps(made))
    bare.kubectl("wait", "--for=condition=Ready", "pod/hub", "--timeout=120s")
    return bare


def test_policy_0_comes_from_the_hub(with_hub: Lab) -> None:
    """One Job fetches it, with the token, into the bucket; the run goes on to its report. No other
    pod has the token, and a second run asks the hub nothing."""
    done = with_hub.iterate(*MODEL)
    assert "Report:" in done.stdout
    stages = {stage["entry"]: stage for stage in with_hub.status(RUN)["stages"]}
    assert stages["it00/policy"]["state"] == "done"
    asked = with_hub.kubectl("logs", "hub").splitlines()
    assert asked and all(line.endswith(f"Bearer {TOKEN}") for line in asked)
    (job,) = with_hub.get("jobs", "app.kubernetes.io/component=fetch")
    assert job["status"]["succeeded"] == 1
    log = with_hub.si_ctl("logs", "-n", with_hub.namespace, RUN, "--stage", "it00/fetch").stdout
    assert "policies/tiny-" in log
    secrets = {
        pod["metadata"]["name"]: json.dumps(pod["spec"]).count("hub-token")
        for pod in with_hub.get("pods", "si-ctl/run")
    }
    assert {name for name, found in secrets.items() if found} == {
        name for name in secrets if "-it00-fetch-" in name
    }
    (note,) = {
        address
        for address in with_hub.store().list("policies")
        if "/provenance/" in address and "tiny" in address
    }
    assert json.loads(with_hub.store().get(note))["source"] == f"hf:me/tiny@{hub.COMMIT}"

    with_hub.kubectl("delete", "pod", "hub")
    again = with_hub.iterate(*MODEL, "--run", "again")
    assert "Report:" in again.stdout
    assert len(with_hub.get("jobs", "app.kubernetes.io/component=fetch")) == 1


def test_a_model_that_is_not_there(with_hub: Lab) -> None:
    """What the hub does not have ends the run at once, with the hub's own words and what to do."""
    done = with_hub.iterate("--set", "model.source=me/nothing", check=False)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "no model of that name on the hub" in done.stderr
    assert "place.kubernetes.hub_secret" in done.stderr and "Traceback" not in done.stderr
    (job,) = with_hub.get("jobs", "app.kubernetes.io/component=fetch")
    assert job["status"]["failed"] == 1
