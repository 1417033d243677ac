"""`si-ctl logs`: the logs of a run's stages."""

import os
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from si.cli.console import say
from si.cli.options import (
    CLUSTER,
    NamespaceOption,
    ReleaseOption,
    RunArgument,
    StoreOption,
    open_place,
)
from si.clusters.local import at_work, local_folder
from si.errors import RunMissing
from si.runs.status import entries, find_run
from si.store.keys import Spec
from si.store.port import Store

PAUSE = 0.5  # seconds between two reads of a log that is followed


def logs(
    run: RunArgument,
    stage: Annotated[
        str | None,
        typer.Option(
            help="An entry such as it01/explore.  \\[default: the last one, or the controller]"
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing new lines until the run stops.")
    ] = False,
    store: StoreOption = None,
    on: Annotated[
        Literal["local", "kubernetes"] | None,
        typer.Option(
            rich_help_panel=CLUSTER,
            help="Where the run is.  \\[default: local if the store has it, else the cluster]",
        ),
    ] = None,
    namespace: NamespaceOption = None,
    release: ReleaseOption = None,
) -> None:
    """Show the logs of a run's stages.

    Shows what the workers of one stage wrote: on this machine the stage that the run began last,
    on a cluster its controller.
    """
    if (on or _where(run, store, namespace or release)) == "kubernetes":
        from si.cli.on_cluster import logs as logs_there

        logs_there(run, stage, follow, namespace, release)
        return
    where = open_place(store)
    name = find_run(where, run)
    entry, files = log_files(where, name, stage)
    say(f"{entry} of {name}: {', '.join(map(str, files))}", err=True)
    offsets = dict.fromkeys(files, 0)
    try:
        while True:
            working = at_work(where.url, name) is not None  # asked first: its last lines follow
            for path in files:
                offsets[path] = _print_from(path, offsets[path], len(files) > 1)
            if not follow or not working:
                return
            time.sleep(PAUSE)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _where(run: str, store: str | None, cluster: str | None) -> str:
    """Where a run is, if its place was not given: in the store, or on kubectl's cluster."""
    if cluster:
        return "kubernetes"
    try:
        find_run(open_place(store), run)
    except RunMissing:
        files = os.environ.get("KUBECONFIG", str(Path.home() / ".kube" / "config"))
        configured = any(Path(file).is_file() for file in files.split(os.pathsep))
        return "kubernetes" if store is None and configured else "local"
    return "local"


def log_files(where: Store, run: str, stage: str | None) -> tuple[str, list[Path]]:
    """An entry of a run, and the logs of its workers on this machine, one file per worker.

    Args:
        stage: the entry; by default the last one with a log.

    Raises:
        RunMissing: if the run has no such entry, or no log of it is on this machine.
    """
    folder = local_folder(where) / "logs" / run
    found: dict[str, list[Path]] = {}
    for entry, address in entries(where, run).items():
        spec = Spec.load(where, address)
        stem = f"{spec.stage}-{spec.name}-{spec.key[:12]}-w"
        files = [path for path in folder.glob("*.log") if path.name.startswith(stem)]
        if files:
            found[entry] = sorted(files, key=lambda path: (len(path.name), path.name))
    if stage is None and found:
        stage = list(found)[-1]
    if stage in found:
        return stage, found[stage]
    raise RunMissing(
        f"No log of {stage or 'a stage'} of the run {run} is on this machine",
        f"looked in {folder}\nstages with logs: {', '.join(found) or 'none'}",
        (
            f"Show the run's stages: si-ctl status {run}",
            f"If it runs on a cluster: si-ctl logs --on kubernetes {run}",
        ),
    )


def _print_from(path: Path, offset: int, several: bool) -> int:
    """Print the complete lines of a log from `offset` on; returns the offset after them."""
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    lines, cut, _ = data.rpartition(b"\n")
    for line in lines.split(b"\n") if cut else ():
        head = f"{path.stem} | " if several else ""
        say(head + line.decode("utf-8", "replace"))
    return offset + len(lines) + len(cut)
