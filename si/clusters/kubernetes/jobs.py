"""A Kubernetes cluster: a stage as an indexed Job, watched and never polled.

Jobs are created, never applied. Their names are deterministic, so that whoever comes
second finds the first one's Job and adopts it, if it has the same stage key. What a
Job's end means is for the manifest to decide; safety never hangs on a lock or a Job,
only on the commit protocol.
"""

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from si.clusters.kubernetes import manifests
from si.clusters.kubernetes.client import Cluster
from si.clusters.kubernetes.diagnosis import Trouble, failure, finished, stage_failed, troubles
from si.clusters.kubernetes.watch import WATCH_SECONDS, Mirror
from si.config.place import Place
from si.datasets import sources
from si.errors import RETRY, StageFailed
from si.events import Event
from si.runs.limits import LimitReached
from si.store.commit import Manifest, committed
from si.store.keys import Spec
from si.store.port import Store

PROGRESS_SECONDS = 15  # shards are counted in the store, while a stage runs, so often


class KubernetesCluster:
    """A `si.clusters.port.Cluster` of Jobs in a namespace; a context manager, for its watches."""

    def __init__(
        self,
        cluster: Cluster,
        place: Place,
        run: str,
        generation: int,
        owner: Mapping[str, Any],
        store: Store,
    ):
        """Args:
        owner: the run's object, which owns the Jobs.
        store: where shards are counted while a stage runs.
        """
        self.cluster = cluster
        self.place = place
        self.run_name = run
        self.generation = generation
        self.owner = owner
        self.store = store
        self.changed = threading.Event()
        self.watches = contextlib.ExitStack()

    def __enter__(self) -> "KubernetesCluster":
        """Begin to watch."""
        mine = f"{manifests.RUN}={self.run_name}"
        mine += f",app.kubernetes.io/instance={self.place.kubernetes.release}"
        core, batch = self.cluster.core, self.cluster.batch

        def watch(method: Callable[..., Any], **select: str) -> Mirror:
            return self.watches.enter_context(Mirror(self.cluster, method, self.changed, **select))

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
        # Kubernetes retries pods; those that work together are retried together, here.
        retries = self.place.retries if manifests.trains_together(self.place, spec) else 0
        shards = (lambda: len(committed(self.store, spec.address))) if spec.shards > 1 else None
        self._have_done(entry, make, on_event, retries, shards)

    def fetch(self, wish: Mapping[str, Any], on_event: Callable[[Event], None]) -> None:
        """Have a Job that reaches the model hub bring what `wish`, recipe fields by dotted name,
        says into the store.

        Raises:
            StageFailed: if it could not.
        """
        make = functools.partial(
            manifests.fetch_job, self.place, self.run_name, self.generation, wish, self.owner
        )
        try:
            self._have_done(manifests.FETCH, make, on_event)
        except StageFailed as error:
            error.ways_out += (
                "A private or gated one needs a token: place.kubernetes.hub_secret.",
                "What the Job may reach is networkPolicy.hub of the chart's values. Where it is to "
                "reach none, bring it from a machine that reaches hub and bucket: si-ctl fetch "
                "--on kubernetes, with the same --recipe and --set.",
            )
            raise

    def _have_done(
        self,
        entry: str,
        make: Callable[[int], dict[str, Any]],
        on_event: Callable[[Event], None],
        retries: int = 0,
        shards: Callable[[], int] | None = None,
    ) -> None:
        """Have a Job complete. One that stands already is adopted, one that failed gets a next.

        Args:
            make: the Job of an attempt.
            retries: how often the whole Job is made again when that may help.
            shards: counts what it has committed.
        """
        attempt, again = 1, 0
        while True:
            wanted = make(attempt)
            standing, made = self.cluster.create(wanted)
            self._same_work(entry, standing, wanted)
            if not made and finished(standing) == "Failed":
                attempt += 1
                continue
            on_event({"event": "job", "attempt": attempt})
            try:
                if self._wait(entry, standing, on_event, shards):
                    return
                # Somebody deleted it. What it had committed is kept; the rest needs a Job again.
            except LimitReached:
                # Its pods would go on spending. What they have committed is kept.
                self.cluster.delete_job(standing["metadata"]["name"])
                raise
            except StageFailed as error:
                if error.exit_code != RETRY or again == retries:
                    raise
                attempt, again = attempt + 1, again + 1

    def _same_work(
        self, entry: str, standing: Mapping[str, Any], wanted: Mapping[str, Any]
    ) -> None:
        metadata = standing["metadata"]
        found = metadata.get("annotations", {}).get(manifests.KEY)
        expected = wanted["metadata"]["annotations"][manifests.KEY]
        if found != expected:
            raise StageFailed(
                f"A Job of another kind of work has the name of stage {entry}",
                f"Job {metadata['name']}: stage key {found}, expected {expected}",
                (
                    f"If nobody needs it: kubectl delete job {metadata['name']}",
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
        """Until the Job ends: True if it completed, False if it was deleted."""
        name, uid = job["metadata"]["name"], job["metadata"]["uid"]
        told: set[str] = set()
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
            told = self._tell(troubles(job, pods, self.warnings.all()), told, on_event)
            ended = finished(job)
            if ended == "Complete":
                return True
            if ended == "Failed":
                raise stage_failed(entry, job, pods)
            if shards and time.monotonic() >= next_count:
                there = shards()
                if there != counted:
                    on_event({"event": "shards", "committed": there})
                counted, next_count = there, time.monotonic() + PROGRESS_SECONDS
            # The watches wake it; the time limit is for counting shards, in the store.
            self.changed.wait(PROGRESS_SECONDS if shards else WATCH_SECONDS)
            self.changed.clear()

    def _tell(
        self, now: Iterator[Trouble], told: set[str], on_event: Callable[[Event], None]
    ) -> set[str]:
        """Tell what is new, and when all of it is over."""
        current = {trouble.headline: trouble for trouble in now}
        for headline, trouble in current.items():
            if headline not in told:
                on_event({"event": "problem", **trouble._asdict()})
        if told and not current:
            on_event({"event": "solved"})
        return set(current)


class ClusterHub:
    """A `si.datasets.port.Hub` that is a Job, the only one that reaches the hub. One Job fetches
    everything that the run's recipe names."""

    def __init__(
        self, cluster: KubernetesCluster, wish: Mapping[str, Any], on_event: Callable[[Event], None]
    ):
        """Args:
        wish: the recipe fields, by dotted name, that say which data and which policy 0.
        """
        self.cluster = cluster
        self.wish = wish
        self.on_event = on_event

    def policy(self, store: Store, name: str) -> Manifest:
        self._bring("it00/policy")
        return sources.policy(store, name, None)

    def data(self, store: Store, wish: Mapping[str, Any]) -> Manifest:
        self._bring("it00/data")
        return sources.dataset(store, wish, None)

    def _bring(self, entry: str) -> None:
        self.cluster.fetch(self.wish, lambda event: self.on_event({**event, "entry": entry}))
