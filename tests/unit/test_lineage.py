"""The lineage of a run: every artefact behind its report, each once, with what it was made of."""

from pathlib import Path

import pytest

from si.entry import STEPS
from si.report.lineage import lineage
from si.store.artifact import Artifact
from si.store.folder import FolderStore
from si.store.keys import Spec
from tests.browser.made_up import make_run


def test_lineage_is_closed_and_true(tmp_path: Path) -> None:
    """All inputs of all artefacts are there, with the store's own digests; none twice."""
    store = FolderStore(tmp_path / "store")
    refs = make_run(store, tmp_path, "gr+rp", 2)
    nodes = lineage(store, refs)
    addresses = [node.address for node in nodes]
    assert len(set(addresses)) == len(addresses)
    assert {ref.address for ref in refs.values()} <= set(addresses)
    for node in nodes:
        spec = Spec.load(store, node.address)
        assert node.content == Artifact.open(store, node.address).manifest.content
        assert node.inputs == {role: ref.address for role, ref in spec.inputs.items()}
        assert set(node.inputs.values()) <= set(addresses)
        assert node.place in STEPS
    assert len({node.anchor for node in nodes}) == len(nodes)
    assert nodes == lineage(store, dict(reversed(refs.items())))


@pytest.mark.parametrize("strategy,steps", [("vanilla", 7), ("gr+rp", 10)])
def test_every_iteration_has_its_steps(tmp_path: Path, strategy: str, steps: int) -> None:
    """In each iteration the loop's steps appear in their order; data and levels come before."""
    store = FolderStore(tmp_path / "store")
    nodes = lineage(store, make_run(store, tmp_path, strategy, 2))
    for t in (1, 2):
        places = [node.place for node in nodes if node.t == t]
        assert len(places) == steps
        assert places == sorted(places, key=list(STEPS).index)
    assert next(node.place for node in nodes if node.t == 0) == "data"
