"""`si-ctl cancel`: stop a run on a cluster."""

from si.cli.console import say
from si.cli.options import NamespaceOption, ReleaseOption, RunArgument
from si.clusters.kubernetes.client import Client
from si.clusters.kubernetes.runs import find_run


def cancel(
    run: RunArgument,
    namespace: NamespaceOption = None,
    release: ReleaseOption = None,
) -> None:
    """Stop a run on a cluster and remove its Jobs.

    Committed artefacts stay in the bucket.
    """
    cluster = Client(namespace)
    owner = find_run(cluster, run, release)
    name = owner["metadata"]["name"]
    cluster.read(cluster.core.delete_namespaced_config_map, name, propagation_policy="Background")
    say(f"Cancelled {run}. Its Jobs and pods in namespace {cluster.namespace} are being removed.")
    say("Committed artefacts stay. The same iterate command continues from them.")
