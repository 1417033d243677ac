"""What runs refer to: the artefacts that their entries point to, and all inputs of these."""

import re
from collections.abc import Iterable, Mapping

from si.store.keys import Spec, read_record
from si.store.port import Store

_ENTRY = re.compile(r"runs/([^/]+)/(?:g\d{2,}/)?it\d{2,}/[a-z0-9-]+\.json")


def pointed_to(store: Store, run: str = "") -> dict[str, list[str]]:
    """Run -> addresses of the artefacts that entries of any of its generations point to. Also of a
    run whose removal was interrupted.

    Args:
        run: read the entries of this run alone.

    Raises:
        ArtifactDamaged: if an entry cannot be read.
    """
    found: dict[str, list[str]] = {}
    for address in store.list(f"runs/{run}" if run else "runs"):
        if match := _ENTRY.fullmatch(address):
            target = read_record(store, address, lambda raw: str(raw["address"]))
            found.setdefault(match[1], []).append(target)
    return found


def reachable(store: Store, addresses: Iterable[str], specs: dict[str, Spec]) -> set[str]:
    """These artefacts and all their inputs, directly or through others; fills `specs`.

    Raises:
        ArtifactMissing, ArtifactDamaged: if a spec among them cannot be read.
    """
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


def referenced(store: Store, specs: dict[str, Spec]) -> set[str]:
    """The artefacts that any run refers to; fills `specs`. Errors as of the two above."""
    targets: Mapping[str, list[str]] = pointed_to(store)
    return reachable(store, [each for run in targets.values() for each in run], specs)
