"""Runs on a cluster: find a release or a run, start a run."""

import json
import time
from dataclasses import replace
from typing import Any

import yaml

from si.clusters.kubernetes.client import Client
from si.clusters.kubernetes.diagnosis import finished
from si.clusters.kubernetes.manifests import RUN, controller_job, run_object, state_of
from si.config.loading import load
from si.config.place import Place
from si.config.recipe import Recipe, differences
from si.config.release import Release
from si.errors import RecipeError, RunBusy, RunMissing
from si.runs.record import changed_recipe

ALLOW = "si-ctl/allow"  # annotation of a release's place: what a run may change of it


def find_release(cluster: Client, release: str | None) -> Release:
    """The chart's release in this namespace.

    Raises:
        RecipeError: if there is no release, or several and none was named.
    """
    found = {
        place["metadata"]["labels"]["app.kubernetes.io/instance"]: place
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
        f"runs in namespace {cluster.namespace}: "
        + (", ".join(each["metadata"]["labels"][RUN] for each in objects) or "none"),
        "Start one: si-ctl iterate --on kubernetes",
    )


def run_objects(cluster: Client, release: str | None) -> list[dict[str, Any]]:
    """The objects of all runs in the namespace, or of a release's."""
    select = "app.kubernetes.io/name=si-ctl,app.kubernetes.io/component=run"
    if release:
        select += f",app.kubernetes.io/instance={release}"
    return cluster.config_maps(select)


def begin(
    cluster: Client, place: Place, recipe: Recipe, run: str, fresh: bool
) -> tuple[dict[str, Any], str]:
    """Create the run's object and its controller, or find them.

    Returns:
        The object, and the name of the controller's Job.

    Raises:
        RunChanged: if the run was started with another recipe.
        RunBusy: if a new generation or another end is asked for while a controller is working.
    """
    token = str(time.time_ns()) if fresh else ""
    owner, made = cluster.create(run_object(place, run, recipe, token))
    old = Recipe.model_validate_json(owner["data"]["recipe"])
    changed = differences(old, recipe)
    if changed and not fresh:
        raise changed_recipe(run, changed)
    standing = Place.model_validate_json(owner["data"]["place"])
    limits = [(it.max_gpu_hours, it.max_cost) for it in (place, standing)]
    further = recipe.iterations > old.iterations or recipe.patience != old.patience
    attempt, more = 1, made or fresh or further or limits[0] != limits[1]
    last: dict[str, Any] | None = None
    while job := cluster.job(controller_job(place, run, attempt, owner)["metadata"]["name"]):
        if finished(job) is None:
            if more and not made:
                raise RunBusy(
                    f"A controller is working on the run {run} with {old.iterations} iterations",
                    f"and {_bounds(old, standing)}\n"
                    f"Job {job['metadata']['name']} in namespace {cluster.namespace}",
                    f"Wait for it to finish, or stop it first: si-ctl cancel {run}",
                )
            return owner, job["metadata"]["name"]
        attempt, last = attempt + 1, job
    done = state_of(owner).get("phase") == "done" and not more
    if last and done and finished(last) == "Complete":
        return owner, last["metadata"]["name"]
    wish = {"recipe": recipe.model_dump_json(), "place": place.model_dump_json()}
    if fresh:
        wish["fresh"] = token
    cluster.patch_run(owner["metadata"]["name"], wish)
    job, _ = cluster.create(controller_job(place, run, attempt, owner))
    return owner, job["metadata"]["name"]


def _bounds(recipe: Recipe, place: Place) -> str:
    """The limits that may end a run early, as options."""
    asked = {
        "--patience": recipe.patience,
        "--max-gpu-hours": place.max_gpu_hours,
        "--max-cost": place.max_cost,
    }
    return ", ".join(f"{name} {value:g}" for name, value in asked.items() if value) or "no limits"
