"""One controller per run: a Lease that only one process can hold."""

import contextlib
import datetime
import itertools
import os
import threading
import time
from collections.abc import Mapping
from typing import Any

from kubernetes.client.exceptions import ApiException

from si.clusters.kubernetes.client import Client
from si.errors import RunBusy, SiError


class Lease:
    """A run's lock, held while the controller lives and renewed every `RENEW` seconds.

    It keeps two controllers from doing the same work. Without it they would still commit every
    artefact exactly once.
    """

    DURATION = 120
    RENEW = 40

    def __init__(self, client: Client, owner: Mapping[str, Any], holder: str):
        """Args:
        owner: the run's ConfigMap, which owns the lease and gives it its name.
        holder: the name of this pod.
        """
        self.client = client
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
        """Acquire the lease, waiting for a holder that may be alive.

        Raises:
            RunBusy: if another controller holds and renews it.
        """
        for attempt in itertools.count():
            with contextlib.suppress(ApiException):
                self.lease = self.client.call(
                    self.client.leases.create_namespaced_lease, body=self._held()
                )
                break
            standing = self.client.read(self.client.leases.read_namespaced_lease, self.name)
            if standing is None:
                continue
            wait = self._remaining(standing)
            if wait <= 0:
                self.lease = standing
                with contextlib.suppress(ApiException):  # another controller was faster
                    self.lease = self.client.call(
                        self.client.leases.replace_namespaced_lease, self.name, body=self._held()
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
            renew = self.client.leases.replace_namespaced_lease
            self.client.call(renew, self.name, patience=0, body=body)  # it expires by itself

    def _held(self) -> dict[str, Any]:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {
            "holderIdentity": self.holder,
            "leaseDurationSeconds": self.DURATION,
            "renewTime": now,
        }
        return {**self.lease, "spec": spec}

    def _remaining(self, standing: Mapping[str, Any]) -> float:
        """Seconds until the holder's lease expires; 0 if its pod has ended."""
        spec = standing.get("spec", {})
        holder, renewed = spec.get("holderIdentity"), spec.get("renewTime")
        if not holder or holder == self.holder or not renewed:
            return 0
        pod = self.client.read(self.client.core.read_namespaced_pod, holder)
        if pod is None or pod["status"].get("phase") in ("Succeeded", "Failed"):
            return 0
        until = datetime.datetime.fromisoformat(renewed) + datetime.timedelta(
            seconds=spec.get("leaseDurationSeconds", self.DURATION)
        )
        return (until - datetime.datetime.now(datetime.UTC)).total_seconds()

    def _renew(self) -> None:
        """Renew until the end. If the lease is lost, stop the process at once, as if killed."""
        while not self.ended.wait(self.RENEW):
            try:
                self.lease = self.client.call(
                    self.client.leases.replace_namespaced_lease,
                    self.name,
                    patience=self.RENEW / 2,
                    body=self._held(),
                )
            except ApiException:
                if not self.ended.is_set():
                    os._exit(RunBusy.exit_code)
            except SiError:
                continue  # the API is unreachable; the next renewal may succeed
