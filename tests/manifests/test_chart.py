"""The chart, rendered by Helm itself. Skipped where there is none: building one takes minutes,
which no single test has."""

import ipaddress
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from si import __version__
from si.clusters.kubernetes.runs import find_release
from si.config.loading import keys, load
from si.config.place import Place

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm/si-ctl"
OFFLINE = ROOT / "tests/cluster/offline/tool"  # builds a cluster tool, prints its path
GENERATOR = runpy.run_path(str(ROOT / "helm/schema.py"))
DIGEST = "registry.example:5000/si/{}@sha256:" + "0123456789abcdef" * 4

PODS = {
    "workers": 3,
    "resources": {
        "requests": {"cpu": "2", "memory": "8Gi"},
        "limits": {"nvidia.com/gpu": "2", "memory": "16Gi"},
    },
    "node_selector": {"pool": "gpu", "spot": "true"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "priority_class": "low",
    "grace_seconds": 120,
    "shared_memory": "16Gi",
    # What a careless writer of YAML would turn into numbers, times and booleans.
    "env": {"A": "1e5", "B": "yes", "C": "0x1F", "D": "12:30:45", "E": "0o17", "F": "1_000"},
    "env_from": [{"configMapRef": {"name": "proxy"}}],
    "labels": {"team": "vision"},
    "annotations": {"karpenter.sh/do-not-disrupt": "true"},
    "runtime_class": "nvidia",
    "scheduler": "volcano",
    "affinity": {"podAntiAffinity": {}},
    "topology_spread": [{"topologyKey": "rack", "maxSkew": 1}],
    "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
    "mounts": [{"name": "data", "mountPath": "/data"}],
    "scratch": "200Gi",
    "active_deadline": 3600,
    "pod": {"spec": {"dnsPolicy": "Default"}},
}
HELPER = {
    "resources": {"limits": {"cpu": "2"}},
    "node_selector": {"pool": "cpu"},
    "tolerations": [],
    "pod": {"metadata": {"annotations": {"a": "b"}}},
}
FULL = {
    "place": {
        "store": "s3://bucket/some/prefix",
        "s3": {
            "endpoint": "http://minio.minio.svc:9000",
            "region": "eu-1",
            "path_style": False,
            "checksums": "when_supported",
            "endpoint_external": "https://s3.example.org",
        },
        "workers": 4,
        "gpus": 8,
        "tensor_parallel": 2,
        "retries": 5,
        "gpu_type": "H100",
        "price_per_gpu_hour": 2.5,
        "price_per_cpu_hour": 0.1,
        "max_gpu_hours": 100,
        "max_cost": 250,
        "trackers": ["mlflow"],
        "kubernetes": {
            "secret": "bucket",
            "hub_secret": "hub-token",
            "secret_keys": {},
            "ca_secret": "authorities",
            "user": 20000,
            "allow_unrestricted": True,
            "fetch": HELPER,
            "controller": HELPER,
            "pull_policy": "Always",
            "pull_secrets": ["registry", "other"],
            "queue": "team-a",
            "keep_finished": 2592000,
            **{
                kind: {"image": DIGEST.format(kind), **PODS}
                for kind in ("explore", "verify", "train")
            },
        },
    },
    "serviceAccount": {
        "controllerAnnotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/c"},
        "stageAnnotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/s"},
    },
    "networkPolicy": {
        "dns": {"cidrs": ["169.254.20.10/32"], "podSelector": {"matchLabels": {"k8s-app": "dns"}}},
        "bucket": {
            "cidrs": ["10.1.0.0/16"],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "minio"}},
            "podSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]},
            "ports": [9000],
        },
        "hub": {"podSelector": {"matchLabels": {"app": "mirror"}}, "cidrs": [], "ports": [8080]},
        "apiServer": {"cidrs": ["10.0.0.1/32"], "ports": [6443]},
        "credentials": {"cidrs": ["169.254.170.23/32"]},
    },
    "cache": {"enabled": True, "size": "50Gi", "storageClass": "fast"},
    "labels": {"team": "vision", "app.kubernetes.io/name": "not-taken"},
}
IMAGES = {"images": {"registry": "registry.example/si"}}
STORE = {"place": {"store": "s3://bucket"}, **IMAGES}


@pytest.fixture(scope="module")
def helm(tmp_path_factory):
    """Runs Helm with values; the finished process."""
    binary = shutil.which("helm")
    if binary is None:
        built = subprocess.run([OFFLINE, "have", "helm"], capture_output=True, text=True)
        binary = built.stdout.strip() or None
    if binary is None:
        pytest.skip("no helm is here: install it, or build it by tests/cluster/offline/tool helm")
    home = tmp_path_factory.mktemp("helm")
    surroundings = {**os.environ, "HOME": str(home)}

    def run(*words, values):
        (home / "values.yaml").write_text(json.dumps(values))
        return subprocess.run(
            [binary, *words, CHART, "--kube-version=1.33.0", f"--values={home / 'values.yaml'}"],
            capture_output=True,
            text=True,
            env=surroundings,
        )

    return run


@pytest.fixture(scope="module")
def render(helm):
    """The objects that the chart makes, by kind and name."""

    def objects(values, release="si", namespace="lab"):
        done = helm("template", release, f"--namespace={namespace}", values=values)
        assert done.returncode == 0, done.stderr
        found = {}
        for item in yaml.load_all(done.stdout, UniqueKeys):
            assert (item["kind"], item["metadata"]["name"]) not in found
            found[item["kind"], item["metadata"]["name"]] = item
        return found

    return objects


class UniqueKeys(yaml.SafeLoader):
    """Refuses what the API server refuses: a key that is there twice."""

    def construct_mapping(self, node, deep=False):
        names = [key.value for key, _ in node.value]
        assert len(names) == len(set(names)), names
        return super().construct_mapping(node, deep)


@pytest.fixture(scope="module", params=["defaults", "full"])
def either(request, render):
    """The chart's objects with the defaults, and with every value given."""
    return render(STORE if request.param == "defaults" else FULL)


def place_of(objects, folder):
    """The place as si-ctl reads it from the ConfigMap, and the tree that lies there."""
    (config,) = (item for (kind, _), item in objects.items() if kind == "ConfigMap")
    (text,) = config["data"].values()
    path = folder / "place.yaml"
    path.write_text(text)
    return load(path, environment={})[1], yaml.safe_load(text)["place"]


def policies(objects):
    return {name: item["spec"] for (kind, name), item in objects.items() if kind == "NetworkPolicy"}


def test_generated_files_are_up_to_date():
    """`make chart` would change neither the schema nor the README's table."""
    for path, content in GENERATOR["files"]().items():
        assert path.read_text() == content, f"{path.name} is stale: make chart"


def test_every_value_has_a_comment():
    """Above every key of values.yaml stands what it means."""
    assert [name for name, _, comment in GENERATOR["values"]() if not comment] == []


def test_values_are_the_place():
    """values.yaml has every key of the Place but those that the chart decides, and no other."""
    given = {name for name, *_ in GENERATOR["values"]() if name.startswith("place.")}
    decided = {f"place.kubernetes.{name}" for name in GENERATOR["DECIDED"]}
    known = {f"place.{name}" for name in keys(Place)}
    # What a map holds (resources) is free.
    assert {name for name in given if ".resources." not in name} == known - decided
    assert decided <= known


def test_schema_refuses_what_it_does_not_know():
    """Every object of the schema with named keys takes those alone."""

    def objects(node):
        if isinstance(node, dict):
            if "properties" in node:
                yield node
            for below in node.values():
                yield from objects(below)

    found = list(objects(GENERATOR["schema"]()))
    assert len(found) >= 10
    assert all(node["additionalProperties"] is False for node in found)


def test_versions_agree():
    """Chart, images and package have one version."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__
    place = yaml.safe_load((CHART / "values.yaml").read_text())["place"]
    for kind in ("explore", "verify", "train"):
        default = getattr(Place().kubernetes, kind).image
        assert place["kubernetes"][kind]["image"] == default
        assert default.endswith(f":{__version__}")


@pytest.mark.parametrize("values", [{}, FULL], ids=["defaults", "full"])
def test_lint(helm, values):
    """Helm's linter has nothing to say, strictly."""
    done = helm("lint", "--strict", values=values)
    assert done.returncode == 0, done.stdout + done.stderr


def test_defaults_reach_si_ctl(render, tmp_path):
    """With nothing but a store given, si-ctl reads the chart's defaults from the ConfigMap."""
    place, _ = place_of(render(STORE), tmp_path)
    assert place.store == "s3://bucket"
    assert place.kubernetes.explore.resources == {"limits": {"nvidia.com/gpu": "1"}}
    assert place.kubernetes.cache_claim == ""


def test_values_reach_si_ctl(render, tmp_path):
    """Every value given below `place` is what si-ctl reads, beside what the chart decides."""
    objects = render(FULL, "team-a")
    place, tree = place_of(objects, tmp_path)
    decided = {
        "release": "team-a",
        "controller_account": "team-a-controller",
        "stage_account": "team-a-stage",
        "cache_claim": "team-a-cache",
    }
    expected = {**FULL["place"], "kubernetes": {**FULL["place"]["kubernetes"], **decided}}
    assert tree == expected
    assert place.model_dump(mode="json") == expected
    accounts = (decided["controller_account"], decided["stage_account"])
    assert all(("ServiceAccount", name) in objects for name in accounts)
    assert ("PersistentVolumeClaim", decided["cache_claim"]) in objects


def test_what_a_run_may_change_reaches_si_ctl(render):
    """si-ctl reads `allow` and the version from the release's object. By default a run may change
    its width and its limits, but not where its data goes, what code it runs, or its priority."""

    class Cluster:
        namespace = "lab"

        def __init__(self, objects):
            self.found = [o for (kind, _), o in objects.items() if kind == "ConfigMap"]

        def config_maps(self, selector):
            return self.found

    release = find_release(Cluster(render(STORE, "team-a")), None)
    assert (release.name, release.version) == ("team-a", __version__)
    assert release.place["store"] == "s3://bucket"
    free = {name for name in keys(Place) if release.allows(name)}
    assert {"max_cost", "retries", "kubernetes.train.workers", "kubernetes.explore.env"} <= free
    assert not {name for name in free if name.startswith(("store", "s3"))}
    last = {name.rpartition(".")[2] for name in free}
    assert not {"image", "secret", "queue", "node_selector", "priority_class", "release"} & last
    closed = find_release(Cluster(render({**STORE, "allow": []})), None)
    assert not any(closed.allows(name) for name in keys(Place))


def test_place_is_found_by_its_labels(either):
    """One ConfigMap bears the labels by which si-ctl looks for the place."""
    wanted = {
        "app.kubernetes.io/name": "si-ctl",
        "app.kubernetes.io/component": "place",
        "app.kubernetes.io/instance": "si",
        "app.kubernetes.io/managed-by": "Helm",
        "app.kubernetes.io/version": __version__,
        "helm.sh/chart": f"si-ctl-{__version__}",
    }
    found = [
        (kind, list(item["data"]))
        for (kind, _), item in either.items()
        if wanted.items() <= item["metadata"]["labels"].items()
    ]
    assert found == [("ConfigMap", ["place.yaml"])]


def test_own_labels_are_everywhere(render):
    """Labels of the values are on every object and take none of the chart's away."""
    for item in render(FULL).values():
        labels = item["metadata"]["labels"]
        assert (labels["team"], labels["app.kubernetes.io/name"]) == ("vision", "si-ctl")
        assert labels["app.kubernetes.io/part-of"] == "si-ctl"


def images_of(objects, folder):
    """The images of the place, and of the pod of `helm test`."""
    kubernetes = place_of(objects, folder)[0].kubernetes
    there = [getattr(kubernetes, kind).image for kind in ("explore", "verify", "train")]
    assert objects["Pod", "si-check"]["spec"]["containers"][0]["image"] == there[1]
    return there


def test_one_registry_and_tag_for_all_images(render, tmp_path):
    """They complete names without a path, and leave other references as they are."""
    images = {"registry": "ghcr.io/my-team/", "tag": "1.2.3"}
    values = {**STORE, "images": images}
    assert images_of(render(values), tmp_path) == [
        f"ghcr.io/my-team/si-ctl-{kind}:1.2.3" for kind in ("explore", "verify", "train")
    ]
    assert images_of(render(STORE), tmp_path)[0] == (
        f"registry.example/si/si-ctl-explore:{__version__}"
    )
    assert images_of(render({**FULL, "images": images}), tmp_path) == [
        DIGEST.format(kind) for kind in ("explore", "verify", "train")
    ]


def test_images_that_no_node_can_pull_are_refused(helm, render, tmp_path):
    """A reference without a registry is refused with what to do, unless nodes have the image."""
    done = helm("template", "si", values={"place": STORE["place"]})
    assert done.returncode != 0
    assert "names no registry" in done.stderr and "images.registry" in done.stderr
    here = {"place": {"store": "s3://b", "kubernetes": {"pull_policy": "Never"}}}
    assert images_of(render(here), tmp_path)[0] == f"si-ctl-explore:{__version__}"


def test_a_gpu_can_be_taken_away(render, tmp_path):
    """`nvidia.com/gpu: null` leaves a place without GPUs, for CPUs."""
    none = {"resources": {"limits": {"nvidia.com/gpu": None}}}
    kubernetes = {"explore": none, "train": none}
    values = {"place": {"store": "s3://b", "kubernetes": kubernetes}, **IMAGES}
    place, _ = place_of(render(values), tmp_path)
    assert place.kubernetes.explore.resources == place.kubernetes.train.resources == {"limits": {}}


@pytest.mark.parametrize(
    "values,words",
    [
        ({"place": {"stor": "s3://b"}}, "stor"),
        ({"place": {"store": "s3://b", "kubernetes": {"verify": {"nodes": {}}}}}, "nodes"),
        ({"place": {"store": "s3://b", "kubernetes": {"release": "mine"}}}, "release"),
        ({**STORE, "networkPolicies": {}}, "networkPolicies"),
        ({**STORE, "networkPolicy": {"bucket": {"cidr": "10.0.0.0/8"}}}, "cidr"),
        ({**STORE, "networkPolicy": {"dns": {"podSelector": {"app": "dns"}}}}, "app"),
        ({**STORE, "cache": {"accessMode": "ReadWriteSometimes"}}, "accessMode"),
        ({"place": {"store": "./si-runs"}}, "store"),
        ({}, "place.store is empty: name your bucket"),
    ],
)
def test_what_cannot_be_is_refused(helm, values, words):
    """A misspelt or impossible value is refused before anything is installed, by its name."""
    done = helm("template", "si", values=values)
    assert done.returncode != 0
    assert words in done.stderr


def test_a_chart_above_may_hand_in_globals(render):
    """As part of another chart it takes that one's `global`."""
    assert render({**STORE, "global": {"anything": 1}})


@pytest.mark.parametrize("release,fits", [("a", True), ("abcdefgh-12345", True), ("a" * 15, False)])
def test_names_fit(helm, render, release, fits):
    """A release's name of 14 characters is taken, a longer one refused with the reason."""
    if fits:
        for _, name in render(FULL, release):
            assert re.fullmatch(r"[a-z][-a-z0-9]{0,61}[a-z0-9]", name)
            assert name.startswith(release)
    else:
        done = helm("template", release, values=STORE)
        assert done.returncode != 0
        assert "at most 14" in done.stderr


def test_names_that_yaml_takes_for_something_else(render, tmp_path):
    """A release `on` in a namespace `123`, with a Secret `0x1`: all stay words."""
    kubernetes = {"secret": "0x1", "pull_secrets": ["1e3"], "verify": {"env": {"Y": "1"}}}
    values = {"place": {"store": "s3://b", "kubernetes": kubernetes}, **IMAGES}
    objects = render(values, "on", "123")
    assert {o["metadata"]["labels"]["app.kubernetes.io/instance"] for o in objects.values()} == {
        "on"
    }
    assert objects["RoleBinding", "on-controller"]["subjects"][0]["namespace"] == "123"
    spec = objects["Pod", "on-check"]["spec"]
    assert spec["containers"][0]["envFrom"] == [{"secretRef": {"name": "0x1"}}]
    assert spec["containers"][0]["env"][-1] == {"name": "Y", "value": "1"}
    assert spec["imagePullSecrets"] == [{"name": "1e3"}]
    assert place_of(objects, tmp_path)[0].kubernetes.release == "on"


def test_the_controller_may_do_this_and_no_more(either):
    """The role is what is listed here, bound to the controller's account alone."""
    role = either["Role", "si-controller"]
    granted = {
        (group, resource): set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert granted == {
        ("batch", "jobs"): {"create", "get", "list", "watch", "delete"},
        ("", "pods"): {"get", "list", "watch"},
        ("", "pods/log"): {"get"},
        ("", "configmaps"): {"get", "list", "watch", "create", "update", "patch"},
        ("coordination.k8s.io", "leases"): {"get", "create", "update", "patch"},
        ("", "events"): {"get", "list", "watch"},
    }
    binding = either["RoleBinding", "si-controller"]
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": "si-controller", "namespace": "lab"}
    ]
    assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) == ("Role", "si-controller")
    assert {kind for kind, _ in either} <= {
        "ServiceAccount", "Role", "RoleBinding", "ConfigMap", "Service", "NetworkPolicy",
        "PersistentVolumeClaim", "Pod",
    }  # fmt: skip


def test_accounts(either):
    """Only the controller's pods get a token."""
    tokens = {
        name: item["automountServiceAccountToken"]
        for (kind, name), item in either.items()
        if kind == "ServiceAccount"
    }
    assert tokens == {"si-controller": True, "si-stage": False}


def test_accounts_bear_the_clouds_annotations(render):
    """Annotations for IRSA go to the account that they are given for."""
    objects = render(FULL)
    for who in ("controller", "stage"):
        annotations = objects["ServiceAccount", f"si-{who}"]["metadata"]["annotations"]
        assert annotations == FULL["serviceAccount"][f"{who}Annotations"]


def test_pods_pass_the_restricted_standard(either):
    """Every pod is as the `restricted` Pod Security Standard wants it, its root read-only."""
    pods = [item for (kind, _), item in either.items() if kind == "Pod"]
    assert pods
    for pod in pods:
        spec = pod["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        kinds = {"name", "configMap", "emptyDir", "secret"}
        assert all(not v.keys() - kinds for v in spec["volumes"])
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] in (10001, 20000)
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert spec["serviceAccountName"] == "si-stage"
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_the_check_is_a_pod_of_the_place(render):
    """`helm test` starts a pod with verify's image, settings and the bucket's Secret."""
    pod = render(FULL)["Pod", "si-check"]
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    spec, (container,) = pod["spec"], pod["spec"]["containers"]
    assert container["image"] == DIGEST.format("verify")
    assert container["imagePullPolicy"] == "Always"
    assert container["envFrom"] == [{"secretRef": {"name": "bucket"}}]
    assert container["resources"] == PODS["resources"]
    assert PODS["env"].items() <= {e["name"]: e["value"] for e in container["env"]}.items()
    assert spec["imagePullSecrets"] == [{"name": "registry"}, {"name": "other"}]
    assert spec["nodeSelector"] == PODS["node_selector"]
    assert spec["tolerations"] == PODS["tolerations"]
    assert spec["priorityClassName"] == "low"


def test_the_check_has_other_keys_authorities_and_users(render, tmp_path):
    """A Secret with keys of its own, a private authority, and a platform that assigns users."""
    keys = {"AWS_ACCESS_KEY_ID": "user", "AWS_SECRET_ACCESS_KEY": "password"}
    given = {"secret": "bucket", "secret_keys": keys, "ca_secret": "authorities", "user": None}
    values = {**STORE, "place": {"store": "s3://b", "kubernetes": given}}
    objects = render(values)
    assert place_of(objects, tmp_path)[0].kubernetes.user is None
    spec = objects["Pod", "si-check"]["spec"]
    (container,) = spec["containers"]
    variables = {each["name"]: each for each in container["env"]}
    for name, key in keys.items():
        reference = {"secretKeyRef": {"name": "bucket", "key": key}}
        assert variables[name]["valueFrom"] == reference
    assert "envFrom" not in container
    assert variables["AWS_CA_BUNDLE"]["value"] == "/etc/si-ctl/ca/ca.crt"
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert mounts["ca"] == "/etc/si-ctl/ca"
    assert {"name": "ca", "secret": {"secretName": "authorities"}} in spec["volumes"]
    assert spec["securityContext"].keys() == {"runAsNonRoot", "seccompProfile"}


def test_amounts_may_be_numbers(render, tmp_path):
    """`--set` gives numbers, which Kubernetes takes, too."""
    limits = {"nvidia.com/gpu": 2, "cpu": 0.5, "memory": "8Gi"}
    values = {**STORE, "place": {"store": "s3://b", "kubernetes": {"train": {}}}}
    values["place"]["kubernetes"]["train"]["resources"] = {"limits": limits}
    train = place_of(render(values), tmp_path)[0].kubernetes.train
    assert train.resources["limits"] == {"nvidia.com/gpu": "2", "cpu": "0.5", "memory": "8Gi"}


def test_the_check_checks(render, s3_server, tmp_path):
    """The pod's own command, twice on a good bucket, on none, and on a place with an error."""

    def check(store, change=lambda text: text):
        s3 = {"endpoint": s3_server, "region": "us-east-1"}
        objects = render({"place": {"store": store, "s3": s3}, **IMAGES})
        (container,) = objects["Pod", "si-check"]["spec"]["containers"]
        *command, path = container["command"]
        (mount,) = (m for m in container["volumeMounts"] if m["name"] == "place")
        ((key, text),) = objects["ConfigMap", "si-place"]["data"].items()
        assert path == f"{mount['mountPath']}/{key}"
        here = tmp_path / key
        here.write_text(change(text))
        return subprocess.run(
            [sys.executable, *command[1:], here],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    for _ in range(2):
        good = check("s3://si-test/checked")
        assert (good.returncode, good.stderr) == (0, "")
        assert "commits exactly once" in good.stdout
    absent = check("s3://no-such-bucket")
    assert absent.returncode == 4
    assert "no-such-bucket" in absent.stderr
    wrong = check("s3://si-test", lambda text: text.replace("retries:", "retires:"))
    assert wrong.returncode == 3
    assert "did you mean place.retries?" in wrong.stderr


def test_a_server_that_overwrites_is_named(tmp_path):
    """The pod's command fails on a store that puts the same object twice."""
    source = (CHART / "files/check.py").read_text()
    careless = "import si.store.folder as f; f.FolderStore.create = lambda *_: True\n"
    (tmp_path / "place.yaml").write_text(f"place: {{store: {tmp_path / 'runs'}}}\n")
    done = subprocess.run(
        [sys.executable, "-c", careless + source, tmp_path / "place.yaml"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1
    assert "ignores If-None-Match" in done.stderr


def test_nothing_in_nothing_out(either):
    """One policy denies the release's pods everything; no other opens more than it names."""
    whole = {"app.kubernetes.io/part-of": "si-ctl", "app.kubernetes.io/instance": "si"}
    deny = policies(either)["si-deny"]
    assert deny == {"podSelector": {"matchLabels": whole}, "policyTypes": ["Ingress", "Egress"]}
    for spec in policies(either).values():
        assert whole.items() <= spec["podSelector"]["matchLabels"].items()
        for rule in spec.get("egress", []):
            assert rule["to"]  # an empty list would mean anywhere
            assert all(peer for peer in rule["to"])


def test_policies_by_default(render):
    """Names, the bucket at any address, the API for the controller, the hub for who fetches,
    training pods to each other."""
    found = policies(render(STORE))
    assert set(found) == {"si-deny", "si-dns", "si-bucket", "si-hub", "si-api-server", "si-train"}
    component = "app.kubernetes.io/component"
    chosen = {n: s["podSelector"]["matchLabels"].get(component) for n, s in found.items()}
    assert {n: c for n, c in chosen.items() if c} == {
        "si-api-server": "controller",
        "si-hub": "fetch",
        "si-train": "train",
    }
    (names,) = found["si-dns"]["egress"]
    assert {(p["protocol"], p["port"]) for p in names["ports"]} == {("UDP", 53), ("TCP", 53)}
    (train,) = found["si-train"]["ingress"]
    assert train["from"] == [{"podSelector": found["si-train"]["podSelector"]}]
    assert train["from"] == found["si-train"]["egress"][0]["to"]


def test_policies_as_given(render):
    """Addresses, selectors and ports of the values are those of the policies."""
    found, given = policies(render(FULL)), FULL["networkPolicy"]
    (bucket,) = found["si-bucket"]["egress"]
    assert bucket == {
        "to": [
            {"ipBlock": {"cidr": "10.1.0.0/16"}},
            {
                "namespaceSelector": given["bucket"]["namespaceSelector"],
                "podSelector": given["bucket"]["podSelector"],
            },
        ],
        "ports": [{"protocol": "TCP", "port": 9000}],
    }
    (credentials,) = found["si-credentials"]["egress"]
    assert credentials == {
        "to": [{"ipBlock": {"cidr": "169.254.170.23/32"}}],
        "ports": [{"protocol": "TCP", "port": 80}],
    }
    (hub,) = found["si-hub"]["egress"]
    assert hub == {
        "to": [{"podSelector": given["hub"]["podSelector"]}],
        "ports": [{"protocol": "TCP", "port": 8080}],
    }
    (api,) = found["si-api-server"]["egress"]
    assert api["ports"] == [{"protocol": "TCP", "port": 6443}]


def test_no_destination_no_policy(render):
    """A destination without addresses and selectors is shut, not open to anywhere."""
    values = {**STORE, "networkPolicy": {"bucket": {"cidrs": []}, "apiServer": {"ports": []}}}
    assert {"si-bucket", "si-api-server"}.isdisjoint(policies(render(values)))


def reaches(rules, address, port):
    """Whether egress rules with address ranges allow a flow, as NetworkPolicies are defined."""
    address = ipaddress.ip_address(address)

    def within(block):
        inside = address in ipaddress.ip_network(block["cidr"])
        return inside and not any(
            address in ipaddress.ip_network(less) for less in block.get("except", ())
        )

    return any(
        any("ipBlock" in peer and within(peer["ipBlock"]) for peer in rule["to"])
        and any(port == allowed["port"] for allowed in rule["ports"])
        for rule in rules
    )


@pytest.mark.parametrize(
    ("address", "where"),
    [
        ("169.254.20.10", "NodeLocal DNSCache"),
        ("169.254.169.254", "GKE's Cloud DNS"),
        ("10.96.0.10", "kubeadm's DNS Service"),
        ("172.20.0.10", "EKS' DNS Service"),
        ("34.118.224.10", "GKE's DNS Service"),
        ("fd00:10:96::a", "an IPv6 cluster's DNS Service"),
    ],
)
def test_names_are_resolved_on_a_stock_cluster(render, address, where):
    """The default policies let every pod ask the DNS server of that cluster, and nothing else of
    it."""
    rules = policies(render(STORE))["si-dns"]["egress"]
    assert reaches(rules, address, 53), where
    assert not reaches(rules, address, 80), where


def test_metadata_and_other_name_servers_stay_closed(render):
    """Opening the DNS port of private addresses opens neither the cloud's metadata nor the DNS
    servers of the internet."""
    rules = [
        rule
        for name, spec in policies(render(STORE)).items()
        if name not in ("si-bucket", "si-hub", "si-api-server")
        for rule in spec.get("egress", ())
        if "ports" in rule
    ]
    assert not reaches(rules, "169.254.169.254", 80)
    assert not reaches(rules, "8.8.8.8", 53)


@pytest.mark.parametrize("port", [443, 6443, 8443, 16443])
def test_the_controller_reaches_the_api(render, port):
    """By default it reaches the ports on which stock API servers listen."""
    assert reaches(policies(render(STORE))["si-api-server"]["egress"], "10.0.0.1", port)


def test_addresses_can_be_left_out_of_a_range(render):
    """A range with `except` is an ipBlock, beside ranges that are text."""
    block = {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "169.254.0.0/16"]}
    values = {**STORE, "networkPolicy": {"bucket": {"cidrs": [block, "10.9.0.0/16"]}}}
    rules = policies(render(values))["si-bucket"]["egress"]
    assert rules[0]["to"] == [{"ipBlock": block}, {"ipBlock": {"cidr": "10.9.0.0/16"}}]
    assert reaches(rules, "52.0.0.1", 443) and reaches(rules, "10.9.0.1", 443)
    assert not reaches(rules, "10.8.0.1", 443) and not reaches(rules, "169.254.169.254", 443)


@pytest.mark.parametrize("name", ["dns", "bucket", "hub", "apiServer", "credentials"])
def test_a_destination_can_be_left_to_the_operator(render, name):
    """`enabled: false` leaves out one destination's policy and keeps the others."""
    given = {"credentials": {"cidrs": ["169.254.170.23/32"]}}
    before = set(policies(render({**STORE, "networkPolicy": given})))
    given = {**given, name: {**given.get(name, {}), "enabled": False}}
    gone = before - set(policies(render({**STORE, "networkPolicy": given})))
    assert gone == {"si-" + {"apiServer": "api-server"}.get(name, name)}


def test_further_egress_is_taken_as_given(render):
    """Rules of the values are a policy for all pods of the release, word for word."""
    rules = [{"to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}], "ports": [{"port": 1, "endPort": 9}]}]
    found = policies(render({**STORE, "networkPolicy": {"egress": rules}}))["si-egress"]
    assert found["egress"] == rules and found["policyTypes"] == ["Egress"]
    assert found["podSelector"] == policies(render(STORE))["si-deny"]["podSelector"]
    assert "si-egress" not in policies(render(STORE))


def test_cilium_reaches_the_api_by_its_entity(helm, render):
    """Cilium matches no range against an API server. Its own policy is created where the cluster
    knows that kind, or where the values say so."""

    def cilium(*words, **given):
        values = {**STORE, "networkPolicy": {"cilium": given}}
        done = helm("template", "si", *words, values=values)
        assert done.returncode == 0, done.stderr
        objects = yaml.load_all(done.stdout, UniqueKeys)
        return {o["metadata"]["name"]: o["spec"] for o in objects if o["kind"].startswith("Cilium")}

    knows = "--api-versions=cilium.io/v2/CiliumNetworkPolicy"
    assert cilium() == cilium(knows, enabled=False) == {}
    assert cilium(knows) == cilium(enabled=True)
    (spec,) = cilium(enabled=True).values()
    assert spec["egress"] == [{"toEntities": ["kube-apiserver"]}]
    assert spec["endpointSelector"]["matchLabels"]["app.kubernetes.io/component"] == "controller"

    names = [{"matchName": "bucket.s3.amazonaws.com"}]
    found = cilium(enabled=True, bucket=names, hub=[{"matchPattern": "*.huggingface.co"}])
    assert set(found) == {"si-api-server", "si-bucket-names", "si-hub-names"}
    dns, reach = found["si-bucket-names"]["egress"]
    assert reach == {
        "toFQDNs": names,
        "toPorts": [{"ports": [{"port": "443", "protocol": "TCP"}]}],
    }
    assert dns["toPorts"][0]["rules"] == {"dns": [{"matchPattern": "*"}]}
    everyone = found["si-bucket-names"]["endpointSelector"]["matchLabels"]
    assert "app.kubernetes.io/component" not in everyone
    fetching = found["si-hub-names"]["endpointSelector"]["matchLabels"]
    assert fetching["app.kubernetes.io/component"] == "fetch"


def test_policies_can_be_left_out(render):
    """networkPolicy.enabled: false makes none."""
    assert policies(render({**STORE, "networkPolicy": {"enabled": False}})) == {}


def test_training_pods_have_names(either):
    """The Service of training pods is headless, names pods that are not ready, selects train's."""
    spec = either["Service", "si-train"]["spec"]
    assert (spec["clusterIP"], spec["publishNotReadyAddresses"]) == ("None", True)
    assert spec["selector"] == policies(either)["si-train"]["podSelector"]["matchLabels"]


def test_cache(render, tmp_path):
    """By default no claim; enabled one of the chart's, or the one that is there already."""
    objects = render(FULL)
    assert objects["PersistentVolumeClaim", "si-cache"]["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "fast",
        "resources": {"requests": {"storage": "50Gi"}},
    }
    assert not [kind for kind, _ in render(STORE) if kind == "PersistentVolumeClaim"]
    there = render({**STORE, "cache": {"enabled": True, "existingClaim": "models"}})
    assert not [kind for kind, _ in there if kind == "PersistentVolumeClaim"]
    assert place_of(there, tmp_path)[0].kubernetes.cache_claim == "models"


def test_readme_examples(render, tmp_path):
    """The values that the README shows are taken."""
    readme = (CHART / "README.md").read_text()
    blocks = re.findall(r"(?:^    .*\n)+", readme, re.MULTILINE)
    examples = [yaml.safe_load(block) for block in blocks if block.startswith("    place:")]
    assert len(examples) == 2
    for example in examples:
        example["place"].setdefault("store", "s3://bucket")
        example.setdefault("images", IMAGES["images"])
        place_of(render(example), tmp_path)
