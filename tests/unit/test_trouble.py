"""What a cluster's objects say is wrong, in words. The objects are as a real API returned them,
cut to what matters; tests/cluster meets them alive."""

import json
from types import SimpleNamespace

import pytest

from si import events
from si.clusters.kubernetes.diagnosis import (
    evicted,
    failure,
    finished,
    last_words,
    pressure,
    problems,
    stage_failed,
)
from si.clusters.kubernetes.jobs import KubernetesCluster
from si.clusters.kubernetes.runs import begin
from si.config.place import Place
from si.config.recipe import Recipe
from si.errors import RETRY, UNUSABLE, SiError, StageFailed
from si.store.folder import FolderStore
from si.store.keys import Spec
from tests.unit.fake_cluster import FakeCluster

JOB = {"metadata": {"name": "si-r-it01-explore-1", "uid": "u"}, "spec": {"parallelism": 1}}


def pod(phase="Pending", conditions=(), state=None, name="p"):
    return {
        "metadata": {"name": name},
        "status": {
            "phase": phase,
            "conditions": list(conditions),
            "containerStatuses": [{"image": "lab/explore:1", "state": state or {}}],
        },
    }


def ended(code, message="", reason="Error", at="2026-01-01T00:00:00Z", name="p", conditions=()):
    state = {"exitCode": code, "message": message, "reason": reason, "finishedAt": at}
    return pod("Failed", conditions, {"terminated": state}, name)


def headlines(*pods, job=JOB, warnings=()):
    return [problem.headline for problem in problems(job, pods, warnings)]


def test_unschedulable():
    """A pod that fits no node is named with the scheduler's reason."""
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
    }
    (problem,) = problems(JOB, [pod(conditions=[condition])], ())
    assert problem.headline == "No node fits the pods"
    assert "Insufficient nvidia.com/gpu" in problem.detail
    assert problem.ways_out


def test_image():
    """An image that cannot be pulled is named."""
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}
    assert headlines(pod(state=waiting)) == ["The image lab/explore:1 cannot be pulled"]


def test_secret():
    """A missing secret is named."""
    waiting = {"reason": "CreateContainerConfigError", "message": 'secret "key" not found'}
    (problem,) = problems(JOB, [pod(state={"waiting": waiting})], ())
    assert problem.headline == "A Secret is missing"
    assert "key" in problem.detail


def test_quota_and_pod_security():
    """A Job whose pods are refused is told by its events, and only by its own."""

    def event(message, uid="u"):
        return {"reason": "FailedCreate", "message": message, "involvedObject": {"uid": uid}}

    quota = event("pods is forbidden: exceeded quota: gpus")
    assert headlines(warnings=[quota]) == ["The namespace's quota is used up"]
    refused = event('violates PodSecurity "restricted:latest"')
    assert headlines(warnings=[refused]) == [
        "The namespace's Pod Security Standard rejects the pods"
    ]
    assert headlines(warnings=[event("exceeded quota", "another")]) == []
    done = JOB | {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}
    assert headlines(job=done, warnings=[quota]) == []


def test_suspended():
    """A Job that Kueue holds back is said to wait."""
    assert headlines(job=JOB | {"spec": {"suspend": True}}) == [
        "The Job is suspended: it is waiting for quota"
    ]


def test_running_pods_are_not_a_problem():
    """A running pod is not a problem, nor is one that was just created."""
    assert headlines(pod("Running"), pod()) == []


def test_failures():
    """Disruption, lack of memory and exit codes are told apart; a sound pod did not fail."""
    disrupted = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
    assert "PreemptionByScheduler" in failure(ended(137, conditions=[disrupted]))
    assert "OOMKilled" in failure(ended(137, reason="OOMKilled"))
    assert failure(ended(4)) == "failed with exit code 4"
    assert failure(pod("Running")) is None


def evicted_pod(resource, index="0", name="p", reason="Evicted"):
    """A pod as a kubelet leaves it that is short of a resource."""
    condition = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
    made = pod("Failed", [condition], name=name)
    made["metadata"]["annotations"] = {"batch.kubernetes.io/job-completion-index": index}
    made["status"] |= {
        "reason": reason,
        "message": f"The node was low on resource: {resource}. Threshold quantity: 100Mi, "
        "available: 90Mi. Container stage was using 9Gi, request is 0, has larger consumption.",
    }
    return made


def test_evictions_are_counted_by_reason():
    """A pod that nodes evict again and again ends the stage, with the resource and the value."""
    pods = [evicted_pod("memory", name=f"p-{n}") for n in range(3)]
    assert pressure(pods[0]) == "memory"
    assert evicted("it01/explore", "explore", pods, 3) is None
    error = evicted("it01/explore", "explore", pods, 2)
    assert "evicted pod 0 of stage it01/explore 3 times: they ran out of memory" in str(error)
    assert "place.kubernetes.explore.resources.requests.memory" in str(error)
    disk = [evicted_pod("ephemeral-storage", name=f"p-{n}") for n in range(3)]
    assert "place.kubernetes.train.scratch" in str(evicted("it01/train", "train", disk, 2))


def test_evictions_count_for_each_index_and_no_other_disruption_does():
    """Pods of several indexes share no count; drains, preemptions and node shutdowns have none."""
    spread = [evicted_pod("memory", str(n), f"p-{n}") for n in range(9)]
    assert evicted("it01/explore", "explore", spread, 1) is None
    shut = [evicted_pod("memory", reason="Terminated") for _ in range(9)]
    drain = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
    drained = [pod("Failed", [drain]) for _ in range(9)]
    assert evicted("it01/explore", "explore", shut + drained, 0) is None


def test_a_stage_that_is_evicted_for_ever_ends(tmp_path):
    """The controller removes its Job, whose pods Kubernetes would replace without an end."""
    cluster = FakeCluster()
    owner = begin(cluster, Place(store="s3://bucket", retries=1), Recipe(), "r", False).owner
    place = Place(store="s3://bucket", retries=1)
    doing = KubernetesCluster(cluster, place, "r", 1, owner, FolderStore(tmp_path))
    name = "si-r-it01-explore-1"

    def pods():
        uid = cluster.job(name)["metadata"]["uid"]
        made = [evicted_pod("memory", name=f"{name}-{n}") for n in range(2)]
        for each in made:
            each["metadata"]["ownerReferences"] = [{"uid": uid}]
        return made

    doing.jobs = SimpleNamespace(get=cluster.job)
    doing.pods, doing.warnings = SimpleNamespace(all=pods), SimpleNamespace(all=list)
    heard = []
    spec = Spec("explore", "it01", {}, {}, {}, shards=1)
    with pytest.raises(StageFailed, match="they ran out of memory"):
        doing.run("it01/explore", spec, heard.append)
    assert cluster.job(name) is None
    assert [event["why"] for event in heard if event["event"] == "failure"] == [
        "was disrupted (TerminationByKubelet)"
    ] * 2


def test_finished():
    """Only a condition that is true ends a Job."""
    condition = {"type": "Failed", "status": "False"}
    assert finished(JOB) is None
    assert finished(JOB | {"status": {"conditions": [condition]}}) is None
    condition["status"] = "True"
    assert finished(JOB | {"status": {"conditions": [condition]}}) == "Failed"


def test_stage_says_what_its_pod_said():
    """Of several failed pods the one whose error lets nobody try again is quoted."""
    said = {"headline": "The data set is empty", "detail": "d", "ways_out": ["w"]}
    broken = ended(UNUSABLE, json.dumps(said), name="a")
    later = ended(RETRY, "", at="2026-01-02T00:00:00Z", name="b")
    error = stage_failed("it01/explore", JOB, [later, broken])
    assert error.headline == "The data set is empty"
    assert error.exit_code == UNUSABLE
    assert "it01/explore" in error.detail
    plain = stage_failed("it01/explore", JOB, [ended(137, reason="OOMKilled")])
    assert "out of memory" in plain.headline
    assert plain.exit_code == RETRY
    assert "memory" in plain.ways_out[0]


def test_last_words_may_be_anything():
    """A pod's last words that are no error of ours are left alone."""
    for message in ("", "Killed", "[1]", '{"headline": 1}', '{"headline": "a", "det'):
        assert last_words(ended(1, message)) is None


@pytest.mark.parametrize("detail,ways", [("d", ("a", "b")), ("ü" * 5000, ("w" * 3000,) * 3)])
def test_what_a_process_leaves_is_what_is_read(detail, ways, tmp_path, monkeypatch):
    """An error's last words come back, however long it was; where there is no place for them
    nothing is left."""
    place = tmp_path / "termination-log"
    monkeypatch.setattr(events, "LAST_WORDS", place)
    events.last_words(SiError("é" * 300, detail, ways))
    assert not place.exists()
    place.touch()
    events.last_words(SiError("é" * 300, detail, ways))
    message = place.read_bytes()[: events.MOST].decode()
    said = last_words(ended(3, message))
    assert said["headline"] == "é" * 300 and detail.startswith(said["detail"])
