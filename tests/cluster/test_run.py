"""The loop as Jobs on a real cluster: what it computes, what it survives, what it says."""

import json
import re
import subprocess
import threading
import time

import yaml

from si.runs.status import status
from tests.cluster.conftest import SMALL, Lab
from tests.loop.running import SI_CTL, artefacts, environment, read_artefacts, si_ctl_process

RUN = "embedded-gr-k4-s0"


def local(lab: Lab) -> dict[str, tuple[str, str | None]]:
    """The artefacts of the same run on this machine."""
    si_ctl_process("iterate", *SMALL, "--store", str(lab.folder / "local"), cwd=lab.folder)
    return artefacts(lab.folder / "local", RUN)


def test_a_run_on_the_cluster_makes_what_a_local_run_makes(lab: Lab) -> None:
    """Two iterations of gr in pods of our images: the local run's artefacts, by content digest.

    Then its report is read from outside, and the same command again finds all done.
    """
    done = lab.iterate()
    assert "it02/evaluate" in done.stdout and "Report:" in done.stdout
    assert read_artefacts(status(lab.store(), RUN)) == local(lab)

    tree = lab.status(RUN)
    assert tree["phase"] == "done"
    assert {stage["state"] for stage in tree["stages"]} == {"done"}
    assert not sum(stage["failed"] for stage in tree["stages"])
    shown = lab.si_ctl("status", "--on", "kubernetes", "-n", lab.namespace, RUN).stdout
    assert "iteration 2" in shown and "evaluate-explore" in shown
    lab.si_ctl("report", "--on", "kubernetes", "-n", lab.namespace, RUN)
    assert (lab.folder / "si-runs" / "reports" / f"{RUN}.html").stat().st_size > 10_000
    there = ("--on", "kubernetes", "-n", lab.namespace, RUN)
    watched = lab.si_ctl("status", "--watch", *there).stdout
    assert watched.splitlines()[0] == f"{RUN}: done" and "it02/train" in watched
    lab.si_ctl("track", *there)
    files = {path.name for path in (lab.folder / "si-runs" / "tensorboard" / RUN).iterdir()}
    assert any(name.endswith(".it02-train") for name in files)
    lab.si_ctl("export", *there, "--iteration", "last", "--out", "policy")
    assert (lab.folder / "policy" / "model.safetensors").stat().st_size > 1_000_000
    assert "it02/train" in lab.si_ctl("logs", "-n", lab.namespace, RUN).stdout
    written = lab.si_ctl("logs", "-n", lab.namespace, RUN, "--stage", "it01/explore").stdout
    assert '"event": "shard"' in written
    for value in lab.key.values():
        assert value not in written + lab.kubectl("get", "jobs,pods,configmaps", "-o", "yaml")

    again = lab.iterate()
    assert "Report:" in again.stdout
    assert len(lab.get("jobs", "app.kubernetes.io/component=controller")) == 1
    changed = lab.iterate("--seed", "1", "--run", RUN, check=False)
    assert changed.returncode == 3 and "another recipe" in changed.stderr


def test_pods_and_controllers_die(lab: Lab) -> None:
    """A pod of every stage is deleted, the controller twice, an index gets a second pod alive.

    The run ends with the artefacts of an undisturbed one, and status tells what happened.
    """
    lab.iterate("--detach")
    stop = threading.Event()
    deleted: set[str] = set()
    controllers: list[str] = []
    twins: list[str] = []

    def disturb() -> None:
        while not stop.is_set():
            for pod in lab.get("pods", "app.kubernetes.io/part-of=si-ctl"):
                labels, name = pod["metadata"]["labels"], pod["metadata"]["name"]
                if pod["status"].get("phase") != "Running" or "twin" in labels:
                    continue
                if pod["metadata"].get("deletionTimestamp"):
                    continue
                component = labels["app.kubernetes.io/component"]
                entry = labels.get("si-ctl/stage", "")
                if component == "explore" and not twins:
                    twins.append(name)
                    _twin(lab, pod)
                elif component == "controller":
                    if len(controllers) < 2 and len(deleted) >= 3 * (1 + len(controllers)):
                        controllers.append(name)
                        lab.kubectl("delete", "pod", name, "--wait=false", check=False)
                elif entry not in deleted:
                    deleted.add(entry)
                    lab.kubectl("delete", "pod", name, "--wait=false", check=False)
            time.sleep(0.2)

    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        done = lab.iterate()  # attaches
    finally:
        stop.set()
        disturber.join()
    assert "Report:" in done.stdout
    assert len(deleted) >= 6 and len(controllers) == 2 and twins
    assert read_artefacts(status(lab.store(), RUN)) == local(lab)
    tree = lab.status(RUN)
    assert tree["starts"] >= 3
    assert sum(stage["failed"] for stage in tree["stages"]) >= len(deleted) // 2


def _twin(lab: Lab, pod: dict) -> None:
    """A second pod for the same index, as a partitioned node would leave one behind."""
    spec = pod["spec"]
    for field in ("nodeName", "serviceAccount"):
        spec.pop(field, None)
    made = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{pod['metadata']['name'][:50]}-twin",
            "labels": {
                "app.kubernetes.io/part-of": "si-ctl",
                "app.kubernetes.io/instance": "lab",
                "app.kubernetes.io/component": "explore",
                "twin": "yes",
            },
        },
        "spec": spec,
    }
    index = pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"]
    for container in spec["containers"]:
        container["args"] = [
            arg.replace("$(JOB_COMPLETION_INDEX)", index) for arg in container["args"]
        ]
        container["env"] = [each for each in container["env"] if "value" in each]
    lab.kubectl("create", "-f", "-", text=json.dumps(made))


def test_let_go_attach_cancel(lab: Lab) -> None:
    """Ctrl-C lets go, and the run goes on; cancel leaves nothing; the next one resumes."""
    words = ("iterate", "--on", "kubernetes", "-n", lab.namespace, *SMALL)
    process = subprocess.Popen(
        [SI_CTL, *words],
        cwd=lab.folder,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    lab.wait(lambda: _stages(lab), 120)
    process.send_signal(2)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 130
    assert (
        "The run continues" in said and f"si-ctl cancel --namespace {lab.namespace} {RUN}" in said
    )
    first = "it00/evaluate-explore"
    lab.wait(lambda: any(s["state"] == "done" for s in _stages(lab) if s["entry"] == first))
    lab.si_ctl("cancel", "-n", lab.namespace, RUN)
    mine = "app.kubernetes.io/part-of=si-ctl,si-ctl/run"
    lab.wait(lambda: not lab.get("jobs,pods,configmaps,leases", mine), 120)
    gone = lab.si_ctl("status", "--on", "kubernetes", "-n", lab.namespace, RUN, check=False)
    assert gone.returncode == 3
    before = set(lab.store().list("pool"))
    done = lab.iterate("--iterations", "1")
    assert re.search(rf"{first} +kept", done.stdout), done.stdout
    assert before <= set(lab.store().list("pool"))


def _stages(lab: Lab) -> list[dict]:
    try:
        return lab.status(RUN).get("stages", [])
    except AssertionError:
        return []


def test_a_server_takes_every_manifest(lab: Lab) -> None:
    """What --dry-run -o yaml prints passes a server-side dry run, and no Pod Security warning."""
    hub = ("--set", "model.source=owner/name")
    text = lab.iterate(*hub, "--dry-run", "-o", "yaml").stdout
    assert len(list(yaml.safe_load_all(text))) >= 11 and "-it00-fetch-1" in text
    words = ("create", "--dry-run=server", "-f", "-")
    answer = lab.kubectl(*words, text=text)
    assert answer.count("created (server dry run)") >= 11
    assert not lab.get("jobs")


def test_no_release_is_named(bare: Lab) -> None:
    """Without the chart the command says so, and what to type."""
    done = bare.iterate(check=False)
    assert done.returncode == 3
    assert "helm install" in done.stderr and "Traceback" not in done.stderr


def test_runs_that_end_early(lab: Lab) -> None:
    """A limit ends the run within a stage: exit code 6, the stage's Job is gone, the controller did
    not fail. Patience then ends it well; the same command again begins no controller."""
    price = ("--set", "place.price_per_cpu_hour=3600", "--max-cost", "0.001")
    limited = lab.iterate(*price, check=False)
    assert limited.returncode == 6, limited.stdout + limited.stderr
    assert "--max-cost 0.001 is reached" in limited.stderr
    tree = lab.status(RUN)
    assert tree["phase"] == "stopped" and tree["stopped"]["rule"] == "max_cost"
    stage = tree["stopped"]["next"].partition("/")[2]
    lab.wait(lambda: not lab.get("jobs", f"si-ctl/stage={stage}"), 60)
    shown = lab.si_ctl("status", "--on", "kubernetes", "-n", lab.namespace, RUN).stdout
    assert "is reached" in shown

    patient = lab.iterate("--iterations", "9", "--patience", "1")
    assert "No gain on dev" in patient.stdout and "Report:" in patient.stdout
    tree = lab.status(RUN)
    assert tree["phase"] == "done" and tree["stopped"]["rule"] == "patience"
    controllers = len(lab.get("jobs", "app.kubernetes.io/component=controller"))
    lab.iterate("--iterations", "9", "--patience", "1")
    assert len(lab.get("jobs", "app.kubernetes.io/component=controller")) == controllers
