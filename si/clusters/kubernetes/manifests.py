"""The objects to create on a cluster: the templates in `k8s/`, filled from the run and the place.

Pure functions over plain dicts, in the form of YAML and of the API. Jobs are created, never
applied: everything that a Job's pods do follows from its stage key.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import yaml

from si import __version__
from si import resources as shipped
from si.clusters.kubernetes.pods import fill, limit_scratch, patched, resources, variables
from si.config.place import Helper, Place, Pods, place_environment
from si.config.recipe import Recipe
from si.entry import Entry
from si.stages import STAGES
from si.store.keys import Spec, digest

Manifest = dict[str, Any]

KEY = "si-ctl/stage-key"
TEMPLATE = "si-ctl/template"  # digest of a Job's pod template
INSTANCE = "app.kubernetes.io/instance"
RUN, ITERATION, STAGE, ATTEMPT = "si-ctl/run", "si-ctl/iteration", "si-ctl/stage", "si-ctl/attempt"
QUEUE = "kueue.x-k8s.io/queue-name"
LONGEST = 52  # the longest name of a Job: its pods add an index and a suffix
MEETING_PORT = 29400  # where the pods of one training meet
FETCH = "it00/fetch"  # entry of the Job with access to the model hub


def short(release: str, run: str, rest: str, longest: int = LONGEST) -> str:
    """`<release>-<run>-<rest>`; a run's name that is too long ends in its digest."""
    room = longest - len(release) - len(rest) - 2
    if len(run) > room:
        run = f"{run[: room - 6].rstrip('-')}-{hashlib.sha256(run.encode()).hexdigest()[:5]}"
    return f"{release}-{run}-{rest}"


def run_name(place: Place, run: str) -> str:
    """The name of the run's ConfigMap."""
    return f"{place.kubernetes.release}-run-{run}"


def job_name(place: Place, run: str, generation: int, entry: str, attempt: int) -> str:
    """The name of a stage's Job. It is deterministic, so that controllers agree on it."""
    salt = f"g{generation}-" if generation > 1 else ""
    return short(
        place.kubernetes.release, run, f"{salt}{entry.replace('/', '-')}-{attempt}".lower()
    )


def pods_of(place: Place, stage: str) -> Pods:
    """The settings of a stage's pods: those of exploration, of training, or without a GPU."""
    kubernetes = place.kubernetes
    pods: Pods = getattr(kubernetes, STAGES[stage].image)
    return pods


def run_object(place: Place, run: str, recipe: Recipe, fresh: str = "") -> Manifest:
    """The run's ConfigMap, with recipe, place and the version that wrote them. It owns all objects
    of the run.

    Args:
        fresh: a token that requests a new generation; empty for none.
    """
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": run_name(place, run),
            "labels": {
                "app.kubernetes.io/name": "si-ctl",
                "app.kubernetes.io/part-of": "si-ctl",
                INSTANCE: place.kubernetes.release,
                "app.kubernetes.io/component": "run",
                RUN: run,
            },
        },
        "data": {
            "recipe": recipe.model_dump_json(),
            "place": place.model_dump_json(),
            "fresh": fresh,
            "state": "{}",
            "version": __version__,
        },
    }


def controller_job(place: Place, run: str, attempt: int, owner: Mapping[str, Any]) -> Manifest:
    """The controller's Job; `owner` is the run's ConfigMap as read from the cluster."""
    job = _template("controller")
    name = short(place.kubernetes.release, run, f"controller-{attempt}")
    own = place.kubernetes.controller
    pods = _inherit(place.kubernetes.verify, own)
    _fill(job, place, pods, name, run, {ATTEMPT: str(attempt)}, owner)
    container = job["spec"]["template"]["spec"]["containers"][0]
    if own.resources:
        resources(container, own.resources)
    container["args"] = [run, f"--release={place.kubernetes.release}"]
    # It mostly waits: the resources of verification would be wasted on it.
    job["spec"]["template"]["spec"]["serviceAccountName"] = place.kubernetes.controller_account
    return _sealed(job, place, "controller")


def _inherit(pods: Pods, own: Helper) -> Pods:
    """The settings of a helper's pods: its own, and for the rest those of another kind. A deadline
    and a scratch volume's limit are a stage's alone."""
    given = {"node_selector": own.node_selector, "tolerations": own.tolerations}
    changed: dict[str, Any] = {name: it for name, it in given.items() if it is not None}
    return pods.model_copy(update=changed | {"active_deadline": None, "scratch": ""})


def stage_job(
    place: Place,
    run: str,
    generation: int,
    entry: str,
    spec: Spec,
    owner: Mapping[str, Any],
    attempt: int = 1,
) -> Manifest:
    """A stage's Job: an indexed pod for each worker, all for one stage key.

    Args:
        entry: the stage's entry in the run, `it01/explore`.
        owner: the run's ConfigMap as read from the cluster.
        attempt: 1, or more if earlier Jobs of this stage have failed.
    """
    pods = pods_of(place, spec.stage)
    job = _template(spec.stage)
    _fill_entry(job, place, pods, run, generation, entry, attempt, spec.key, owner)
    workers = min(pods.workers, spec.shards) if STAGES[spec.stage].sharded else 1
    job["spec"]["completions"] = job["spec"]["parallelism"] = workers
    job["spec"]["backoffLimitPerIndex"] = place.retries
    if place.kubernetes.queue:
        job["metadata"]["labels"][QUEUE] = place.kubernetes.queue
    template = job["spec"]["template"]["spec"]
    container = template["containers"][0]
    container["args"] = [
        f"--address={spec.address}",
        "--worker=$(JOB_COMPLETION_INDEX)",
        f"--workers={workers}",
    ]
    resources(container, pods.resources, pods.scratch)
    limit_scratch(template, pods.scratch)
    for volume in template["volumes"]:
        if volume["name"] == "shm":
            volume["emptyDir"]["sizeLimit"] = pods.shared_memory
    if trains_together(place, spec):
        _together(job, place)
    return _sealed(job, place, STAGES[spec.stage].image)


def fetch_job(
    place: Place,
    run: str,
    generation: int,
    wish: Mapping[str, Any],
    owner: Mapping[str, Any],
    attempt: int = 1,
) -> Manifest:
    """The Job that fetches a run's model and data from the hub, the only one with access to it.

    It has the nodes and the image of exploration (converting a checkpoint needs its libraries), but
    requests no GPU.

    Args:
        wish: the recipe's settings that name model and data, by dotted name.
        owner: the run's ConfigMap as read from the cluster.
        attempt: 1, or more if earlier Jobs of this kind have failed.
    """
    kubernetes = place.kubernetes
    own = kubernetes.fetch
    job, pods = _template("fetch"), _inherit(kubernetes.explore, own)
    _fill_entry(job, place, pods, run, generation, FETCH, attempt, digest(wish), owner)
    job["spec"]["backoffLimit"] = place.retries
    template = job["spec"]["template"]["spec"]
    container = template["containers"][0]
    # --set reads YAML, which includes JSON. Kubernetes would expand `$(`.
    given = [f"--set={k}={json.dumps(v)}".replace("$(", "$$(") for k, v in sorted(wish.items())]
    container["args"] = ["fetch", *given]
    if kubernetes.hub_secret:
        token = {"secretRef": {"name": kubernetes.hub_secret}}
        container["envFrom"] = [*container["envFrom"], token]
    if kubernetes.cache_claim:
        container["env"] += variables({"HF_HOME": "/cache/huggingface"})
        claim = {"claimName": kubernetes.cache_claim}
        template["volumes"].append({"name": "cache", "persistentVolumeClaim": claim})
        container["volumeMounts"].append({"name": "cache", "mountPath": "/cache"})
    amounts = own.resources or {
        kind: {what: much for what, much in amounts.items() if "/" not in what}  # such as GPUs
        for kind, amounts in pods.resources.items()
    }
    resources(container, amounts)
    return _sealed(job, place, "fetch")


def _sealed(job: Manifest, place: Place, kind: str) -> Manifest:
    """The Job with the patch of its kind of pods and its pod template's digest, by which a Job with
    other settings is recognised."""
    patched(job, place.kubernetes, kind, getattr(place.kubernetes, kind).pod)
    sealed = digest(job["spec"]["template"])
    job["metadata"].setdefault("annotations", {})[TEMPLATE] = sealed
    return job


def trains_together(place: Place, spec: Spec) -> bool:
    """Whether a stage is a training of several pods, which start, end and fail together."""
    return spec.stage == "train" and place.kubernetes.train.workers > 1


def _together(job: Manifest, place: Place) -> None:
    """Let a Job's pods compute its only shard together, and find each other by name.

    If one of them fails, the others wait for it in vain. So the entire Job then fails, and the
    controller creates the next one: pods that Kubernetes restarts one by one would never meet.
    """
    name, release = job["metadata"]["name"], place.kubernetes.release
    pods = place.kubernetes.train.workers
    job["spec"]["completions"] = job["spec"]["parallelism"] = pods
    del job["spec"]["backoffLimitPerIndex"]
    job["spec"]["backoffLimit"] = 0
    rules = job["spec"]["podFailurePolicy"]["rules"]
    job["spec"]["podFailurePolicy"]["rules"] = [r for r in rules if r["action"] != "FailIndex"]
    template = job["spec"]["template"]["spec"]
    template["subdomain"] = f"{release}-train"
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    template["containers"][0]["env"] += [
        {"name": "SICTL_TRAIN_NODES", "value": str(pods)},
        {"name": "SICTL_TRAIN_NODE", "valueFrom": {"fieldRef": {"fieldPath": index}}},
        {"name": "SICTL_TRAIN_MASTER", "value": f"{name}-0.{release}-train:{MEETING_PORT}"},
    ]
    template["containers"][0]["args"][1] = "--worker=0"


def _fill_entry(
    job: Manifest,
    place: Place,
    pods: Pods,
    run: str,
    generation: int,
    entry: str,
    attempt: int,
    key: str,
    owner: Mapping[str, Any],
) -> None:
    """Fill in what all Jobs for an entry of a run have: the stage key, and in the environment the
    store."""
    where = Entry.parse(entry)
    labels = {ITERATION: f"{where.t:02d}", STAGE: where.step, ATTEMPT: str(attempt)}
    name = job_name(place, run, generation, entry, attempt)
    _fill(job, place, pods, name, run, labels, owner)
    job["metadata"].setdefault("annotations", {})[KEY] = key
    template = job["spec"]["template"]["spec"]
    template["serviceAccountName"] = place.kubernetes.stage_account
    template["containers"][0]["env"] += variables(place_environment(place))


def _fill(
    job: Manifest,
    place: Place,
    pods: Pods,
    name: str,
    run: str,
    labels: Mapping[str, str],
    owner: Mapping[str, Any],
) -> None:
    """Fill in what all Jobs of a run have from the place."""
    kubernetes = place.kubernetes
    labels = {INSTANCE: kubernetes.release, RUN: run, **labels}
    job["metadata"]["name"] = name
    job["metadata"]["labels"] |= labels
    job["metadata"]["ownerReferences"] = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
        }
    ]
    job["spec"]["ttlSecondsAfterFinished"] = kubernetes.keep_finished
    job["spec"]["template"]["metadata"]["labels"] |= labels
    fill(job, kubernetes, pods)


@cache
def _text(stage: str) -> str:
    return (shipped.folder("k8s") / f"{stage}.yaml").read_text()


def _template(stage: str) -> Manifest:
    job: Manifest = yaml.safe_load(_text(stage))
    return job


def belongs_to(job: Mapping[str, Any], owner: Mapping[str, Any]) -> bool:
    """Whether an object belongs to this very run's object, not to an earlier one of its name."""
    owners = job["metadata"].get("ownerReferences") or ()
    return any(each["uid"] == owner["metadata"]["uid"] for each in owners)


def state_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """The state that the controller last wrote to the run's ConfigMap."""
    state: dict[str, Any] = json.loads(run["data"].get("state") or "{}")
    return state
