"""`si-ctl fetch`: copy what a recipe names into the store."""

import json

import typer

from si.cli.console import Counting, say
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
    """Copy a recipe's data set and policy 0 into the store.

    Both come from the hub or a folder. A run does this itself, on a cluster with a Job. If the
    cluster cannot reach the hub, fetch once from a machine that reaches the hub and, with your
    credentials, the bucket.
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
        say(f"{name:<6} {address}")
    say(
        f"In {where.url}. To use them by address: "
        f"--set data.source={addresses['data']} --set model.source={addresses['policy']}"
    )
