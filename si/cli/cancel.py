"""`si-ctl cancel`: stop a run on a cluster."""

import typer

from si.cli.options import NamespaceOption, ReleaseOption, RunArgument
from si.clusters.kubernetes.client import Cluster
from si.clusters.kubernetes.runs import find_run


def cancel(
    run: RunArgument,
    namespace: NamespaceOption = None,
    release: ReleaseOption = None,
) -> None:
    """Stop a run on a cluster and remove its Jobs; what is committed stays in the bucket."""
    cluster = Cluster(namespace)
    owner = find_run(cluster, run, release)
    name = owner["metadata"]["name"]
    cluster.read(cluster.core.delete_namespaced_config_map, name, propagation_policy="Background")
    typer.echo(f"Cancelled {run}: its Jobs and pods in {cluster.namespace} are being removed.")
    typer.echo("What is committed stays; the same iterate command begins where it stopped.")
