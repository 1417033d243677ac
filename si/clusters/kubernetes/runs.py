"""Runs on a cluster: find a release or a run, start a run."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from si import __version__
from si.clusters.kubernetes.client import Client
from si.clusters.kubernetes.diagnosis import finished, started
from si.clusters.kubernetes.manifests import (
    ATTEMPT,
    INSTANCE,
    RUN,
    belongs_to,
    controller_job,
    run_object,
    state_of,
)
from si.config.loading import load
from si.config.place import Place
from si.config.recipe import Recipe, differences
from si.config.release import Release, leaves, look_up, without_unknown
from si.errors import RecipeError, RunBusy, RunMissing
from si.runs.record import changed_recipe

REMOVAL_SECONDS = 120  # how long a cancelled run's objects are waited for
ALLOW = "si-ctl/allow"  # annotation of a release's place: what a run may change of it


def find_release(cluster: Client, release: str | None) -> Release:
    """The chart's release in this namespace.

    Raises:
        RecipeError: if there is no release, or several and none was named.
    """
    found = {
        place["metadata"]["labels"][INSTANCE]: place
        for place in cluster.config_maps(
            "app.kubernetes.io/name=si-ctl,app.kubernetes.io/component=place"
        )
    }
    if release is None and len(found) == 1:
        (release,) = found
    if release is None or release not in found:
        raise RecipeError(
            f"No release {release} of si-ctl in namespace {cluster.namespace}"
            if release
            else f"{len(found) or 'No'} releases of si-ctl in namespace {cluster.namespace}",
            "there: " + (", ".join(sorted(found)) or "none"),
            (
                "Name another namespace (--namespace) or release (--release).",
                "Install one: helm install si helm/si-ctl --namespace NAMESPACE",
            ),
        )
    it = found[release]
    metadata = it["metadata"]
    allow = json.loads(metadata.get("annotations", {}).get(ALLOW, '["*"]'))
    version = metadata["labels"].get("app.kubernetes.io/version", "")
    return Release(
        release, yaml.safe_load(it["data"]["place.yaml"])["place"], tuple(allow), version
    )


def place_from_outside(namespace: str | None, release: str | None) -> Place:
    """The release's place as this machine reaches it: by `place.s3.endpoint_external`.

    Raises:
        RecipeError: if the bucket's server is only reachable inside the cluster.
    """
    found = replace(find_release(Client(namespace), release), allow=("*",))
    place = load(release=found)[1]
    s3 = place.s3
    if s3.endpoint and not s3.endpoint_external:
        raise RecipeError(
            f"The bucket's server {s3.endpoint} is only reachable inside the cluster",
            "place.s3.endpoint_external is not set",
            (
                "Set its address outside the cluster: "
                "SI_PLACE__S3__ENDPOINT_EXTERNAL=http://127.0.0.1:9000",
                "Create one with port-forward: kubectl port-forward --namespace minio "
                "service/minio 9000",
            ),
        )
    inside = s3.model_copy(update={"endpoint": s3.endpoint_external})
    return place.model_copy(update={"s3": inside})


def find_run(cluster: Client, run: str, release: str | None) -> dict[str, Any]:
    """A run's object, by the run's name or by a strategy that only one run has.

    Raises:
        RunMissing: if no run or several have that name or strategy.
    """
    objects = run_objects(cluster, release)
    same = [each for each in objects if each["metadata"]["labels"][RUN] == run] or [
        each for each in objects if json.loads(each["data"]["recipe"])["strategy"] == run
    ]
    if len(same) == 1:
        return same[0]
    raise RunMissing(
        f"{len(same) or 'No'} runs on the cluster are called {run!r}",
        f"runs in namespace {cluster.namespace}: " + (", ".join(map(_titled, objects)) or "none"),
        "Name the release: --release RELEASE"
        if len(same) > 1
        else "Start one: si-ctl iterate --on kubernetes",
    )


def _titled(owner: Mapping[str, Any]) -> str:
    labels = owner["metadata"]["labels"]
    return f"{labels[RUN]} (release {labels[INSTANCE]})"


def run_objects(
    cluster: Client, release: str | None, run: str | None = None
) -> list[dict[str, Any]]:
    """The objects of all runs in the namespace, or of a release's, or of one run."""
    select = "app.kubernetes.io/name=si-ctl,app.kubernetes.io/component=run"
    if release:
        select += f",{INSTANCE}={release}"
    if run:
        select += f",{RUN}={run}"
    return cluster.config_maps(select)


def read_run(owner: Mapping[str, Any]) -> tuple[Recipe, Place, list[str]]:
    """Recipe and place of a run's object, and settings of the place that this version does not
    know, and leaves out.

    Raises:
        RecipeError: if it was written by a version whose recipe or place cannot be read.
    """
    data = owner["data"]
    try:
        tree, unknown = without_unknown(json.loads(data["place"]), Place)
        place = Place.model_validate(tree)
        return Recipe.model_validate_json(data["recipe"]), place, unknown
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise RecipeError(
            f"si-ctl {__version__} cannot read a run that si-ctl {data.get('version', 'unknown')} "
            "wrote",
            f"ConfigMap {owner['metadata']['name']}: {where}: {first['msg']}",
            (
                "Use the same version on your machine and in the cluster: upgrade the older one, "
                "or set images.tag in the chart's values.",
            ),
        ) from None


class Begun(NamedTuple):
    """A run's object, the name of its controller's Job, and notes for the user."""

    owner: dict[str, Any]
    controller: str
    notes: tuple[str, ...] = ()


def begin(
    cluster: Client, place: Place, recipe: Recipe, run: str, fresh: bool, apply: bool = False
) -> Begun:
    """Create the run's object and its controller, or find them.

    A controller that has not started yet is replaced if the place is another one; a working one
    only with `apply`.

    Raises:
        RunChanged: if the run was started with another recipe.
        RunBusy: if a new generation or another end is asked for while a controller is working.
    """
    token = str(time.time_ns()) if fresh else ""
    owner, made = _own(cluster, run_object(place, run, recipe, token))
    old, standing, _ = read_run(owner)
    changed = differences(old, recipe)
    if changed and not fresh:
        raise changed_recipe(run, changed)
    limits = [(it.max_gpu_hours, it.max_cost) for it in (place, standing)]
    further = recipe.iterations > old.iterations or recipe.patience != old.patience
    attempt, more = 1, made or fresh or further or limits[0] != limits[1]
    last: dict[str, Any] | None = None
    notes: list[str] = []
    for listed in _controllers(cluster, owner):
        name, attempt = listed["metadata"]["name"], int(listed["metadata"]["labels"][ATTEMPT])
        job = _awaited(cluster, name, owner)
        if job is None:
            continue
        if finished(job) is None:
            if more and not made:
                raise RunBusy(
                    f"A controller is working on the run {run} with {old.iterations} iterations",
                    f"and {_bounds(old, standing)}\nJob {name} in namespace {cluster.namespace}",
                    f"Wait for it to finish, or stop it first: si-ctl cancel {run}",
                )
            notes = differing(standing, place)
            if not notes or not (apply or never_ran(cluster, job)):
                if notes:
                    notes.append("The controller keeps its settings. To restart it: --apply")
                return Begun(owner, name, tuple(notes))
            cluster.delete_job(name)
            notes.append(f"The controller {name} is replaced.")
            _awaited(cluster, name, owner)
            break
        attempt, last = attempt + 1, job
    done = state_of(owner).get("phase") == "done" and not more
    if last and done and finished(last) == "Complete":
        return Begun(owner, last["metadata"]["name"])
    wish = {"recipe": recipe.model_dump_json(), "place": place.model_dump_json()}
    wish["version"] = __version__
    if fresh:
        wish["fresh"] = token
    cluster.patch_run(owner["metadata"]["name"], wish)
    wanted = controller_job(place, run, attempt, owner)
    _awaited(cluster, wanted["metadata"]["name"], owner)
    job, _ = cluster.create(wanted)
    return Begun(owner, job["metadata"]["name"], tuple(notes))


def _own(cluster: Client, wanted: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The run's object, and whether it is new. One that is being removed is waited for.

    Raises:
        RecipeError: if another release's run has an object of this name.
    """
    name = wanted["metadata"]["name"]
    for _ in _patiently(f"the cancelled run's ConfigMap {name}"):
        found, made = cluster.create(wanted)
        if not found["metadata"].get("deletionTimestamp"):
            break
    labels, mine = found["metadata"]["labels"], wanted["metadata"]["labels"]
    if (labels.get(INSTANCE), labels.get(RUN)) != (mine[INSTANCE], mine[RUN]):
        raise RecipeError(
            f"The name {name} is taken by the run {labels.get(RUN)} of release "
            f"{labels.get(INSTANCE)}",
            f"namespace {cluster.namespace}",
            "Choose another name: --run NAME",
        )
    return found, made


def _controllers(cluster: Client, owner: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The Jobs of the run's controllers, oldest first. Kubernetes removes finished ones after a
    while, so their numbers may have gaps."""
    labels = owner["metadata"]["labels"]
    select = "app.kubernetes.io/name=si-ctl,app.kubernetes.io/component=controller,"
    select += ",".join(f"{name}={labels[name]}" for name in (INSTANCE, RUN))
    found = [job for job in cluster.jobs(select) if belongs_to(job, owner)]
    return sorted(found, key=lambda job: int(job["metadata"]["labels"][ATTEMPT]))


def _awaited(cluster: Client, name: str, owner: Mapping[str, Any]) -> dict[str, Any] | None:
    """The Job of this name; None if there is none. One that is being removed, or belongs to a
    cancelled run of the same name, is waited for until it is gone."""
    for _ in _patiently(f"the cancelled run's Job {name}"):
        job = cluster.job(name)
        if job is None:
            return None
        if belongs_to(job, owner) and not job["metadata"].get("deletionTimestamp"):
            break
    return job


def _patiently(what: str) -> Iterator[None]:
    """Look again every second, for a while.

    Raises:
        RunBusy: if that did not help.
    """
    for _ in range(REMOVAL_SECONDS):
        yield
        time.sleep(1)
    raise RunBusy(
        f"Kubernetes is still removing {what}",
        f"waited {REMOVAL_SECONDS} s",
        "Run the same command again later.",
    )


def never_ran(cluster: Client, job: Mapping[str, Any]) -> bool:
    """Whether no pod of a Job has started a container so far."""
    status = job.get("status", {})
    if status.get("ready") or status.get("succeeded") or status.get("failed"):
        return False
    return not any(started(pod) for pod in cluster.pods_of(job["metadata"]["name"]))


def differing(old: Place, new: Place) -> list[str]:
    """`place.NAME: new instead of old` for every setting of a cluster's place that differs."""
    before = old.model_dump(mode="json")
    return [
        f"place.{name}: {value} instead of the controller's {look_up(before, name)}"
        for name, value in leaves(new.model_dump(mode="json"), Place)
        if value != look_up(before, name)
    ]


def _bounds(recipe: Recipe, place: Place) -> str:
    """The limits that may end a run early, as options."""
    asked = {
        "--patience": recipe.patience,
        "--max-gpu-hours": place.max_gpu_hours,
        "--max-cost": place.max_cost,
    }
    return ", ".join(f"{name} {value:g}" for name, value in asked.items() if value) or "no limits"
