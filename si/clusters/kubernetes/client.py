"""A client of the API server, for the rest of this package."""

import itertools
import json
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from si import __version__
from si.errors import RecipeError, SiError, StoreUnavailable

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


# A request that an API server may answer later: it is starting, busy, or behind a proxy that is.
TRANSIENT = (408, 429, 500, 502, 503, 504)
# How long transient errors are retried: by a command that someone waits for, and in the cluster.
PATIENCE, PATIENCE_INSIDE = 10.0, 300.0
LONGEST_PAUSE = 30.0


class ClusterUnavailable(StoreUnavailable):
    """The cluster's API is unreachable, or denies a request."""


def pause(failures: int, error: Exception | None = None) -> float:
    """Seconds to wait after so many failures in a row: doubling, with jitter, at most
    `LONGEST_PAUSE`; or what the server asks for."""
    headers = getattr(error, "headers", None) or {}
    asked = str(headers.get("Retry-After", ""))
    if asked.isdecimal():
        return min(float(asked), 2 * LONGEST_PAUSE) + random.random()
    return float(min(LONGEST_PAUSE, 0.5 * 2 ** min(failures, 10)) * random.uniform(0.5, 1))


def transient(error: Exception) -> bool:
    """Whether a request may succeed later. Requests are safe to repeat: names are deterministic."""
    if isinstance(error, ApiException):
        # Status 0 is the client's own for a connection that failed.
        return error.status in TRANSIENT or not error.status
    return isinstance(error, HTTPError | OSError)


class Client:
    """Access to one namespace of a cluster, with the credentials of this process.

    Objects are plain dicts in the form of their YAML.
    """

    def __init__(self, namespace: str | None = None):
        """Connect by the service account inside a pod, else by the kubeconfig's current context.

        Raises:
            RecipeError: if there is neither.
        """
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
                "Set KUBECONFIG. If kubectl get pods works, this works too.",
            ) from error
        self.namespace = namespace or current
        self.patience = PATIENCE_INSIDE if ACCOUNT.exists() else PATIENCE
        self.api = kubernetes.client.ApiClient()
        self.api.user_agent = f"si-ctl/{__version__}"
        self.core = kubernetes.client.CoreV1Api(self.api)
        self.batch = kubernetes.client.BatchV1Api(self.api)
        self.leases = kubernetes.client.CoordinationV1Api(self.api)
        # It logs a traceback for every broken connection, and then reconnects.
        logging.getLogger("kubernetes.informer").setLevel(logging.CRITICAL)

    def plain(self, thing: Any) -> dict[str, Any]:
        """An API object as a plain dict."""
        made: dict[str, Any] = self.api.sanitize_for_serialization(thing)
        return made

    def call(
        self,
        method: Callable[..., Any],
        *args: Any,
        patience: float | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """One request in this namespace; transient errors are retried with increasing pauses.

        Args:
            patience: seconds to go on trying, by default the client's.

        Raises:
            ApiException: for 404 and 409, which callers handle.
            ClusterUnavailable: for all other errors.
        """
        name = method.__name__.removesuffix("_namespaced")
        if "namespaced" in name:
            kwargs["namespace"] = self.namespace
        until = time.monotonic() + (self.patience if patience is None else patience)
        for failures in itertools.count():
            try:
                return self.plain(method(*args, **kwargs))
            except (ApiException, HTTPError, OSError) as error:
                wait = pause(failures, error)
                if transient(error) and time.monotonic() + wait < until:
                    time.sleep(wait)
                    continue
                raise self._unavailable(name, error) from error
        raise AssertionError  # the loop ends only by return or raise

    def _unavailable(self, name: str, error: Exception) -> Exception:
        """What to raise for a failed request: the error itself for 404 and 409."""
        if not isinstance(error, ApiException):
            return ClusterUnavailable(
                "The cluster's API is unreachable",
                str(error),
                "Check with kubectl get pods, then run the same command again.",
            )
        handled: Exception = error
        if error.status in (404, 409):
            return handled
        what = f"{name.replace('_', ' ')} in namespace {self.namespace}"
        return ClusterUnavailable(
            f"The cluster denied the request: {what} ({error.status})",
            error_message(error),
            "Ask for these rights; docs/cluster.md lists what a user of a cluster needs."
            if error.status in (401, 403)
            else "Run the same command again; it resumes.",
        )

    def read(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        """The result of `call`, or None if there is no such object."""
        try:
            return self.call(method, *args, **kwargs)
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    def create(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        """Create a Job or a ConfigMap.

        Returns:
            The object that is there now, and whether this call created it.
        """
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
                        f"There is no namespace {self.namespace}", error_message(error), ()
                    ) from error
            standing = self.read(read, name)
            if standing is not None:
                return standing, False

    def config_maps(self, selector: str) -> list[dict[str, Any]]:
        """The namespace's ConfigMaps with these labels."""
        found = self.call(self.core.list_namespaced_config_map, label_selector=selector)
        items: list[dict[str, Any]] = found["items"]
        return items

    def job(self, name: str) -> dict[str, Any] | None:
        """A Job by name; None if there is none."""
        return self.read(self.batch.read_namespaced_job, name)

    def jobs(self, selector: str) -> list[dict[str, Any]]:
        """The namespace's Jobs with these labels."""
        found = self.call(self.batch.list_namespaced_job, label_selector=selector)
        items: list[dict[str, Any]] = found["items"]
        return items

    def pods_of(self, job: str) -> list[dict[str, Any]]:
        """The pods of a Job, by its name."""
        select = f"batch.kubernetes.io/job-name={job}"
        found = self.call(self.core.list_namespaced_pod, label_selector=select)
        items: list[dict[str, Any]] = found["items"]
        return items

    def delete_job(self, name: str) -> None:
        """Delete a Job and its pods, if it exists."""
        method = self.batch.delete_namespaced_job
        self.read(method, name, propagation_policy="Background")

    def log(self, pod: str, follow: bool) -> Iterator[str]:
        """The lines of a pod's log; with `follow` also those to come."""
        try:
            answer = self.core.read_namespaced_pod_log(
                pod, self.namespace, follow=follow, _preload_content=False
            )
        except ApiException as error:
            yield f"(no log: {error_message(error)})"
            return
        rest = b""
        for piece in answer.stream():
            *lines, rest = (rest + piece).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)

    def patch_run(self, name: str, data: Mapping[str, str], patience: float | None = None) -> None:
        """Set keys of a run's ConfigMap; `patience` as for `call`.

        Raises:
            SiError: if the run was cancelled.
        """
        try:
            body = {"data": dict(data)}
            self.call(self.core.patch_namespaced_config_map, name, patience=patience, body=body)
        except ApiException as error:
            raise SiError(
                "The run was cancelled: its ConfigMap is gone",
                f"ConfigMap {name} in namespace {self.namespace}",
                "Committed artefacts stay; the same iterate command resumes the run.",
            ) from error


def error_message(error: Any) -> str:
    """The API's message for an error, without headers and JSON."""
    try:
        return str(json.loads(error.body)["message"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return str(getattr(error, "reason", None) or error)
