"""Check a run: read every byte that it refers to, and compare it with what was committed."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from si.errors import SiError
from si.runs.references import pointed_to, reachable
from si.store.artifact import Artifact
from si.store.commit import load_manifest
from si.store.keys import Spec
from si.store.port import Store


class Checked(NamedTuple):
    """An artefact that was read: number of files, their bytes, and what is wrong (empty: nothing;
    `incomplete`: its stage has not ended)."""

    address: str
    files: int
    size: int
    problem: str = ""


def check(store: Store, run: str, scratch: Path) -> Iterator[Checked]:
    """Every artefact of a run, and all that these were computed from, by address.

    Args:
        run: the run's name.
        scratch: a folder for one file at a time.

    Raises:
        ArtifactDamaged, ArtifactMissing: if an entry or a spec cannot be read.
    """
    specs: dict[str, Spec] = {}
    targets = pointed_to(store, run).get(run, [])
    for address in sorted(reachable(store, targets, specs)):
        yield _check(store, specs[address], scratch)


def _check(store: Store, spec: Spec, scratch: Path) -> Checked:
    try:
        manifest = load_manifest(store, spec)
        if manifest is None:
            return Checked(spec.address, 0, 0, "incomplete")
        artifact = Artifact(store, manifest)
        blobs = list(artifact.blobs())
        for blob in blobs:
            artifact.verify(blob, scratch / "file")
    except SiError as error:
        return Checked(spec.address, 0, 0, " ".join((error.headline, *error.detail.split())))
    return Checked(spec.address, len(blobs), sum(blob.size for blob in blobs))
