"""Every field of a pod can be had: by a value of its own, or by a patch, which must not lift a
restriction by accident."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from si.cli.on_cluster import _plan
from si.clusters.kubernetes.manifests import controller_job, fetch_job, stage_job
from si.clusters.kubernetes.patch import merge
from si.config.place import Helper, Kubernetes, Place, Pods
from si.config.recipe import Recipe
from si.errors import RecipeError
from si.store.keys import Spec

OWNER = {"metadata": {"name": "si-run-r", "uid": "u-1", "labels": {}}}
WISH = {"model.source": "owner/name"}
TOOL = Path(__file__).parents[1] / "cluster/offline/tool"


def place(more=None, **kubernetes):
    """A place whose exploring pods have these settings."""
    explore = Pods(image="registry/explore:1", **(more or {}))
    return Place(store="s3://bucket", kubernetes=Kubernetes(explore=explore, **kubernetes))


def explore(more=None, **kubernetes):
    """The Job of an exploration, its pods' spec and its container."""
    spec = Spec("explore", "it01", {}, {}, {}, 8)
    job = stage_job(place(more, **kubernetes), "r", 1, "it01/explore", spec, OWNER)
    pod = job["spec"]["template"]["spec"]
    return job, pod, pod["containers"][0]


def variables(container):
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


def test_labels_and_annotations():
    """They are on the Job and its pods, and take none of ours away: policies select by those."""
    given = {"kueue.x-k8s.io/priority-class": "high", "app.kubernetes.io/part-of": "mine"}
    notes = {"karpenter.sh/do-not-disrupt": "true", "si-ctl/stage-key": "mine"}
    job, _, _ = explore({"labels": given, "annotations": notes})
    for metadata in (job["metadata"], job["spec"]["template"]["metadata"]):
        assert metadata["labels"]["kueue.x-k8s.io/priority-class"] == "high"
        assert metadata["labels"]["app.kubernetes.io/part-of"] == "si-ctl"
        assert metadata["annotations"]["karpenter.sh/do-not-disrupt"] == "true"
    assert job["metadata"]["annotations"]["si-ctl/stage-key"] not in ("mine", "")


@pytest.mark.parametrize(
    ("setting", "value", "field"),
    [
        ("runtime_class", "nvidia", "runtimeClassName"),
        ("scheduler", "volcano", "schedulerName"),
        ("affinity", {"nodeAffinity": {}}, "affinity"),
        ("topology_spread", [{"topologyKey": "rack"}], "topologySpreadConstraints"),
    ],
)
def test_fields_of_the_pod(setting, value, field):
    """A value becomes the pod's field, which is absent by default."""
    assert explore({setting: value})[1][field] == value
    assert field not in explore()[1]


def test_volumes_mounts_and_variables_from_elsewhere():
    """They are added to ours."""
    volume = {"name": "cache", "persistentVolumeClaim": {"claimName": "models"}}
    mount = {"name": "cache", "mountPath": "/models"}
    source = {"configMapRef": {"name": "proxy"}}
    given = {"volumes": [volume], "mounts": [mount], "env_from": [source]}
    _, pod, container = explore(given, secret="bucket")
    assert volume in pod["volumes"] and mount in container["volumeMounts"]
    assert {"scratch", "tmp", "shm"} < {each["name"] for each in pod["volumes"]}
    assert container["envFrom"] == [{"secretRef": {"name": "bucket"}}, source]


def test_a_limited_scratch_volume_is_requested():
    """The scheduler then knows what a model and its checkpoints need on the node's disk."""
    limits = {"limits": {"nvidia.com/gpu": "1"}}
    _, pod, container = explore({"scratch": "200Gi", "resources": limits})
    (scratch,) = (each for each in pod["volumes"] if each["name"] == "scratch")
    assert scratch["emptyDir"] == {"sizeLimit": "200Gi"}
    assert container["resources"] == {**limits, "requests": {"ephemeral-storage": "200Gi"}}


def test_a_deadline_ends_a_job():
    """By default nothing does."""
    assert explore({"active_deadline": 3600})[0]["spec"]["activeDeadlineSeconds"] == 3600
    assert "activeDeadlineSeconds" not in explore()[0]["spec"]


def test_secrets_with_keys_of_their_own():
    """Each variable refers to its key, and nothing else of the Secret comes in."""
    keys = {"AWS_ACCESS_KEY_ID": "user", "AWS_SECRET_ACCESS_KEY": "password"}
    _, _, container = explore(secret="bucket", secret_keys=keys)
    found = variables(container)
    assert found["AWS_ACCESS_KEY_ID"] == {"secretKeyRef": {"name": "bucket", "key": "user"}}
    assert container["envFrom"] == []


def test_a_private_authority_is_trusted_everywhere():
    """Stages, the fetching Job and the controller mount it and name it to their libraries."""
    where = place(ca_secret="authorities")
    for job in (
        explore(ca_secret="authorities")[0],
        fetch_job(where, "r", 1, WISH, OWNER),
        controller_job(where, "r", 1, OWNER),
    ):
        pod = job["spec"]["template"]["spec"]
        assert {"name": "ca", "secret": {"secretName": "authorities"}} in pod["volumes"]
        found = variables(pod["containers"][0])
        assert found["AWS_CA_BUNDLE"] == found["SSL_CERT_FILE"] == "/etc/si-ctl/ca/ca.crt"


def test_a_platform_may_assign_users():
    """Without a user the pods still run as a user other than root, with a seccomp profile."""
    _, pod, _ = explore(user=None)
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def test_helpers_have_resources_and_nodes_of_their_own():
    """The fetching Job and the controller take explore's and verify's where nothing is set."""
    gpus = {"node_selector": {"gpu": "h100"}, "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    gpus |= {"active_deadline": 60, "scratch": "9Gi"}
    own = Helper(resources={"limits": {"cpu": "2"}}, node_selector={}, tolerations=[{"key": "x"}])
    job = fetch_job(place(gpus), "r", 1, WISH, OWNER)
    pod = job["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"gpu": "h100"} and "tolerations" not in pod
    assert "activeDeadlineSeconds" not in job["spec"]
    where = place(gpus, fetch=own, controller=own)
    for job in (fetch_job(where, "r", 1, WISH, OWNER), controller_job(where, "r", 1, OWNER)):
        pod = job["spec"]["template"]["spec"]
        assert "nodeSelector" not in pod and pod["tolerations"] == [{"key": "x"}]
        assert pod["containers"][0]["resources"] == {"limits": {"cpu": "2"}}


def test_any_other_field_by_a_patch():
    """It is merged into the template by the names of containers, variables and volumes."""
    patch = {
        "metadata": {"annotations": {"sidecar.istio.io/inject": "false"}, "labels": {"a": "b"}},
        "spec": {
            "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["hub"]}],
            "containers": [{"name": "stage", "env": [{"name": "TMPDIR", "value": "/data"}]}],
            "volumes": [{"name": "scratch", "$patch": "replace", "ephemeral": {}}],
        },
    }
    job, pod, container = explore({"pod": patch})
    assert pod["hostAliases"][0]["ip"] == "10.0.0.1"
    assert variables(container)["TMPDIR"] == "/data" and container["image"] == "registry/explore:1"
    assert {"name": "scratch", "ephemeral": {}} in pod["volumes"]
    metadata = job["spec"]["template"]["metadata"]
    assert metadata["annotations"]["sidecar.istio.io/inject"] == "false"
    assert metadata["labels"]["a"] == "b"
    for kind, make in (("fetch", fetch_job), ("controller", None)):
        where = place(**{kind: Helper(pod={"spec": {"hostname": kind}})})
        job = make(where, "r", 1, WISH, OWNER) if make else controller_job(where, "r", 1, OWNER)
        assert job["spec"]["template"]["spec"]["hostname"] == kind


STAGE = {"name": "stage"}


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ({"hostNetwork": True}, "spec.hostNetwork"),
        ({"hostPID": True}, "spec.hostPID"),
        ({"serviceAccountName": "si-controller"}, "spec.serviceAccountName"),
        ({"automountServiceAccountToken": True}, "spec.automountServiceAccountToken"),
        ({"securityContext": {"runAsUser": 0}}, "spec.securityContext.runAsUser"),
        ({"securityContext": {"runAsNonRoot": False}}, "spec.securityContext.runAsNonRoot"),
        ({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}, "seccompProfile"),
        ({"volumes": [{"name": "h", "hostPath": {"path": "/"}}]}, "spec.volumes[h].hostPath"),
        ({"containers": [STAGE | {"securityContext": {"privileged": True}}]}, "privileged"),
        (
            {"containers": [STAGE | {"securityContext": {"capabilities": {"add": ["IPC_LOCK"]}}}]},
            "capabilities.add",
        ),
        (
            {"containers": [STAGE | {"securityContext": {"allowPrivilegeEscalation": True}}]},
            "allowPrivilegeEscalation",
        ),
        ({"containers": [STAGE | {"ports": [{"containerPort": 1, "hostPort": 1}]}]}, "hostPort"),
        ({"initContainers": [{"name": "i", "image": "x"}]}, "spec.initContainers[i]"),
    ],
)
def test_restrictions_are_not_lifted_by_accident(spec, named):
    """Each field that the restricted standard refuses is named, before anything is created, unless
    the operator allows it."""
    where = place({"pod": {"spec": spec}})
    with pytest.raises(RecipeError, match="restricted Pod Security Standard") as error:
        _plan(where, Recipe(), "r")
    assert named in error.value.detail and "place.kubernetes.explore" in error.value.detail
    assert explore({"pod": {"spec": spec}}, allow_unrestricted=True)


def test_a_host_path_among_the_volumes_is_refused_too():
    """First-class volumes are held to the same standard."""
    with pytest.raises(RecipeError, match="restricted"):
        explore({"volumes": [{"name": "h", "hostPath": {"path": "/"}}]})


@pytest.mark.parametrize(
    "patch", [{"hostNetwork": True}, {"spec": {"containers": ["stage"]}}, {"metadata": "x"}]
)
def test_what_is_not_a_patch_is_named(patch):
    """A field at the wrong level, or text where a mapping belongs, is an error in words."""
    with pytest.raises(RecipeError, match=r"place.kubernetes.explore.pod is not a patch"):
        explore({"pod": patch})


def kubectl():
    found = shutil.which("kubectl")
    if found is None:
        built = subprocess.run([TOOL, "have", "kubectl"], capture_output=True, text=True)
        found = built.stdout.strip() or None
    return found


PATCHES = [
    {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "only"}]},
    {"containers": [{"name": "stage", "env": [{"name": "HOME", "value": "/h"}]}]},
    {"containers": [{"name": "stage", "volumeMounts": [{"mountPath": "/tmp", "name": "scratch"}]}]},
    {"containers": [{"name": "stage", "args": ["other"]}, {"name": "more", "image": "i"}]},
    {"volumes": [{"name": "shm", "$patch": "delete"}]},
    {"volumes": [{"name": "tmp", "emptyDir": None, "configMap": {"name": "c"}}]},
    {"securityContext": {"$patch": "replace", "runAsUser": 5}},
    {"terminationGracePeriodSeconds": None, "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["x"]}]},
]


@pytest.mark.parametrize("patch", PATCHES, ids=range(len(PATCHES)))
def test_patches_merge_as_kubectl_merges_them(patch, tmp_path):
    """The same patch by kubectl itself, without a server, gives the same pod."""
    tool = kubectl()
    if tool is None:
        pytest.skip("no kubectl is here: install it, or build it by tests/cluster/offline/tool")
    _, spec, _ = explore({"tolerations": [{"key": "gpu", "operator": "Exists"}]})
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}
    (tmp_path / "pod.json").write_text(json.dumps(pod))
    words = [
        tool,
        "patch",
        "--local",
        "-f",
        tmp_path / "pod.json",
        "--type=strategic",
        "-o",
        "json",
    ]
    done = subprocess.run(
        [*words, "-p", json.dumps({"spec": patch})], capture_output=True, check=True, text=True
    )
    theirs = json.loads(done.stdout)["spec"]

    def settled(spec):
        for container in spec["containers"]:
            if not container.get("envFrom"):
                container.pop("envFrom", None)  # kubectl leaves out what is empty
            if not container.get("resources"):
                container["resources"] = {}
        by_name = {"containers": "name", "volumes": "name"}
        return {
            key: sorted(value, key=lambda item: item["name"]) if key in by_name else value
            for key, value in spec.items()
        }

    assert settled(merge(spec, patch)) == settled(theirs)
