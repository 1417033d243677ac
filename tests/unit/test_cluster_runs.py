"""Runs on a cluster: which objects are a run's own, what begins anew, and what changed settings
do to what waits."""

import json

import pytest

from si.cli import control, on_cluster
from si.clusters.kubernetes import runs
from si.clusters.kubernetes.jobs import KubernetesCluster
from si.clusters.kubernetes.manifests import (
    KEY,
    TEMPLATE,
    run_object,
    stage_job,
    state_of,
)
from si.clusters.kubernetes.runs import begin, find_run, never_ran, read_run, run_objects
from si.config.place import Kubernetes, Place, Pods
from si.config.recipe import Recipe
from si.errors import RecipeError, RunBusy, RunMissing, StageFailed
from si.store.folder import FolderStore
from si.store.keys import Spec
from tests.unit.fake_cluster import FakeCluster

RECIPE = Recipe()
SPEC = Spec("explore", "it01", {}, {}, {}, shards=8)
STAGE = "si-r-it01-explore-1"


def place(release="si", image="lab/explore:1", **more):
    kubernetes = Kubernetes(release=release, explore=Pods(image=image))
    return Place(store="s3://bucket", kubernetes=kubernetes, **more)


@pytest.fixture
def sweeping(monkeypatch):
    """Waiting for a second lets Kubernetes finish what it removes."""

    def use(cluster):
        monkeypatch.setattr(runs.time, "sleep", lambda _: cluster.sweep())
        return cluster

    return use


def stages(cluster, where, owner, tmp_path):
    return KubernetesCluster(cluster, where, "r", 1, owner, FolderStore(tmp_path))


# --- two releases in one namespace -----------------------------------------------------------


def test_a_controller_works_on_its_own_releases_run(monkeypatch):
    """Two releases have a run of one name: each controller reads its own object."""
    cluster = FakeCluster()
    for release in ("team-a", "team-b"):
        begin(cluster, place(release), RECIPE, "r", False)
    for release in ("team-a", "team-b"):
        job = cluster.job(f"{release}-r-controller-1")
        run, option = job["spec"]["template"]["spec"]["containers"][0]["args"]
        assert (run, option) == ("r", f"--release={release}")
        (found,) = run_objects(cluster, release, run)
        assert found["metadata"]["name"] == f"{release}-run-r"

    opened = []
    monkeypatch.setattr(control, "Client", lambda: cluster)
    monkeypatch.setenv("POD_NAME", "team-b-r-controller-1-x")

    def stop(where):
        opened.append(where.kubernetes.release)
        raise InterruptedError

    monkeypatch.setattr(control, "open_store", stop)
    with pytest.raises(InterruptedError):
        control.control("r", "team-b")
    assert opened == ["team-b"]
    with pytest.raises(RunMissing, match="release team-c"):
        control.control("r", "team-c")


def test_a_name_that_two_releases_have_needs_the_release(monkeypatch):
    """Without a release the error names both; with one, logs and status read that one's objects."""
    cluster = FakeCluster()
    for release in ("team-a", "team-b"):
        begin(cluster, place(release), RECIPE, "r", False)
    with pytest.raises(RunMissing) as error:
        find_run(cluster, "r", None)
    assert "r (release team-a), r (release team-b)" in str(error.value)
    assert "--release" in str(error.value)

    asked = []

    class Core:
        def list_namespaced_pod(self): ...

    def call(method, label_selector):
        asked.append(label_selector)
        return {"items": []}

    cluster.core, cluster.call = Core(), call
    monkeypatch.setattr(on_cluster, "Client", lambda _: cluster)
    for stage in (None, "it01/explore"):
        with pytest.raises(RunMissing):
            on_cluster.logs("r", stage, False, None, "team-b")
    assert all("app.kubernetes.io/instance=team-b" in select for select in asked) and asked


def test_names_that_meet_are_refused():
    """Release a-run with run b, and release a with run run-b, have objects of one name."""
    cluster = FakeCluster()
    begin(cluster, place("a-run"), RECIPE, "b", False)
    with pytest.raises(RecipeError, match="taken by the run b of release a-run"):
        begin(cluster, place("a"), RECIPE, "run-b", False)


def test_another_runs_job_is_not_adopted(tmp_path):
    """A Job of the same name and work that belongs to another run is named, and left alone."""
    cluster = FakeCluster()
    owner = begin(cluster, place(), RECIPE, "r", False).owner
    doing = stages(cluster, place(), owner, tmp_path)
    foreign = {"metadata": {"name": "other-run-x", "uid": "uid-other"}}
    theirs = KubernetesCluster(cluster, place(), "r", 1, foreign, FolderStore(tmp_path))
    wanted = runs_stage(theirs)
    cluster.create(wanted)
    with pytest.raises(StageFailed, match="belongs to another run"):
        doing.run("it01/explore", SPEC, lambda event: None)
    assert cluster.job(STAGE)["metadata"]["ownerReferences"][0]["uid"] == "uid-other"


def runs_stage(doing):
    """A stage's Job as a cluster would create it."""
    return stage_job(doing.place, "r", 1, "it01/explore", SPEC, doing.owner)


# --- cancel, and the same command --------------------------------------------------------------


def test_a_cancelled_run_begins_cleanly(sweeping):
    """While the old object and its controller are being removed the command waits, and the new run
    gets a controller of its own."""
    cluster = sweeping(FakeCluster(slow=True))
    first = begin(cluster, place(), RECIPE, "r", False)
    cluster.delete("ConfigMap", "si-run-r")
    second = begin(cluster, place(), RECIPE, "r", False)
    assert second.owner["metadata"]["uid"] != first.owner["metadata"]["uid"]
    job = cluster.job(second.controller)
    assert job["metadata"]["ownerReferences"][0]["uid"] == second.owner["metadata"]["uid"]
    assert "deletionTimestamp" not in job["metadata"]


def test_a_removal_that_does_not_end_is_named(monkeypatch):
    """A Job of the cancelled run that stays is named, instead of being attached to."""
    cluster = FakeCluster()
    begin(cluster, place(), RECIPE, "r", False)
    del cluster.objects["ConfigMap", "si-run-r"]  # the collector has not come by yet
    monkeypatch.setattr(runs.time, "sleep", lambda _: None)
    with pytest.raises(RunBusy, match="removing the cancelled run's Job si-r-controller-1"):
        begin(cluster, place(), RECIPE, "r", False)


def test_a_controller_is_found_behind_one_that_kubernetes_removed():
    """The first controller failed, and its Job is removed after a while. The second one still
    works: the same command finds it, and starts no third one beside it."""
    cluster = FakeCluster()
    first = begin(cluster, place(), RECIPE, "r", False).controller
    cluster.job(first)["status"] = {"conditions": [{"type": "Failed", "status": "True"}]}
    second = begin(cluster, place(), RECIPE, "r", False).controller
    assert second == "si-r-controller-2"
    cluster.delete_job(first)
    assert begin(cluster, place(), RECIPE, "r", False).controller == second
    assert cluster.of("Job") == [second]


def test_a_stages_job_of_the_cancelled_run_makes_room(tmp_path, monkeypatch):
    """The controller of the next run does not adopt a Job that is about to be collected."""
    cluster = FakeCluster()
    old = begin(cluster, place(), RECIPE, "r", False).owner
    cluster.create(runs_stage(stages(cluster, place(), old, tmp_path)))
    cluster.run_pod(STAGE)
    del cluster.objects["ConfigMap", "si-run-r"], cluster.objects["Job", "si-r-controller-1"]
    new = begin(cluster, place(), RECIPE, "r", False).owner
    doing = stages(cluster, place(), new, tmp_path)
    monkeypatch.setattr(doing, "_wait", lambda *_: True)
    doing.run("it01/explore", SPEC, lambda event: None)
    owners = cluster.job(STAGE)["metadata"]["ownerReferences"]
    assert owners[0]["uid"] == new["metadata"]["uid"]


# --- changed settings --------------------------------------------------------------------------


def test_fixed_settings_replace_a_controller_that_never_ran():
    """The controller's image was wrong. With the fixed release the same command replaces it."""
    cluster = FakeCluster()
    first = begin(cluster, place(), RECIPE, "r", False)
    uid = cluster.job(first.controller)["metadata"]["uid"]
    cluster.run_pod(first.controller, "Pending", containerStatuses=[{"state": {"waiting": {}}}])
    fixed = place(image="lab/explore:2")
    again = begin(cluster, fixed, RECIPE, "r", False)
    assert cluster.of("Job") == [again.controller]
    assert cluster.job(again.controller)["metadata"]["uid"] != uid
    assert "place.kubernetes.explore.image: lab/explore:2 instead of" in again.notes[0]
    assert read_run(again.owner)[1] == fixed
    third = begin(cluster, place(image="lab/explore:3"), RECIPE, "r", False)
    assert cluster.of("Job") == [third.controller] and read_run(third.owner)[1] != fixed


def test_a_working_controller_keeps_its_settings_until_apply():
    """What differs is reported, with the option that restarts it."""
    cluster = FakeCluster()
    first = begin(cluster, place(), RECIPE, "r", False)
    uid = cluster.job(first.controller)["metadata"]["uid"]
    cluster.run_pod(first.controller)
    fixed = place(image="lab/explore:2")
    again = begin(cluster, fixed, RECIPE, "r", False)
    assert again.controller == first.controller and "--apply" in again.notes[-1]
    assert read_run(again.owner)[1] == place()
    assert begin(cluster, place(), RECIPE, "r", False, apply=True).controller == first.controller
    applied = begin(cluster, fixed, RECIPE, "r", False, apply=True)
    assert cluster.of("Job") == [applied.controller]
    assert cluster.job(applied.controller)["metadata"]["uid"] != uid
    assert read_run(applied.owner)[1] == fixed


def test_a_stage_that_waits_with_old_settings_is_replaced(tmp_path, monkeypatch):
    """No node fits its pods, or an image is missing: the next controller creates the Job anew."""
    cluster = FakeCluster()
    owner = begin(cluster, place(), RECIPE, "r", False).owner
    cluster.create(runs_stage(stages(cluster, place(), owner, tmp_path)))
    cluster.run_pod(STAGE, "Pending")
    doing = stages(cluster, place(image="lab/explore:2"), owner, tmp_path)
    monkeypatch.setattr(doing, "_wait", lambda *_: True)
    doing.run("it01/explore", SPEC, lambda event: None)
    pods = cluster.job(STAGE)["spec"]["template"]["spec"]
    assert pods["containers"][0]["image"] == "lab/explore:2"


@pytest.mark.parametrize("phase", ["Running", "Succeeded", "Failed"])
def test_a_stage_that_has_run_is_adopted(tmp_path, monkeypatch, phase):
    """Pods that work, or have worked, are kept whatever the settings are now."""
    cluster = FakeCluster()
    owner = begin(cluster, place(), RECIPE, "r", False).owner
    standing, _ = cluster.create(runs_stage(stages(cluster, place(), owner, tmp_path)))
    cluster.run_pod(STAGE, phase)
    doing = stages(cluster, place(image="lab/explore:2"), owner, tmp_path)
    monkeypatch.setattr(doing, "_wait", lambda *_: True)
    doing.run("it01/explore", SPEC, lambda event: None)
    assert cluster.job(STAGE)["metadata"]["uid"] == standing["metadata"]["uid"]


def test_a_job_of_other_work_is_still_refused(tmp_path):
    """A Job of this run with the name but another stage key is an error, as before."""
    cluster = FakeCluster()
    owner = begin(cluster, place(), RECIPE, "r", False).owner
    doing = stages(cluster, place(), owner, tmp_path)
    wanted = runs_stage(doing)
    wanted["metadata"]["annotations"][KEY] = "other"
    cluster.create(wanted)
    with pytest.raises(StageFailed, match="different stage key"):
        doing.run("it01/explore", SPEC, lambda event: None)


def test_what_counts_as_having_run():
    """A container that is running, was, or ended; a pod that waits for its image does not count."""
    job = {"metadata": {"name": "j"}, "status": {}}
    cluster = FakeCluster()
    assert never_ran(cluster, job)
    cluster.run_pod("j", "Pending", containerStatuses=[{"state": {"waiting": {"reason": "x"}}}])
    assert never_ran(cluster, job)
    assert not never_ran(cluster, job | {"status": {"failed": 1}})
    cluster.run_pod("j", "Pending", containerStatuses=[{"state": {"terminated": {"exitCode": 1}}}])
    assert not never_ran(cluster, job)
    cluster.pods = []
    cluster.run_pod("j")
    assert not never_ran(cluster, job)


# --- versions ----------------------------------------------------------------------------------


def test_a_newer_laptop_and_an_older_controller_work_together():
    """A setting of the place that the reader does not know is left out and listed."""
    owner = run_object(place(), "r", RECIPE)
    tree = json.loads(owner["data"]["place"])
    tree["kubernetes"]["explore"]["future"] = 1
    owner["data"]["place"] = json.dumps(tree)
    assert read_run(owner) == (RECIPE, place(), ["kubernetes.explore.future"])
    assert owner["data"]["version"]


def test_a_run_that_cannot_be_read_names_both_versions(monkeypatch):
    """The controller says so in the run's object, where those who attach read it."""
    cluster = FakeCluster()
    owner = begin(cluster, place(), RECIPE, "r", False).owner
    recipe = json.loads(owner["data"]["recipe"]) | {"future": 1}
    owner["data"] |= {"recipe": json.dumps(recipe), "version": "9.9.9"}
    monkeypatch.setattr(control, "Client", lambda: cluster)
    monkeypatch.setenv("POD_NAME", "si-r-controller-1-x")
    monkeypatch.setattr(control, "__version__", "0.1.0")
    with pytest.raises(RecipeError, match=r"cannot read a run that si-ctl 9\.9\.9 wrote"):
        control.control("r", "si")
    state = state_of(owner)
    assert state["phase"] == "failed" and "9.9.9" in state["error"]["headline"]
    assert state["controller"] == "si-r-controller-1-x" and state["error"]["exit_code"] == 3


def test_the_digest_follows_the_pods_settings(tmp_path):
    """Another image gives another digest, another retry limit of the Job does not."""
    owner = {"metadata": {"name": "si-run-r", "uid": "u"}}

    def sealed(where):
        job = runs_stage(stages(None, where, owner, tmp_path))
        return job["metadata"]["annotations"][TEMPLATE]

    assert sealed(place()) == sealed(place(retries=9))
    assert sealed(place()) != sealed(place(image="lab/explore:2"))
