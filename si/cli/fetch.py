"""`si-ctl fetch`: bring what a recipe names into the store."""

import json

import typer

from si.cli.console import Counting
from si.cli.options import (
    JsonOption,
    NamespaceOption,
    OnOption,
    RecipeOption,
    ReleaseOption,
    SetOption,
    StoreOption,
    reading_place,
    resolve,
    writing_store,
)
from si.clusters.local import local_folder
from si.datasets.hub import HuggingFace
from si.datasets.sources import dataset, policy
from si.run import WISH
from si.store.commit import Manifest


def fetch(
    recipe: RecipeOption = None,
    settings: SetOption = None,
    store: StoreOption = None,
    on: OnOption = "local",
    namespace: NamespaceOption = None,
    release: ReleaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring the data set and policy 0 that a recipe names into the store, from the hub or a folder.

    A run does so itself, on a cluster by a Job. Where that may reach no hub, fetch once from a
    machine that reaches the hub and, with credentials of yours, the bucket.
    """
    computed, place = resolve(recipe, settings, {"place.store": store})
    if on == "kubernetes":
        place = reading_place(store, on, namespace, release)
    where = writing_store(place)
    made: dict[str, Manifest] = {}
    with Counting() as screen:
        hub = HuggingFace(local_folder(where) / "imports", screen.hear)
        screen.line(f"data: {computed.data.source}")
        made["data"] = dataset(where, computed.pick(*WISH), hub)
        screen.line(f"policy 0: {computed.model.source}")
        made["policy"] = policy(where, computed.model.source, hub)
    addresses = {name: each.spec.address for name, each in made.items()}
    if as_json:
        typer.echo(json.dumps(addresses | {"store": where.url}, indent=2))
        return
    for name, address in addresses.items():
        typer.echo(f"{name:<6} {address}")
    typer.echo(
        f"In {where.url}. A recipe may name them by address: "
        f"--set data.source={addresses['data']} --set model.source={addresses['policy']}"
    )
