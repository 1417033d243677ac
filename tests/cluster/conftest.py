"""A real cluster for the tests of this folder: whatever KUBECONFIG names (`make e2e`).

Every test has a namespace of its own, with the chart installed in it. If a test fails, logs,
events and objects are saved below .kind/failed/ before the namespace goes.

Environment, besides KUBECONFIG: SI_TEST_BUCKET (default s3://si-ctl), SI_TEST_ENDPOINT (as pods see
it), SI_TEST_ENDPOINT_OUTSIDE (as this machine sees it), SI_TEST_KUBECTL, SI_TEST_HELM; the
bucket's credentials are the Secret si-bucket in the namespace minio.
"""

import base64
import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from si.config.place import S3, Place
from si.store.open import open_store
from si.store.port import Store
from tests.loop.running import ROOT, si_ctl_process

KUBECTL = os.environ.get("SI_TEST_KUBECTL", "kubectl")
HELM = os.environ.get("SI_TEST_HELM", "helm")
BUCKET = os.environ.get("SI_TEST_BUCKET", "s3://si-ctl")
ENDPOINT = os.environ.get("SI_TEST_ENDPOINT", "http://minio.minio:9000")
OUTSIDE = os.environ.get("SI_TEST_ENDPOINT_OUTSIDE", "http://127.0.0.1:9900")
FAILED = ROOT / ".kind" / "failed"
# Small enough for a minute or two, with every stage in it.
SMALL = (
    "--k",
    "4",
    "--iterations",
    "2",
    "--set",
    "data.slice_size=20",
    "--set",
    "evaluate.limit=10",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.timeout(900))
            item.add_marker(pytest.mark.slow)  # a command each few seconds, while pods work
            if not os.environ.get("SI_TEST_E2E"):
                item.add_marker(pytest.mark.skip(reason="no cluster is given: make e2e"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.when == "call":
        item.stash[OUTCOME] = report.failed
    return report


OUTCOME = pytest.StashKey[bool]()


class Lab:
    """A namespace with a release `lab` of the chart, and `si-ctl` to use it."""

    def __init__(self, namespace: str, folder: Path, key: dict[str, str]):
        self.namespace = namespace
        self.folder = folder
        self.key = key
        self.store_url = f"{BUCKET}/{namespace}"

    def kubectl(self, *words: str, check: bool = True, text: str | None = None) -> str:
        done = subprocess.run(
            [KUBECTL, "-n", self.namespace, *words], capture_output=True, text=True, input=text
        )
        if check and done.returncode:
            raise AssertionError(f"kubectl {words}: {done.stderr}")
        return done.stdout

    def get(self, kind: str, select: str = "") -> list[dict[str, Any]]:
        words = ("get", kind, "-o", "json", *(("-l", select) if select else ()))
        items: list[dict[str, Any]] = json.loads(self.kubectl(*words))["items"]
        return items

    def install(self, **kubernetes: Any) -> None:
        """Install the chart for CPUs; `kubernetes` are settings of place.kubernetes."""
        small = {"limits": {"memory": "4Gi", "nvidia.com/gpu": None}, "requests": {"cpu": "100m"}}
        values = {
            "place": {
                "store": self.store_url,
                "s3": {"endpoint": ENDPOINT, "region": "us-east-1", "endpoint_external": OUTSIDE},
                "kubernetes": {
                    "secret": "si-bucket",
                    "pull_policy": "Never",  # k8s/local/load puts the images on the node
                    "explore": {"resources": small, "shared_memory": "256Mi"},
                    "verify": {"resources": {"requests": {"cpu": "100m", "memory": "256Mi"}}},
                    "train": {"resources": small, "shared_memory": "256Mi"},
                },
            },
            "networkPolicy": {"bucket": {"ports": [9000]}},
        }
        _merge(values["place"]["kubernetes"], kubernetes)
        file = self.folder / "values.yaml"
        file.write_text(yaml.safe_dump(values))
        words = ("upgrade", "--install", "lab", str(ROOT / "helm/si-ctl"), "-n", self.namespace)
        done = subprocess.run([HELM, *words, "-f", str(file)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def si_ctl(self, *words: str, check: bool = True, **env: str) -> subprocess.CompletedProcess:
        return si_ctl_process(*words, cwd=self.folder, check=check, **self.key, **env)

    def iterate(self, *words: str, check: bool = True) -> subprocess.CompletedProcess:
        return self.si_ctl(
            *("iterate", "--on", "kubernetes", "-n", self.namespace, *SMALL, *words), check=check
        )

    def status(self, run: str) -> dict[str, Any]:
        words = ("status", "--on", "kubernetes", "-n", self.namespace, run, "--json")
        tree: dict[str, Any] = json.loads(self.si_ctl(*words).stdout)
        return tree

    def store(self) -> Store:
        for name, value in self.key.items():
            os.environ[name] = value
        return open_store(Place(store=self.store_url, s3=S3(endpoint=OUTSIDE, region="us-east-1")))

    def wait(self, what: Callable[[], Any], seconds: float = 300) -> Any:
        """Until `what()` gives something."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found = what()
            if found:
                return found
            time.sleep(0.5)
        raise AssertionError(f"not within {seconds} s: {what}")

    def save(self, name: str) -> None:
        """Keep what tells why a test failed."""
        folder = FAILED / name
        folder.mkdir(parents=True, exist_ok=True)
        for kind in ("jobs", "pods", "configmaps", "events", "leases"):
            text = self.kubectl("get", kind, "-o", "yaml", check=False)
            (folder / f"{kind}.yaml").write_text(text)
        for pod in self.get("pods"):
            name = pod["metadata"]["name"]
            (folder / f"{name}.log").write_text(self.kubectl("logs", name, check=False))


def _merge(tree: dict[str, Any], more: dict[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value


@pytest.fixture(scope="session")
def key() -> dict[str, str]:
    """The bucket's credentials."""
    words = [KUBECTL, "-n", "minio", "get", "secret", "si-bucket", "-o", "json"]
    data = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)["data"]
    return {name: base64.b64decode(value).decode() for name, value in data.items()}


@pytest.fixture
def bare(key: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A namespace that enforces the restricted Pod Security Standard, nothing installed."""
    namespace = f"si-test-{uuid.uuid4().hex[:6]}"
    made = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": namespace,
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
        },
    }
    lab = Lab(namespace, tmp_path, key)
    lab.kubectl("create", "-f", "-", text=json.dumps(made))
    # The service account comes a moment after the namespace; pods need it.
    lab.wait(lambda: lab.get("serviceaccounts"), 60)
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "si-bucket"},
        "stringData": key,
    }
    lab.kubectl("create", "-f", "-", text=json.dumps(secret))
    yield lab
    if request.node.stash.get(OUTCOME, True):
        lab.save(request.node.name)
    # A namespace deletes its pods first, and pods of a Job that is still there wait for the Job.
    lab.kubectl("delete", "jobs,configmaps", "--all", "--wait=false", check=False)
    lab.kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.fixture
def lab(bare: Lab) -> Lab:
    """A namespace with the chart installed for CPUs."""
    bare.install()
    return bare
