"""`si-ctl logs`: what the pods of a run write."""

import threading
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from si.cli.console import printable
from si.cli.options import NamespaceOption, ReleaseOption, RunArgument
from si.clusters.kubernetes.client import Cluster
from si.clusters.kubernetes.manifests import ITERATION, RUN, STAGE
from si.clusters.kubernetes.runs import find_run
from si.entry import Entry
from si.errors import RunMissing


def logs(
    run: RunArgument,
    stage: Annotated[
        str | None,
        typer.Option(help="A stage's entry, as it01/explore; by default the controller."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is written from now on.")
    ] = False,
    namespace: NamespaceOption = None,
    release: ReleaseOption = None,
) -> None:
    """Show what the pods of a run on a cluster write."""
    cluster = Cluster(namespace)
    owner = find_run(cluster, run, release)
    mine = f"{RUN}={owner['metadata']['labels'][RUN]}"
    if stage is None:
        select = f"{mine},app.kubernetes.io/component=controller"
    else:
        try:
            entry = Entry.parse(stage)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--stage") from error
        select = f"{mine},{ITERATION}={entry.t:02d},{STAGE}={entry.step}"
    found = cluster.call(cluster.core.list_namespaced_pod, label_selector=select)["items"]
    if not found:
        raise RunMissing(
            f"No pods of {stage or 'the controller'} are there",
            f"run {run}, namespace {cluster.namespace}",
            ("See how far the run is: si-ctl status --on kubernetes " + run,),
        )
    found.sort(key=lambda pod: pod["metadata"]["creationTimestamp"])
    readers = [
        threading.Thread(target=_read, args=(cluster, pod, follow, len(found) > 1), daemon=True)
        for pod in found
    ]
    for reader in readers:
        reader.start()
        if not follow:
            reader.join()  # one pod's lines after the other's
    for reader in readers:
        reader.join()


def _read(cluster: Cluster, pod: Mapping[str, Any], follow: bool, several: bool) -> None:
    head = f"{pod['metadata']['name']} | " if several else ""
    for line in cluster.log(pod["metadata"]["name"], follow):
        # A model's words pass through here: no control codes to the terminal.
        typer.echo(head + printable(line))
