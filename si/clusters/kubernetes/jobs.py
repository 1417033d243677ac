"""Runs stages on Kubernetes: each as an indexed Job, watched instead of polled.

Jobs are created, never applied. Their names are deterministic, so a second controller finds the
first one's Job and adopts it if it has the same stage key. The manifest decides whether a stage is
complete. Safety depends on the commit protocol alone, never on a lock or a Job.
"""

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from si.clusters.kubernetes import manifests
from si.clusters.kubernetes.client import Client
from si.clusters.kubernetes.diagnosis import (
    Problem,
    evicted,
    failure,
    finished,
    problems,
    stage_failed,
)
from si.clusters.kubernetes.runs import never_ran
from si.clusters.kubernetes.watch import WATCH_SECONDS, Mirror
from si.config.place import Place
from si.datasets import sources
from si.errors import RETRY, StageFailed
from si.events import Event
from si.runs.limits import LimitReached
from si.stages import STAGES
from si.store.commit import Manifest, committed
from si.store.keys import Spec
from si.store.port import Store

REMOVAL_SECONDS = 5  # how often a Job that is being deleted is looked for
PROGRESS_SECONDS = 15  # how often the shards of a running stage are counted in the store


class KubernetesCluster:
    """Implements `si.clusters.port.Cluster` with Jobs in a namespace. A context manager, because it
    watches them."""

    def __init__(
        self,
        client: Client,
        place: Place,
        run: str,
        generation: int,
        owner: Mapping[str, Any],
        store: Store,
    ):
        """Args:
        owner: the run's ConfigMap, which owns the Jobs.
        store: the store in which the shards of a running stage are counted.
        """
        self.client = client
        self.place = place
        self.run_name = run
        self.generation = generation
        self.owner = owner
        self.store = store
        self.changed = threading.Event()
        self.watches = contextlib.ExitStack()

    def __enter__(self) -> "KubernetesCluster":
        """Start watching."""
        mine = f"{manifests.RUN}={self.run_name}"
        mine += f",app.kubernetes.io/instance={self.place.kubernetes.release}"
        core, batch = self.client.core, self.client.batch

        def watch(method: Callable[..., Any], **select: str) -> Mirror:
            return self.watches.enter_context(Mirror(self.client, method, self.changed, **select))

        self.jobs = watch(batch.list_namespaced_job, label_selector=mine)
        self.pods = watch(core.list_namespaced_pod, label_selector=mine)
        self.warnings = watch(core.list_namespaced_event, field_selector="type=Warning")
        return self

    def __exit__(self, *_: object) -> None:
        self.watches.close()

    def run(self, entry: str, spec: Spec, on_event: Callable[[Event], None]) -> None:
        """See `Cluster.run`."""
        make = functools.partial(
            manifests.stage_job, self.place, self.run_name, self.generation, entry, spec, self.owner
        )
        # Kubernetes retries single pods. Pods that train together are retried together, here.
        retries = self.place.retries if manifests.trains_together(self.place, spec) else 0
        shards = (lambda: len(committed(self.store, spec.address))) if spec.shards > 1 else None
        self._complete(entry, make, on_event, retries, shards)

    def fetch(self, wish: Mapping[str, Any], on_event: Callable[[Event], None]) -> None:
        """Fetch a model and a data set into the store, in a Job that reaches the hub.

        Args:
            wish: the recipe's settings, by dotted name, that name them.

        Raises:
            StageFailed: if the Job failed.
        """
        make = functools.partial(
            manifests.fetch_job, self.place, self.run_name, self.generation, wish, self.owner
        )
        try:
            self._complete(manifests.FETCH, make, on_event)
        except StageFailed as error:
            error.ways_out += (
                "A private or gated repository needs a token: place.kubernetes.hub_secret.",
                "networkPolicy.hub in the chart's values decides what the Job can reach. Without "
                "access to the hub, fetch from a machine that reaches hub and bucket: si-ctl fetch "
                "--on kubernetes, with the same --recipe and --set.",
            )
            raise

    def _complete(
        self,
        entry: str,
        make: Callable[[int], dict[str, Any]],
        on_event: Callable[[Event], None],
        retries: int = 0,
        shards: Callable[[], int] | None = None,
    ) -> None:
        """Run a Job to completion. An existing Job is adopted; after a failed one comes the next
        attempt.

        Args:
            make: returns the Job of an attempt, by its number.
            retries: how often to repeat a failed Job if a retry may help.
            shards: counts the committed shards.

        Raises:
            StageFailed: if the Job failed for good, or another stage's Job has its name.
        """
        attempt, again = 1, 0
        while True:
            wanted = make(attempt)
            standing, made = self.client.create(wanted)
            if not made and self._outdated(standing, wanted):
                # Nothing is lost: its settings have changed, or its run was cancelled.
                self._remove(standing)
                continue
            self._same_work(entry, standing, wanted)
            if not made and finished(standing) == "Failed":
                attempt += 1
                continue
            on_event({"event": "job", "attempt": attempt})
            try:
                if self._wait(entry, standing, on_event, shards):
                    return
                # It was deleted. Committed shards are kept; the rest needs another Job.
            except LimitReached:
                # Its pods would continue to cost money. Committed shards are kept.
                self.client.delete_job(standing["metadata"]["name"])
                raise
            except StageFailed as error:
                if error.exit_code != RETRY or again == retries:
                    raise
                attempt, again = attempt + 1, again + 1

    def _outdated(self, standing: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
        """Whether a Job has to make room for the wanted one: its pods have other settings and none
        of them ever ran, or it belongs to a cancelled run of the same name."""
        metadata = standing["metadata"]
        if not manifests.belongs_to(standing, self.owner):
            # Of a run that exists, it is not ours to remove.
            names = {each["name"] for each in metadata.get("ownerReferences") or ()}
            return names == {self.owner["metadata"]["name"]}
        if metadata.get("deletionTimestamp"):
            return True
        same = metadata.get("annotations", {}).get(manifests.TEMPLATE)
        other = same != wanted["metadata"]["annotations"][manifests.TEMPLATE]
        return other and finished(standing) is None and never_ran(self.client, standing)

    def _remove(self, job: Mapping[str, Any]) -> None:
        """Delete a Job, and wait until it is gone or another has its name."""
        name, uid = job["metadata"]["name"], job["metadata"]["uid"]
        self.client.delete_job(name)
        while (found := self.client.job(name)) and found["metadata"]["uid"] == uid:
            self.changed.wait(REMOVAL_SECONDS)
            self.changed.clear()

    def _same_work(
        self, entry: str, standing: Mapping[str, Any], wanted: Mapping[str, Any]
    ) -> None:
        metadata = standing["metadata"]
        found = metadata.get("annotations", {}).get(manifests.KEY)
        expected = wanted["metadata"]["annotations"][manifests.KEY]
        if not manifests.belongs_to(standing, self.owner):
            labels = metadata.get("labels", {})
            raise StageFailed(
                f"Job name conflict: {metadata['name']} belongs to another run",
                f"stage {entry}: the Job is of run {labels.get(manifests.RUN)}, release "
                f"{labels.get(manifests.INSTANCE)}",
                "Give this run another name: --run NAME",
            )
        if found != expected:
            raise StageFailed(
                f"Job name conflict: {metadata['name']} already exists with a different stage key",
                f"stage {entry}: expected stage key {expected}, got {found}",
                (
                    f"If it is not needed any more: kubectl delete job {metadata['name']}",
                    "Or give this run another name: --run NAME",
                ),
            )

    def _wait(
        self,
        entry: str,
        job: dict[str, Any],
        on_event: Callable[[Event], None],
        shards: Callable[[], int] | None,
    ) -> bool:
        """Wait until the Job ends: True if it completed, False if it was deleted."""
        name, uid = job["metadata"]["name"], job["metadata"]["uid"]
        reported: set[str] = set()
        failed: set[str] = set()
        counted, next_count = -1, 0.0
        seen = False
        while True:
            found = self.jobs.get(name)
            if found is not None and found["metadata"]["uid"] == uid:
                job, seen = found, True
            elif seen:
                return False
            pods = [
                pod
                for pod in self.pods.all()
                if any(owner["uid"] == uid for owner in pod["metadata"].get("ownerReferences", ()))
            ]
            for pod in pods:
                why = failure(pod)
                if why and pod["metadata"]["name"] not in failed:
                    failed.add(pod["metadata"]["name"])
                    on_event({"event": "failure", "pod": pod["metadata"]["name"], "why": why})
            current = problems(job, pods, self.warnings.all())
            reported = self._report(current, reported, on_event)
            ended = finished(job)
            kind = job["metadata"]["labels"]["app.kubernetes.io/component"]
            if ended is None and (error := self._evicted(entry, kind, pods)):
                self.client.delete_job(name)
                raise error
            if ended == "Complete":
                return True
            if ended == "Failed":
                raise stage_failed(entry, job, pods)
            if shards and time.monotonic() >= next_count:
                there = shards()
                if there != counted:
                    on_event({"event": "shards", "committed": there})
                counted, next_count = there, time.monotonic() + PROGRESS_SECONDS
            # The watches wake this thread up. The time limit is for counting shards in the store.
            self.changed.wait(PROGRESS_SECONDS if shards else WATCH_SECONDS)
            self.changed.clear()

    def _evicted(
        self, entry: str, component: str, pods: list[dict[str, Any]]
    ) -> StageFailed | None:
        """An error if nodes evict a pod again and again."""
        kind = STAGES[component].image if component in STAGES else component
        return evicted(entry, kind, pods, self.place.retries)

    def _report(
        self, now: Iterator[Problem], reported: set[str], on_event: Callable[[Event], None]
    ) -> set[str]:
        """Report new problems, and when all of them are solved; returns the current headlines."""
        current = {problem.headline: problem for problem in now}
        for headline, problem in current.items():
            if headline not in reported:
                on_event({"event": "problem", **problem._asdict()})
        if reported and not current:
            on_event({"event": "solved"})
        return set(current)


class ClusterHub:
    """Implements `si.datasets.port.Hub` with a Job, the only one with access to the hub. It fetches
    everything that the run's recipe names."""

    def __init__(
        self, cluster: KubernetesCluster, wish: Mapping[str, Any], on_event: Callable[[Event], None]
    ):
        """Args:
        wish: the recipe's settings, by dotted name, that name data and policy 0.
        """
        self.cluster = cluster
        self.wish = wish
        self.on_event = on_event

    def policy(self, store: Store, name: str) -> Manifest:
        self._fetch("it00/policy")
        return sources.policy(store, name, None)

    def data(self, store: Store, wish: Mapping[str, Any]) -> Manifest:
        self._fetch("it00/data")
        return sources.dataset(store, wish, None)

    def _fetch(self, entry: str) -> None:
        self.cluster.fetch(self.wish, lambda event: self.on_event({**event, "entry": entry}))
