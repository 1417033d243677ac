"""A mirror of some of the cluster's objects, kept current by a watch."""

import contextlib
import functools
import threading
from collections.abc import Callable
from typing import Any

from kubernetes.client.exceptions import ApiException
from kubernetes.informer import SharedInformer

from si.clusters.kubernetes.client import Cluster, ClusterUnavailable, _message

WATCH_SECONDS = 300  # a watch is renewed so often; a dead connection is noticed by then


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
