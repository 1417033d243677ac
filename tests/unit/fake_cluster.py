"""A namespace of a cluster in memory, with the client's methods that runs and stages call."""

import itertools
import json
from collections.abc import Mapping
from typing import Any

from si.clusters.kubernetes.client import Client

Thing = dict[str, Any]


class FakeCluster(Client):
    """Objects by kind and name. Deleting removes at once, unless a test sets `slow`."""

    def __init__(self, slow: bool = False):
        self.namespace = "lab"
        self.objects: dict[tuple[str, str], Thing] = {}
        self.pods: list[Thing] = []
        self.slow = slow
        self.uids = itertools.count(1)

    def of(self, kind: str) -> list[str]:
        """The names of all objects of a kind."""
        return [name for known, name in self.objects if known == kind]

    def create(self, body: Mapping[str, Any]) -> tuple[Thing, bool]:
        at = (body["kind"], body["metadata"]["name"])
        made = at not in self.objects
        if made:
            self.objects[at] = json.loads(json.dumps(body))
            self.objects[at]["metadata"]["uid"] = f"uid-{next(self.uids)}"
        return self.objects[at], made

    def config_maps(self, selector: str) -> list[Thing]:
        return self._with("ConfigMap", selector)

    def jobs(self, selector: str) -> list[Thing]:
        return self._with("Job", selector)

    def _with(self, wanted: str, selector: str) -> list[Thing]:
        labels = dict(part.split("=") for part in selector.split(","))
        return [
            thing
            for (kind, _), thing in self.objects.items()
            if kind == wanted and labels.items() <= thing["metadata"]["labels"].items()
        ]

    def job(self, name: str) -> Thing | None:
        return self.objects.get(("Job", name))

    def pods_of(self, job: str) -> list[Thing]:
        return [pod for pod in self.pods if pod["metadata"]["name"].startswith(f"{job}-")]

    def patch_run(self, name: str, data: Mapping[str, str], patience: float | None = None) -> None:
        self.objects["ConfigMap", name]["data"] |= data

    def delete_job(self, name: str) -> None:
        self.delete("Job", name)

    def delete(self, kind: str, name: str) -> None:
        """Remove an object, or mark it as being removed."""
        if self.slow:
            self.objects[kind, name]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        else:
            self.objects.pop((kind, name), None)

    def sweep(self) -> None:
        """Finish every removal, and remove what belongs to objects that are gone."""
        for at, thing in list(self.objects.items()):
            if thing["metadata"].get("deletionTimestamp"):
                del self.objects[at]
        uids = {thing["metadata"]["uid"] for thing in self.objects.values()}
        for at, thing in list(self.objects.items()):
            owners = {owner["uid"] for owner in thing["metadata"].get("ownerReferences", ())}
            if owners - uids:
                del self.objects[at]

    def run_pod(self, job: str, phase: str = "Running", **status: Any) -> None:
        """A pod of a Job in some phase."""
        self.pods.append({"metadata": {"name": f"{job}-x"}, "status": {"phase": phase, **status}})
