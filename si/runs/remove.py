"""Remove a run: its entries go, its artefacts stay."""

import re
from dataclasses import dataclass

from si.runs.references import pointed_to, reachable
from si.runs.status import find_run
from si.store.commit import load_manifest
from si.store.keys import Spec
from si.store.port import Store

_RECORD = re.compile(r"run-g\d{2,}\.json")


@dataclass(frozen=True)
class Unused:
    """An artefact in `pool/` that no run would point to any more; `size` in bytes."""

    address: str
    size: int


def unused_without(store: Store, name: str) -> list[Unused]:
    """The artefacts that only this run uses, by address.

    Data sets and policies that were imported or fetched are not among them: they stay available to
    new runs by their addresses.

    Raises:
        RunMissing: if there is no such run.
    """
    specs: dict[str, Spec] = {}
    targets = pointed_to(store)
    mine = targets.pop(find_run(store, name), [])
    kept = reachable(store, [each for run in targets.values() for each in run], specs)
    return [
        Unused(address, _size(store, specs[address]))
        for address in sorted(reachable(store, mine, specs) - kept)
        if address.startswith("pool/")
    ]


def remove(store: Store, name: str) -> int:
    """Delete everything under `runs/NAME/`; returns the number of deleted records.

    The records that make it a run go last: after a kill half-way, the same call finishes the work.
    """
    prefix = f"runs/{name}/"
    found = list(store.list(prefix.rstrip("/")))
    for address in sorted(found, key=lambda a: bool(_RECORD.fullmatch(a.removeprefix(prefix)))):
        store.delete(address)
    return len(found)


def _size(store: Store, spec: Spec) -> int:
    """Bytes of a complete artefact's files; 0 if it is incomplete."""
    made = load_manifest(store, spec)
    return sum(blob.size for record in made.shards for blob in record.blobs) if made else 0
