"""Remove a run: its entries go, its artefacts stay."""

import re
from dataclasses import dataclass

from si.runs.status import find_run, runs
from si.store.commit import load_manifest
from si.store.keys import Spec, read_record
from si.store.port import Store

_ENTRY = re.compile(r"(g\d{2,}/)?it\d{2,}/[a-z0-9-]+\.json")
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
    others = {run for run in runs(store) if run != find_run(store, name)}
    kept = _reachable(store, [a for run in others for a in _pointed_to(store, run)], specs)
    mine = _reachable(store, _pointed_to(store, name), specs) - kept
    return [
        Unused(address, _size(store, specs[address]))
        for address in sorted(mine)
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


def _pointed_to(store: Store, name: str) -> list[str]:
    """Addresses of the artefacts of all generations of a run."""
    prefix = f"runs/{name}/"
    return [
        read_record(store, address, lambda raw: str(raw["address"]))
        for address in store.list(prefix.rstrip("/"))
        if _ENTRY.fullmatch(address.removeprefix(prefix))
    ]


def _reachable(store: Store, addresses: list[str], specs: dict[str, Spec]) -> set[str]:
    """These artefacts and all their inputs, directly or through others; fills `specs`."""
    found: set[str] = set()
    open_ends = list(addresses)
    while open_ends:
        address = open_ends.pop()
        if address in found:
            continue
        found.add(address)
        if address not in specs:
            specs[address] = Spec.load(store, address)
        open_ends += [ref.address for ref in specs[address].inputs.values()]
    return found


def _size(store: Store, spec: Spec) -> int:
    """Bytes of a complete artefact's files; 0 if it is incomplete."""
    made = load_manifest(store, spec)
    return sum(blob.size for record in made.shards for blob in record.blobs) if made else 0
