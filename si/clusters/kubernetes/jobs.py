"""A Kubernetes cluster: a stage as an indexed Job, watched and never polled.

Jobs are created, never applied. Their names are deterministic, so that whoever comes
second finds the first one's Job and adopts it, if it has the same stage key. What a
Job's end means is for the manifest to decide; safety never hangs on a lock or a Job,
only on the commit protocol.
"""

import contextlib
import datetime
import functools
import itertools
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes
from kubernetes.client.exceptions import ApiException
from kubernetes.informer import SharedInformer
from urllib3.exceptions import HTTPError

from si import __version__
from si.clusters.kubernetes import manifests
from si.clusters.kubernetes.diagnosis import Trouble, failure, finished, stage_failed, troubles
from si.config import Place
from si.datasets import sources
from si.errors import RETRY, RecipeError, RunBusy, SiError, StageFailed, StoreUnavailable
from si.ports import Event, Store
from si.runs.limits import LimitReached
from si.store.artifacts import Manifest, Spec, committed

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
WATCH_SECONDS = 300  # a watch is renewed so often; a dead connection is noticed by then
PROGRESS_SECONDS = 15  # shards are counted in the store, while a stage runs, so often


class ClusterUnavailable(StoreUnavailable):
    """The cluster's API does not answer, or refuses."""


class Cluster:
    """A namespace of a cluster, by the credentials of this process.

    Objects go in and come out as plain dicts, the form of their YAML.
    """

    def __init__(self, namespace: str | None = None):
        """Inside a pod by its service account, else by the kubeconfig's current context."""
        try:
            if ACCOUNT.exists():
                kubernetes.config.load_incluster_config()
                current = (ACCOUNT / "namespace").read_text().strip()
            else:
                kubernetes.config.load_kube_config()
                _, context = kubernetes.config.list_kube_config_contexts()
                current = context["context"].get("namespace", "default")
        except (kubernetes.config.ConfigException, OSError) as error:
            raise RecipeError(
                "No cluster is configured here",
                str(error),
                "Set KUBECONFIG, or try kubectl get pods: what it uses is used here.",
            ) from error
        self.namespace = namespace or current
        self.client = kubernetes.client.ApiClient()
        self.client.user_agent = f"si-ctl/{__version__}"
        self.core = kubernetes.client.CoreV1Api(self.client)
        self.batch = kubernetes.client.BatchV1Api(self.client)
        self.leases = kubernetes.client.CoordinationV1Api(self.client)
        # It logs every broken connection with a traceback, and then connects again.
        logging.getLogger("kubernetes.informer").setLevel(logging.CRITICAL)

    def plain(self, thing: Any) -> dict[str, Any]:
        made: dict[str, Any] = self.client.sanitize_for_serialization(thing)
        return made

    def call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """One request in this namespace.

        Raises:
            ApiException: 404 and 409, which callers decide upon.
            ClusterUnavailable: everything else, in words.
        """
        name = method.__name__.removesuffix("_namespaced")
        try:
            if "namespaced" in name:
                kwargs["namespace"] = self.namespace
            return self.plain(method(*args, **kwargs))
        except ApiException as error:
            if error.status in (404, 409):
                raise
            what = f"{name.replace('_', ' ')} in namespace {self.namespace}"
            raise ClusterUnavailable(
                f"The cluster refuses: {what} ({error.status})",
                _message(error),
                "Ask for these rights, or see docs/operations.md, what a user of a cluster needs."
                if error.status in (401, 403)
                else "Run the same command again; it resumes.",
            ) from error
        except (HTTPError, OSError) as error:
            raise ClusterUnavailable(
                "The cluster's API does not answer",
                str(error),
                "Try kubectl get pods; then run the same command again.",
            ) from error

    def read(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        """What `call` gives, or None where there is nothing of that name."""
        try:
            return self.call(method, *args, **kwargs)
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    def create(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        """Create a Job or a ConfigMap; (what stands there now, whether this call made it)."""
        name = body["metadata"]["name"]
        make, read = {
            "Job": (self.batch.create_namespaced_job, self.batch.read_namespaced_job),
            "ConfigMap": (
                self.core.create_namespaced_config_map,
                self.core.read_namespaced_config_map,
            ),
        }[body["kind"]]
        while True:
            try:
                return self.call(make, body=dict(body)), True
            except ApiException as error:
                if error.status == 404:
                    raise ClusterUnavailable(
                        f"There is no namespace {self.namespace}", _message(error), ()
                    ) from error
            standing = self.read(read, name)
            if standing is not None:
                return standing, False

    def config_maps(self, selector: str) -> list[dict[str, Any]]:
        found = self.call(self.core.list_namespaced_config_map, label_selector=selector)
        items: list[dict[str, Any]] = found["items"]
        return items

    def job(self, name: str) -> dict[str, Any] | None:
        return self.read(self.batch.read_namespaced_job, name)

    def delete_job(self, name: str) -> None:
        """Remove a Job and its pods, if it is there."""
        method = self.batch.delete_namespaced_job
        self.read(method, name, propagation_policy="Background")

    def log(self, pod: str, follow: bool) -> Iterator[str]:
        """The lines that a pod has written, and with `follow` those that it will."""
        try:
            answer = self.core.read_namespaced_pod_log(
                pod, self.namespace, follow=follow, _preload_content=False
            )
        except ApiException as error:
            yield f"(no log: {_message(error)})"
            return
        rest = b""
        for piece in answer.stream():
            *lines, rest = (rest + piece).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)

    def patch_run(self, name: str, data: Mapping[str, str]) -> None:
        """Write these keys of a run's object."""
        try:
            self.call(self.core.patch_namespaced_config_map, name, body={"data": dict(data)})
        except ApiException as error:
            raise SiError(
                "The run's object is gone: the run was cancelled",
                f"ConfigMap {name} in namespace {self.namespace}",
                "What is committed stays; the same iterate command begins where it stopped.",
            ) from error


class Mirror:
    """A local copy of some of a cluster's objects, kept true by a watch with bookmarks.

    A context manager: its thread must not outlive the program's main one.
    """

    def __init__(
        self,
        cluster: Cluster,
        method: Callable[..., Any],
        changed: threading.Event,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ):
        self.cluster = cluster
        self.answer: Any = None

        @functools.wraps(method)
        def request(**kwargs: Any) -> Any:
            if kwargs.get("watch"):
                kwargs |= {"allow_watch_bookmarks": True, "timeout_seconds": WATCH_SECONDS}
                kwargs["_request_timeout"] = (10, WATCH_SECONDS + 30)
            self.answer = method(**kwargs)
            return self.answer

        self.informer = SharedInformer(
            request, cluster.namespace, 0, label_selector, field_selector
        )
        for kind in ("ADDED", "MODIFIED", "DELETED"):
            self.informer.add_event_handler(kind, lambda _: changed.set())
        self.errors: list[Exception] = []
        self.informer.add_event_handler("ERROR", self._refused)
        self.informer.start()

    def _refused(self, error: Any) -> None:
        """What no waiting mends is kept for who looks next; the rest mends itself."""
        if isinstance(error, ApiException) and error.status in (401, 403, 404):
            self.errors.append(error)

    def all(self) -> list[dict[str, Any]]:
        if self.errors:
            error = self.errors.pop()
            raise ClusterUnavailable("The cluster refuses a watch", _message(error), ())
        return [self.cluster.plain(thing) for thing in self.informer.cache.list()]

    def get(self, name: str) -> dict[str, Any] | None:
        return next((thing for thing in self.all() if thing["metadata"]["name"] == name), None)

    def __enter__(self) -> "Mirror":
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread, which sits in a read that would last for minutes."""
        stopping = threading.Thread(target=self.informer.stop, daemon=True)
        stopping.start()
        while stopping.is_alive():
            with contextlib.suppress(Exception):
                self.answer.shutdown()
            stopping.join(0.05)


class KubernetesCluster:
    """Implements `si.ports.Cluster` by Jobs in a namespace; a context manager, for its watches."""

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
    """Implements `si.ports.Hub` by a Job that reaches the hub, as no other pod does. One Job brings
    all that the run's recipe names."""

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


class Lease:
    """A run's lock: held while the controller lives, one request each `RENEW` seconds.

    It keeps two controllers from doing the work twice; two at once would still commit
    every artefact once.
    """

    DURATION = 120
    RENEW = 40

    def __init__(self, cluster: Cluster, owner: Mapping[str, Any], holder: str):
        """Args:
        owner: the run's object, which owns the lease and gives it its name.
        holder: name of this pod.
        """
        self.cluster = cluster
        self.name = owner["metadata"]["name"]
        self.holder = holder
        self.ended = threading.Event()
        self.lease: dict[str, Any] = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": self.name,
                "labels": owner["metadata"]["labels"],
                "ownerReferences": [
                    {
                        "apiVersion": "v1",
                        "kind": "ConfigMap",
                        "name": self.name,
                        "uid": owner["metadata"]["uid"],
                    }
                ],
            },
            "spec": {},
        }

    def __enter__(self) -> "Lease":
        """Take the lease, waiting for a holder that may be alive.

        Raises:
            RunBusy: if another holds it and renews it.
        """
        for attempt in itertools.count():
            with contextlib.suppress(ApiException):
                self.lease = self.cluster.call(
                    self.cluster.leases.create_namespaced_lease, body=self._held()
                )
                break
            standing = self.cluster.read(self.cluster.leases.read_namespaced_lease, self.name)
            if standing is None:
                continue
            wait = self._remaining(standing)
            if wait <= 0:
                self.lease = standing
                with contextlib.suppress(ApiException):  # another took it first
                    self.lease = self.cluster.call(
                        self.cluster.leases.replace_namespaced_lease, self.name, body=self._held()
                    )
                    break
            elif attempt:
                raise RunBusy(
                    "Another controller is working on this run",
                    f"pod {standing['spec'].get('holderIdentity')} holds the lease {self.name}",
                )
            time.sleep(max(1, wait))
        threading.Thread(target=self._renew, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        with contextlib.suppress(ApiException, SiError):
            body = self._held()
            body["spec"]["holderIdentity"] = ""
            self.cluster.call(self.cluster.leases.replace_namespaced_lease, self.name, body=body)

    def _held(self) -> dict[str, Any]:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {
            "holderIdentity": self.holder,
            "leaseDurationSeconds": self.DURATION,
            "renewTime": now,
        }
        return {**self.lease, "spec": spec}

    def _remaining(self, standing: Mapping[str, Any]) -> float:
        """Seconds that the holder's lease still lasts; 0 if its pod has ended."""
        spec = standing.get("spec", {})
        holder, renewed = spec.get("holderIdentity"), spec.get("renewTime")
        if not holder or holder == self.holder or not renewed:
            return 0
        pod = self.cluster.read(self.cluster.core.read_namespaced_pod, holder)
        if pod is None or pod["status"].get("phase") in ("Succeeded", "Failed"):
            return 0
        until = datetime.datetime.fromisoformat(renewed) + datetime.timedelta(
            seconds=spec.get("leaseDurationSeconds", self.DURATION)
        )
        return (until - datetime.datetime.now(datetime.UTC)).total_seconds()

    def _renew(self) -> None:
        """Renew until the end. Who has lost the lease stops at once, as if killed."""
        while not self.ended.wait(self.RENEW):
            try:
                self.lease = self.cluster.call(
                    self.cluster.leases.replace_namespaced_lease, self.name, body=self._held()
                )
            except ApiException:
                if not self.ended.is_set():
                    os._exit(RunBusy.exit_code)
            except SiError:
                continue  # the API is away; the next renewal may come through


def _message(error: Any) -> str:
    """What the API says of an error, without headers and JSON around it."""
    try:
        return str(json.loads(error.body)["message"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return str(getattr(error, "reason", None) or error)
