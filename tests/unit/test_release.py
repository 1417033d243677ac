"""Who decides what on a cluster: the release, and within what it allows the recipe file, the
environment and options."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from si.config.loading import load_settings
from si.config.place import Place, Pods
from si.config.recipe import Recipe
from si.config.release import Release
from si.config.requires import check
from si.errors import RecipeError

MIG = {"limits": {"nvidia.com/mig-3g.40gb": "1", "memory": "64Gi"}}
TREE = {
    "store": "s3://operator/runs",
    "retries": 5,
    "gpu_type": "A100",
    "kubernetes": {
        "explore": {"image": "lab/explore:1", "workers": 64, "resources": MIG, "env": {"A": "1"}},
        "train": {
            "image": "lab/train:1",
            "workers": 8,
            "resources": {"limits": {"nvidia.com/gpu": "8"}},
        },
    },
}
SOME = ("retries", "kubernetes.*.workers", "kubernetes.*.resources", "kubernetes.*.env")


def settings(place=None, allow=SOME, environment=None, assignments=None, tmp_path=None, **recipe):
    path = None
    if place is not None or recipe:
        path = tmp_path / "recipe.yaml"
        text = {**recipe, **({"place": place} if place is not None else {})}
        path.write_text(json.dumps(text))
    release = Release("si", TREE, tuple(allow), "0.1.0")
    return load_settings(path, {}, environment or {}, release, assignments or {})


def test_the_release_is_the_default():
    """With nothing else given, the place is the release's and nothing changes."""
    found = settings()
    assert found.place.kubernetes.explore.workers == 64 and found.changes == ()


def test_each_layer_wins_over_the_one_before(tmp_path):
    """Release < recipe file < environment < options, and the last one is what is reported."""
    variable, name = "SI_PLACE__KUBERNETES__TRAIN__WORKERS", "kubernetes.train.workers"
    given = {"kubernetes": {"train": {"workers": 2}}}
    for environment, assignments, workers, source in (
        ({}, {}, 2, str(tmp_path / "recipe.yaml")),
        ({variable: "3"}, {}, 3, variable),
        ({variable: "3"}, {f"place.{name}": 4}, 4, "--set"),
    ):
        found = settings(given, SOME, environment, assignments, tmp_path)
        assert found.place.kubernetes.train.workers == workers
        (change,) = found.changes
        assert change == (f"place.{name}", 8, workers, source, True)
        assert str(change) == (f"place.{name}: {workers} ({source}) instead of the release's 8")


def test_what_is_not_allowed_is_ignored_and_reported(tmp_path):
    """A store, an image and a priority that a recipe or a laptop's environment names change nothing
    unless the operator allows it."""
    given = {"kubernetes": {"explore": {"image": "mine:1", "priority_class": "high"}}}
    found = settings(given, SOME, {"SI_STORE": "s3://mine"}, {}, tmp_path)
    assert found.place == settings().place
    assert {change.name for change in found.changes} == {
        "place.store",
        "place.kubernetes.explore.image",
        "place.kubernetes.explore.priority_class",
    }
    assert not any(change.allowed for change in found.changes)
    (store,) = (str(c) for c in found.changes if c.name == "place.store")
    assert "SI_STORE" in store and "is ignored; the release sets s3://operator/runs" in store
    allowed = settings(given, (*SOME, "kubernetes.explore.*"), {}, {}, tmp_path)
    assert allowed.place.kubernetes.explore.image == "mine:1"
    assert all(change.allowed for change in allowed.changes)


def test_a_value_that_is_the_releases_is_no_change(tmp_path):
    """Repeating what the release says, allowed or not, is not reported."""
    given = {"store": TREE["store"], "retries": 5}
    assert settings(given, SOME, {}, {}, tmp_path).changes == ()
    back = settings({"retries": 1}, SOME, {"SI_PLACE__RETRIES": "5"}, {}, tmp_path)
    assert back.changes == () and back.place.retries == 5


def test_resources_are_replaced_as_a_whole(tmp_path):
    """A recipe that names other GPUs than the release does not request both."""
    mine = {"limits": {"nvidia.com/gpu": "4"}}
    found = settings({"kubernetes": {"explore": {"resources": mine}}}, SOME, {}, {}, tmp_path)
    assert found.place.kubernetes.explore.resources == mine
    assert found.changes[0].before == MIG and found.changes[0].after == mine
    # An option that names one entry changes that one.
    one = settings(assignments={"place.kubernetes.explore.resources.limits.memory": "8Gi"})
    assert one.place.kubernetes.explore.resources["limits"] == {**MIG["limits"], "memory": "8Gi"}


def test_variables_of_pods_are_added_to_the_releases(tmp_path):
    """`env` of a recipe joins the release's key by key."""
    given = {"kubernetes": {"explore": {"env": {"B": "2"}}}}
    env = settings(given, SOME, {}, {}, tmp_path).place.kubernetes.explore.env
    assert env == {"A": "1", "B": "2"}


def test_a_misspelt_key_is_an_error_whatever_is_allowed(tmp_path):
    """What is not a setting at all is refused with the nearest name, not ignored."""
    with pytest.raises(RecipeError, match=r"unknown key place\.retry .*recipe\.yaml"):
        settings({"retry": 1}, (), {}, {}, tmp_path)


def test_a_newer_release_is_read():
    """Settings of a release that this version does not know are left out and listed."""
    more = {
        **TREE,
        "new": 1,
        "kubernetes": {**TREE["kubernetes"], "explore": {"image": "a", "x": 2}},
    }
    found = load_settings(environment={}, release=Release("si", more))
    assert set(found.unknown) == {"new", "kubernetes.explore.x"}
    assert found.place.kubernetes.explore.image == "a"


@given(st.sampled_from(["store", "retries", "kubernetes.train.workers", "kubernetes.queue"]))
def test_nothing_is_allowed_by_an_empty_list(name):
    """With `allow: []` no option changes the place."""
    value = 1 if name in ("retries", "kubernetes.train.workers") else "x"
    found = settings(allow=(), assignments={f"place.{name}": value})
    assert found.place == settings().place and len(found.changes) == 1


def test_requirements_are_part_of_no_key(tmp_path):
    """`requires` changes neither recipe nor place."""
    needs = {"train": {"gpus": 8}}
    found = settings(tmp_path=tmp_path, requires=needs)
    assert found.requires.train.gpus == 8
    assert (found.recipe, found.place) == (Recipe(), settings().place)
    with pytest.raises(RecipeError, match=r"train\.gpu .*did you mean requires\.train\.gpus"):
        settings(tmp_path=tmp_path, requires={"train": {"gpu": 8}})


def lacking(tmp_path, needs, **place):
    found = settings(tmp_path=tmp_path, requires=needs)
    with pytest.raises(RecipeError) as error:
        check(found.requires, found.place.model_copy(update=place))
    assert "--set requires=null" in str(error.value)
    return error.value.detail


def test_a_release_with_too_little_is_refused(tmp_path):
    """GPUs of a pod that explores, of all training pods together, and their memory, as far as the
    release names the kind of GPU or a slice."""
    found = settings(tmp_path=tmp_path, requires={"explore": {"gpus": 1}, "train": {"gpus": 64}})
    check(found.requires, found.place)
    assert lacking(tmp_path, {"train": {"gpus": 65}}) == (
        "train: 65 GPUs required, all pods together request 64"
    )
    assert "each pod requests 1" in lacking(tmp_path, {"explore": {"gpus": 2}})
    assert "nvidia.com/mig-3g.40gb has 40" in lacking(tmp_path, {"explore": {"gpu_memory": 80}})
    large = {"train": {"gpu_memory": 100}}
    assert lacking(tmp_path, large) == "train: GPUs with 100 GB required, A100 has 80"
    check(settings(tmp_path=tmp_path, requires=large).requires, Place(gpu_type=""))
    anyway = settings(tmp_path=tmp_path, assignments={"requires": None}, requires=large)
    check(anyway.requires, anyway.place)


def test_quantities_may_be_numbers():
    """Kubernetes takes numbers where it takes quantities, and so does the place."""
    given = {"limits": {"nvidia.com/gpu": 2, "cpu": 0.5, "memory": 1e9}}
    pods = Pods(image="i", resources=given)
    assert pods.resources["limits"] == {"nvidia.com/gpu": "2", "cpu": "0.5", "memory": "1000000000"}
    assert pods.gpus == 2
    with pytest.raises(ValueError, match="string"):
        Pods(image="i", resources={"limits": {"cpu": True}})
