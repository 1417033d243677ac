"""Diagnosis of Jobs: what a cluster's objects report, in words, with what to do about it.

Pure functions over plain dicts as the API returns them. Problems are reported while the Job is
waiting. They do not end it, because most are solved from outside (a node, a Secret).
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from si.errors import RETRY, UNUSABLE, StageFailed

Thing = Mapping[str, Any]

_PULL = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
INDEX = "batch.kubernetes.io/job-completion-index"
_CONFIG = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")

_AGAIN = "Then helm upgrade, and the same iterate command with --apply."


class Problem(NamedTuple):
    """A headline that stays the same as long as the problem does, details, and ways out."""

    headline: str
    detail: str
    ways_out: tuple[str, ...]


def problems(job: Thing, pods: Iterable[Thing], warnings: Iterable[Thing]) -> Iterator[Problem]:
    """Everything that currently keeps a Job's pods from running.

    Args:
        job: the Job.
        pods: its pods.
        warnings: all events of type Warning in its namespace.
    """
    pods = [pod for pod in pods if pod.get("status", {}).get("phase") == "Pending"]
    for pod in pods:
        yield from _of_pod(pod)
    if job.get("spec", {}).get("suspend"):
        yield Problem(
            "The Job is suspended: it is waiting for quota",
            _conditions(job, "Suspended"),
            ("Inspect the queue: kubectl get workloads",),
        )
    status = job.get("status", {})
    short_of = job.get("spec", {}).get("parallelism", 1) - status.get("active", 0)
    if not pods and short_of > 0 and not finished(job):
        yield from _without_pods(job, warnings)
    names = {pod["metadata"]["name"] for pod in pods}
    for event in warnings:
        about = event.get("involvedObject", {})
        if event.get("reason") in ("FailedMount", "FailedAttachVolume") and about["name"] in names:
            yield Problem(
                "A volume of the pods cannot be mounted",
                event.get("message", ""),
                ("Inspect the claim (place.kubernetes.cache_claim): kubectl get pvc",),
            )


def _of_pod(pod: Thing) -> Iterator[Problem]:
    status = pod.get("status", {})
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            yield Problem(
                "No node fits the pods",
                condition.get("message", ""),
                (
                    "Add a node with what the pods request; the run then continues.",
                    "Or request less: resources, node_selector and tolerations under "
                    "place.kubernetes in the chart's values. " + _AGAIN,
                ),
            )
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        if reason in _PULL:
            yield Problem(
                f"The image {container['image']} cannot be pulled",
                f"{reason}: {message}",
                (
                    "Check the reference in place.kubernetes of the chart's values, and that the "
                    "image exists. " + _AGAIN,
                    "For a private registry set place.kubernetes.pull_secrets.",
                ),
            )
        elif reason in _CONFIG:
            missing = "secret" in message and "not found" in message
            yield Problem(
                "A Secret is missing" if missing else "The container cannot be created",
                message,
                (
                    "Create it: kubectl create secret generic ...; the run then continues. "
                    "place.kubernetes.secret contains AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                    "the bucket's credentials; hub_secret contains HF_TOKEN."
                    if missing
                    else "See kubectl describe pod " + pod["metadata"]["name"],
                ),
            )


def _without_pods(job: Thing, warnings: Iterable[Thing]) -> Iterator[Problem]:
    """Why a Job has no pods, according to its events."""
    for event in warnings:
        about = event.get("involvedObject", {})
        if about.get("uid") != job["metadata"].get("uid") or event.get("reason") != "FailedCreate":
            continue
        message = event.get("message", "")
        if "exceeded quota" in message:
            headline = "The namespace's quota is used up"
            way = "Free some of it, raise it, or request less; the run then continues."
        elif "PodSecurity" in message:
            headline = "The namespace's Pod Security Standard rejects the pods"
            way = "Check what place.kubernetes adds to the pods."
        else:
            headline, way = "The Job's pods cannot be created", "See kubectl get events"
        yield Problem(headline, message, (way,))


def finished(job: Thing) -> str | None:
    """`Complete` or `Failed` if the Job has ended; else None."""
    for condition in job.get("status", {}).get("conditions") or ():
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            kind: str = condition["type"]
            return kind
    return None


def started(pod: Thing) -> bool:
    """Whether a container of the pod has started, be it now or earlier."""
    status = pod.get("status", {})
    states = [each.get("state") or {} for each in status.get("containerStatuses") or ()]
    ran = any({"running", "terminated"} & state.keys() for state in states)
    return ran or status.get("phase") in ("Running", "Succeeded", "Failed")


def failure(pod: Thing) -> str | None:
    """Why a pod failed, in a few words; None if it has not failed."""
    status = pod.get("status", {})
    if status.get("phase") != "Failed":
        return None
    for condition in status.get("conditions") or ():
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            return f"was disrupted ({condition.get('reason', 'unknown')})"
    ended = _ended(pod)
    if ended.get("reason") == "OOMKilled":
        return "ran out of memory (OOMKilled)"
    if "exitCode" in ended:
        return f"failed with exit code {ended['exitCode']}"
    return str(status.get("reason") or "failed")


def pressure(pod: Thing) -> str | None:
    """The resource that a node ran out of when it evicted the pod; None if it did not."""
    status = pod.get("status", {})
    disrupted = any(
        condition["type"] == "DisruptionTarget"
        and condition.get("reason") == "TerminationByKubelet"
        for condition in status.get("conditions") or ()
    )
    if not disrupted or status.get("reason") != "Evicted":
        return None  # a node that is shut down ends its pods by the same condition
    found = re.search(r"low on resource: ([\w.-]+\w)", status.get("message") or "")
    return found[1] if found else "an unknown resource"


def evicted(entry: str, kind: str, pods: Iterable[Thing], retries: int) -> StageFailed | None:
    """The error of a Job of which nodes evicted the same pod again and again, which Kubernetes
    repeats without an end; None if no pod was evicted more than `retries` times.

    Args:
        kind: explore, verify or train, for what to do.
    """
    by_index: dict[str, list[str]] = {}
    for pod in pods:
        if (resource := pressure(pod)) and failure(pod):
            index = (pod["metadata"].get("annotations") or {}).get(INDEX, "0")
            by_index.setdefault(index, []).append(resource)
    for index, resources in by_index.items():
        if len(resources) <= retries:
            continue
        what = max(set(resources), key=resources.count)
        setting = {
            "memory": f"place.kubernetes.{kind}.resources.requests.memory",
            "ephemeral-storage": f"place.kubernetes.{kind}.scratch",
        }.get(what, f"place.kubernetes.{kind}.resources.requests")
        return StageFailed(
            f"Nodes evicted pod {index} of stage {entry} {len(resources)} times: they ran out of "
            f"{what}",
            "place.retries allows " + str(retries),
            (
                f"Request what it needs, so that it runs on a node that has it: {setting} in the "
                "chart's values. " + _AGAIN,
            ),
            exit_code=RETRY,
        )
    return None


def stage_failed(entry: str, job: Thing, pods: Iterable[Thing]) -> StageFailed:
    """The error of a failed Job, from the last words of its pods."""
    name = job["metadata"]["name"]
    where = f"in stage {entry}, Job {name}"
    newest = sorted(
        (pod for pod in pods if failure(pod)),
        key=lambda pod: _ended(pod).get("finishedAt") or "",
    )
    unusable = [pod for pod in newest if _ended(pod).get("exitCode") == UNUSABLE]
    logs = "Read the log: si-ctl logs RUN --stage " + entry
    for pod in (*unusable, *newest[::-1]):
        said = last_words(pod)
        if said:
            return StageFailed(
                said["headline"],
                f"{said['detail']}\n{where}, pod {pod['metadata']['name']}",
                (*said["ways_out"], logs),
                exit_code=UNUSABLE if pod in unusable else RETRY,
            )
    why = failure(newest[-1]) if newest else _conditions(job, "Failed")
    ways = ["Run the same command again; it resumes.", logs]
    if newest and _ended(newest[-1]).get("reason") == "OOMKilled":
        ways.insert(0, "Raise the pods' memory: resources.limits.memory under place.kubernetes.")
    pod_name = f"pod {newest[-1]['metadata']['name']} " if newest else ""
    return StageFailed(
        f"Stage {entry} failed: {pod_name}{why}", where, tuple(ways), exit_code=RETRY
    )


def last_words(pod: Thing) -> dict[str, Any] | None:
    """The error that a stage wrote to its pod's termination log (`si.events.last_words`); None if
    there is none."""
    try:
        said = json.loads(_ended(pod).get("message") or "")
    except ValueError:
        return None
    whole = isinstance(said, dict) and {"headline", "detail", "ways_out"} <= said.keys()
    return said if whole else None


def _ended(pod: Thing) -> dict[str, Any]:
    for container in pod.get("status", {}).get("containerStatuses") or ():
        ended: dict[str, Any] = (container.get("state") or {}).get("terminated") or {}
        if ended:
            return ended
    return {}


def _conditions(thing: Thing, kind: str) -> str:
    return "; ".join(
        condition.get("message") or condition.get("reason") or ""
        for condition in thing.get("status", {}).get("conditions") or ()
        if condition["type"] == kind
    )
