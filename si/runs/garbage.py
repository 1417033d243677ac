"""Garbage collection: what nothing refers to any more.

Three kinds of it, none of which a reader of a run's artefacts ever opens:

- files of attempts that lost the race for their shard, or died, in complete artefacts;
- checkpoints of trainings whose policy is committed;
- artefacts in `pool/` that no run refers to, directly or through inputs, and that are old.

A run that begins meanwhile may be about to use an artefact of the third kind. Therefore its
manifest goes first: from then on, the artefact is incomplete to everybody. After a pause, in which
a run that has still seen the manifest writes its entry, references are looked up again. An artefact
that has one by now gets its manifest back, from its shard records.
"""

import time
from collections.abc import Iterable, Sequence
from multiprocessing.pool import ThreadPool
from typing import NamedTuple

from si.runs.references import referenced
from si.store.commit import finish, load_manifest
from si.store.keys import Spec
from si.store.port import Store, Stored

ATTEMPTS, CHECKPOINTS, ARTEFACT = "attempts", "checkpoints", "artefact"
PAUSE = 10.0  # seconds; a run writes its entry milliseconds after it has seen a manifest
AT_ONCE = 16
DAY = 86_400.0
# Folder of artefacts -> how many parts their addresses have.
_DEPTH = {"data": 2, "policies": 2, "pool": 3}


class Garbage(NamedTuple):
    """Files of one artefact that may go.

    Attributes:
        kind: ATTEMPTS, CHECKPOINTS or ARTEFACT (all of its files).
        address: the artefact's.
        size: bytes of the files.
    """

    kind: str
    address: str
    files: tuple[str, ...]
    size: int


def find_garbage(store: Store, before: float) -> list[Garbage]:
    """What may be deleted, by address.

    Args:
        before: unreferenced artefacts with a file that is newer (seconds since 1970) stay.

    Raises:
        ArtifactDamaged, ArtifactMissing: if an entry, a spec or a manifest that a run refers to
            cannot be read: what it refers to is then unknown.
    """
    specs: dict[str, Spec] = {}
    used = referenced(store, specs)
    found: list[Garbage] = []
    for folder, depth in _DEPTH.items():
        for address, files in _by_artefact(store.scan(folder), depth).items():
            if folder == "pool" and address not in used:
                if max(file.written for file in files) < before:
                    found.append(_garbage(ARTEFACT, address, files))
            elif any(file.address == f"{address}/manifest.json" for file in files):
                found += _within(store, specs, address, files)
    return found


def _by_artefact(files: Iterable[Stored], depth: int) -> dict[str, list[Stored]]:
    found: dict[str, list[Stored]] = {}
    for file in files:
        parts = file.address.split("/")
        if len(parts) > depth:
            found.setdefault("/".join(parts[:depth]), []).append(file)
    return found


def _within(
    store: Store, specs: dict[str, Spec], address: str, files: Sequence[Stored]
) -> list[Garbage]:
    """Lost attempts and checkpoints of a complete artefact."""
    manifest = load_manifest(store, specs.get(address) or Spec.load(store, address))
    if manifest is None:  # deleted since it was listed
        return []
    won = {f"{address}/{blob.path}" for record in manifest.shards for blob in record.blobs}
    lost = [f for f in files if f.address.startswith(f"{address}/data/") and f.address not in won]
    saved = [f for f in files if f.address.startswith(f"{address}/checkpoints/")]
    return [
        _garbage(kind, address, which)
        for kind, which in ((ATTEMPTS, lost), (CHECKPOINTS, saved))
        if which
    ]


def _garbage(kind: str, address: str, files: Sequence[Stored]) -> Garbage:
    names = tuple(file.address for file in files)
    return Garbage(kind, address, names, sum(file.size for file in files))


def delete_garbage(store: Store, found: Sequence[Garbage], pause: float = PAUSE) -> list[Garbage]:
    """Delete it; returns what was deleted. The same call after a kill deletes the rest."""
    whole = [each for each in found if each.kind == ARTEFACT]
    with ThreadPool(AT_ONCE) as pool:
        pool.map(store.delete, [f"{each.address}/manifest.json" for each in whole])
        if whole:
            time.sleep(pause)
        used = referenced(store, {}) if whole else set()
        gone = []
        for each in found:
            if each.kind == ARTEFACT and each.address in used:
                finish(store, Spec.load(store, each.address))
                continue
            for files in _in_order(each):
                pool.map(store.delete, files)
            gone.append(each)
    return gone


def _in_order(garbage: Garbage) -> list[list[str]]:
    """Its files in groups: shard records before the data that they name, so that no manifest can
    be made of what is half gone; the spec last, by which the rest is found again."""
    shards, spec = f"{garbage.address}/shards/", f"{garbage.address}/spec.json"
    records = [file for file in garbage.files if file.startswith(shards)]
    rest = [file for file in garbage.files if file != spec and not file.startswith(shards)]
    return [records, rest, [file for file in garbage.files if file == spec]]
