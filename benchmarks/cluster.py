"""What a stage costs on a cluster beyond its Job: ours against `kubectl create` + `kubectl wait`.

    tests/cluster/run needs a cluster; so does this: python benchmarks/cluster.py NAMESPACE RUN

Both make the very same Job, of a stage of RUN that is committed already, so that its pod finds
nothing to do and leaves. RUN must be a finished run of a release in NAMESPACE, and the bucket
be reachable from here (place.s3.endpoint_external).
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from si.clusters.kubernetes.client import Client
from si.clusters.kubernetes.jobs import KubernetesCluster
from si.clusters.kubernetes.manifests import stage_job
from si.clusters.kubernetes.runs import find_run, place_from_outside
from si.config.place import Place
from si.runs.status import entries
from si.store.keys import Spec
from si.store.open import open_store

KUBECTL = os.environ.get("KUBECTL", "kubectl")
ROUNDS = 7


def main() -> None:
    namespace, run = sys.argv[1:]
    cluster = Client(namespace)
    owner = find_run(cluster, run, None)
    place = Place.model_validate_json(owner["data"]["place"])
    store = open_store(place_from_outside(namespace, None))
    spec = Spec.load(store, entries(store, run)["it01/rebalance"])
    ours, theirs = [], []
    with KubernetesCluster(cluster, place, "bench", 1, owner, store) as doing:
        for number in range(ROUNDS):
            began = time.monotonic()
            doing.run(f"it{number:02d}/ours", spec, lambda _: None)
            ours.append(time.monotonic() - began)
            job = stage_job(place, "bench", 1, f"it{number:02d}/theirs", spec, owner)
            job["metadata"]["namespace"] = namespace
            with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
                json.dump(job, file)
                file.flush()
                began = time.monotonic()
                subprocess.run(
                    [KUBECTL, "create", "-f", file.name], check=True, capture_output=True
                )
                wait = [KUBECTL, "-n", namespace, "wait", "--for=condition=complete"]
                subprocess.run(
                    [*wait, "--timeout=120s", f"job/{job['metadata']['name']}"],
                    check=True,
                    capture_output=True,
                )
                theirs.append(time.monotonic() - began)
            for made in ("ours", "theirs"):
                name = f"{place.kubernetes.release}-bench-it{number:02d}-{made}-1"
                subprocess.run(
                    [KUBECTL, "-n", namespace, "delete", "job", name, "--wait=false"],
                    capture_output=True,
                )
    mine, bare = statistics.median(ours), statistics.median(theirs)
    print(
        f"no-op stage: {mine:.2f} s, kubectl create job + wait: {bare:.2f} s (medians of {ROUNDS})"
    )
    print(f"ratio {mine / bare:.2f}")


if __name__ == "__main__":
    main()
