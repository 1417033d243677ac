"""The Jobs of k8s/: whole as they stand, filled by the Place, alike where they should be."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from si.clusters.kubernetes.manifests import (
    KEY,
    LONGEST,
    controller_job,
    fetch_job,
    job_name,
    run_object,
    short,
    stage_job,
)
from si.config.loading import assignment
from si.config.place import Kubernetes, Place, Pods
from si.config.recipe import Recipe
from si.stages import STAGES
from si.store.keys import Spec

K8S = Path(__file__).parents[2] / "k8s"
OWNER = {"metadata": {"name": "si-run-r", "uid": "u-1", "labels": {}}}
PLACE = Place(
    store="s3://bucket/prefix",
    retries=3,
    kubernetes=Kubernetes(
        release="lab",
        secret="bucket-key",
        pull_secrets=["registry-key"],
        hub_secret="hub-token",
        cache_claim="models",
        queue="gpus",
        explore=Pods(
            image="registry.example/explore@sha256:" + "0" * 64,
            workers=3,
            resources={"limits": {"nvidia.com/gpu": "1"}},
            node_selector={"gpu": "h100"},
            tolerations=[{"key": "gpu", "operator": "Exists"}],
            priority_class="low",
            shared_memory="8Gi",
            env={"OMP_NUM_THREADS": "2"},
        ),
    ),
)


def spec(stage="explore", shards=8):
    return Spec(stage, "it01-x", {}, {}, {}, shards)


def template(job):
    return job["spec"]["template"]["spec"]


@pytest.mark.parametrize("stage", [*STAGES, "controller", "fetch"])
def test_every_job_is_restricted(stage):
    """Every Job's pods meet the restricted Pod Security Standard, and mount no host path."""
    job = yaml.safe_load((K8S / f"{stage}.yaml").read_text())
    pod = template(job)
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert all("emptyDir" in volume for volume in pod["volumes"])
    assert pod["enableServiceLinks"] is False
    if stage != "controller":
        assert pod["automountServiceAccountToken"] is False


def test_stages_differ_only_where_they_must():
    """Apart from name, component, script, image and address all stages' Jobs are one text."""

    def same(stage):
        text = (K8S / f"{stage}.yaml").read_text()
        text = re.sub(r"si-embedded-gr-k8-s0-it0\d-[a-z-]+-1", "NAME", text)
        text = re.sub(r"pool/\S+", "ADDRESS", text)
        text = re.sub(r"si-ctl-(explore|verify|train):", "IMAGE:", text)
        text = re.sub(r"kubernetes\.(explore|verify|train)\.", "kubernetes.KIND.", text)
        text = re.sub(rf"(component: |jobs/){stage}", r"\1STAGE", text)
        return [
            re.sub(r"\s*#.*", "", line) for line in text.splitlines() if not line.startswith("#")
        ]

    for stage in STAGES:
        assert same(stage) == same("explore"), stage


def test_place_fills_a_stage():
    """Everything that the place says of a kind of pods is in its Job."""
    job = stage_job(PLACE, "r", 1, "it01/explore", spec(), OWNER)
    pod = template(job)
    (container,) = pod["containers"]
    assert job["metadata"]["name"] == "lab-r-it01-explore-1"
    assert job["metadata"]["annotations"][KEY] == spec().key
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert job["metadata"]["ownerReferences"][0]["uid"] == "u-1"
    assert (job["spec"]["completions"], job["spec"]["parallelism"]) == (3, 3)
    assert job["spec"]["backoffLimitPerIndex"] == 3
    assert container["image"] == PLACE.kubernetes.explore.image
    assert container["args"][0] == f"--address={spec().address}"
    assert container["args"][2] == "--workers=3"
    assert container["resources"] == {"limits": {"nvidia.com/gpu": "1"}}
    assert container["envFrom"] == [{"secretRef": {"name": "bucket-key"}}]
    variables = {each["name"]: each["value"] for each in container["env"]}
    assert variables["SI_PLACE__STORE"] == "s3://bucket/prefix"
    assert variables["OMP_NUM_THREADS"] == "2"
    assert pod["nodeSelector"] == {"gpu": "h100"}
    assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert pod["priorityClassName"] == "low"
    assert pod["imagePullSecrets"] == [{"name": "registry-key"}]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["shm"]["emptyDir"]["sizeLimit"] == "8Gi"
    assert "cache" not in volumes and "HF_HOME" not in variables


def test_only_the_fetching_job_gets_the_hubs_token():
    """It runs where exploration does, without its GPU, knows the recipe's words to the letter, and
    keeps what it downloads in the claim."""
    wish = {"data.source": "hub:me/geo", "data.map": "answer=$(A)", "data.answer_kind": None}
    job = fetch_job(PLACE, "r", 1, wish, OWNER)
    pod = template(job)
    (container,) = pod["containers"]
    assert job["metadata"]["name"] == "lab-r-it00-fetch-1"
    assert job["metadata"]["labels"]["app.kubernetes.io/component"] == "fetch"
    assert "kueue.x-k8s.io/queue-name" not in job["metadata"]["labels"]
    assert job["spec"]["backoffLimit"] == 3
    assert container["image"] == PLACE.kubernetes.explore.image
    assert pod["nodeSelector"] == {"gpu": "h100"}
    assert container["resources"] == {"limits": {}}
    names = [each["secretRef"]["name"] for each in container["envFrom"]]
    assert names == ["bucket-key", "hub-token"]
    verb, *given = container["args"]
    read = dict(assignment(word.removeprefix("--set=").replace("$$(", "$(")) for word in given)
    assert verb == "fetch" and read == wish and "--set=data.map" in given[1]
    assert not any(re.search(r"(?<!\$)\$\(", word) for word in given)
    variables = {each["name"]: each["value"] for each in container["env"]}
    assert variables["HF_HOME"] == "/cache/huggingface"
    assert variables["SI_PLACE__STORE"] == "s3://bucket/prefix"
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["cache"]["persistentVolumeClaim"] == {"claimName": "models"}
    others = [stage_job(PLACE, "r", 1, f"it01/{stage}", spec(stage), OWNER) for stage in STAGES]
    others.append(controller_job(PLACE, "r", 1, OWNER))
    assert all("hub-token" not in str(other) for other in others)
    more = fetch_job(PLACE, "r", 1, wish | {"data.map": ""}, OWNER, 2)
    assert more["metadata"]["name"].endswith("-2")
    assert more["metadata"]["annotations"] != job["metadata"]["annotations"]


def test_few_shards_need_few_pods():
    """There are never more pods than shards, and one for a stage that is not shared out."""
    assert (
        stage_job(PLACE, "r", 1, "it01/explore", spec(shards=2), OWNER)["spec"]["completions"] == 2
    )
    train = stage_job(PLACE, "r", 1, "it01/train", spec("train", 1), OWNER)
    assert train["spec"]["completions"] == 1


def test_pods_of_a_training_work_together():
    """They do the one shard together, find the first by name, and fail as one."""
    train = Pods(image="registry.example/train:1", workers=2)
    kubernetes = PLACE.kubernetes.model_copy(update={"train": train})
    place = PLACE.model_copy(update={"kubernetes": kubernetes})
    job = stage_job(place, "r", 1, "it01/train", spec("train", 1), OWNER)
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 2
    assert job["spec"]["backoffLimit"] == 0 and "backoffLimitPerIndex" not in job["spec"]
    actions = [rule["action"] for rule in job["spec"]["podFailurePolicy"]["rules"]]
    assert actions == ["Ignore", "FailJob"]
    (container,) = template(job)["containers"]
    assert container["args"][1:] == ["--worker=0", "--workers=1"]
    variables = {each["name"]: each for each in container["env"]}
    first = f"{job['metadata']['name']}-0.{template(job)['subdomain']}:29400"
    assert variables["SICTL_TRAIN_MASTER"]["value"] == first
    assert "job-completion-index" in str(variables["SICTL_TRAIN_NODE"]["valueFrom"])


def test_filling_leaves_the_template_alone():
    """Two Jobs made after one another share nothing."""
    first = stage_job(PLACE, "r", 1, "it01/explore", spec(), OWNER)
    template(first)["containers"][0]["env"].append("mine")
    second = stage_job(PLACE, "r", 1, "it01/explore", spec(), OWNER)
    assert "mine" not in template(second)["containers"][0]["env"]


def test_controller_and_run_object():
    """The controller's Job names the run; the run's object carries recipe and place, no secret."""
    run = run_object(PLACE, "r", Recipe())
    assert run["metadata"]["name"] == "lab-run-r"
    assert Recipe.model_validate_json(run["data"]["recipe"]) == Recipe()
    assert Place.model_validate_json(run["data"]["place"]) == PLACE
    job = controller_job(PLACE, "r", 2, OWNER)
    assert job["metadata"]["name"] == "lab-r-controller-2"
    assert template(job)["containers"][0]["args"] == ["r", "--release=lab"]
    assert template(job)["serviceAccountName"] == "si-controller"


NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,28}[a-z0-9])?", fullmatch=True)


@given(
    st.from_regex(r"[a-z]([-a-z0-9]{0,12}[a-z0-9])?", fullmatch=True),
    NAMES,
    st.integers(1, 99),
    st.sampled_from(["it01/explore", "it12/evaluate-explore", "it00/levels-explore"]),
    st.integers(1, 99),
)
def test_job_names_are_short_labels(release, run, generation, entry, attempt):
    """Whatever release and run are called, a Job's name is a DNS label of at most 52 characters."""
    place = Place(kubernetes=Kubernetes(release=release))
    name = job_name(place, run, generation, entry, attempt)
    assert len(name) <= LONGEST
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)


@given(NAMES, NAMES)
def test_different_runs_have_different_jobs(one, other):
    """A shortened name still tells two runs apart."""
    rest = "it01-evaluate-explore-1"
    assert (short("longer-release", one, rest) == short("longer-release", other, rest)) == (
        one == other
    )
