"""A local copy of some of the cluster's objects, updated by a watch."""

import contextlib
import functools
import threading
from collections.abc import Callable
from typing import Any

from kubernetes.client.exceptions import ApiException
from kubernetes.informer import SharedInformer

from si.clusters.kubernetes.client import Client, ClusterUnavailable, error_message, pause

DENIALS = 4  # so many in a row are permanent
WATCH_SECONDS = 300  # how often a watch is renewed; a dead connection is noticed by then


class Mirror:
    """A local copy of some of a cluster's objects, updated by a watch with bookmarks.

    A context manager, because its thread must not outlive the program's main thread.
    """

    def __init__(
        self,
        client: Client,
        method: Callable[..., Any],
        changed: threading.Event,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ):
        self.client = client
        self.answer: Any = None
        self.stopping = threading.Event()
        self.failures = 0  # in a row
        self.last: Exception | None = None

        @functools.wraps(method)
        def request(**kwargs: Any) -> Any:
            if kwargs.get("watch"):
                kwargs |= {"allow_watch_bookmarks": True, "timeout_seconds": WATCH_SECONDS}
                kwargs["_request_timeout"] = (10, WATCH_SECONDS + 30)
            self.answer = self._request(functools.partial(method, **kwargs))
            return self.answer

        self.informer = SharedInformer(request, client.namespace, 0, label_selector, field_selector)
        for kind in ("ADDED", "MODIFIED", "DELETED"):
            self.informer.add_event_handler(kind, lambda _: changed.set())
        self.changed = changed
        self.errors: list[Exception] = []
        self.informer.add_event_handler("ERROR", self._keep_permanent)
        self.informer.start()

    def _request(self, ask: Callable[[], Any]) -> Any:
        """One request of the informer, which itself asks again at once, however often it fails."""
        if self.failures:
            self.stopping.wait(pause(self.failures, self.last))
        try:
            answer = ask()
        except Exception as error:
            self.failures, self.last = self.failures + 1, error
            raise
        self.failures, self.last = 0, None
        return answer

    def _keep_permanent(self, error: Any) -> None:
        """Keep permanent errors for the next reader; transient ones resolve by retrying. An API
        server that is starting denies everything for a moment."""
        denied = isinstance(error, ApiException) and error.status in (401, 403, 404)
        if denied and self.failures >= DENIALS:
            self.errors.append(error)
            self.changed.set()

    def all(self) -> list[dict[str, Any]]:
        """All objects.

        Raises:
            ClusterUnavailable: if the API has denied the watch.
        """
        if self.errors:
            error = self.errors.pop()
            raise ClusterUnavailable("The cluster denied a watch", error_message(error), ())
        return [self.client.plain(thing) for thing in self.informer.cache.list()]

    def get(self, name: str) -> dict[str, Any] | None:
        """An object by name; None if there is none."""
        return next((thing for thing in self.all() if thing["metadata"]["name"] == name), None)

    def __enter__(self) -> "Mirror":
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread, which is blocked in a read that would last for minutes."""
        self.stopping.set()
        stopping = threading.Thread(target=self.informer.stop, daemon=True)
        stopping.start()
        while stopping.is_alive():
            with contextlib.suppress(Exception):
                self.answer.shutdown()
            stopping.join(0.05)
