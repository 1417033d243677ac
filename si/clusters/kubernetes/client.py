"""The API server, as the rest of this package calls it."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from si import __version__
from si.errors import RecipeError, SiError, StoreUnavailable

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


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


def _message(error: Any) -> str:
    """What the API says of an error, without headers and JSON around it."""
    try:
        return str(json.loads(error.body)["message"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return str(getattr(error, "reason", None) or error)
