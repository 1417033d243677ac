"""What a run's artefacts are: their keys, addresses and contents stay what they were.

`golden.json` was written at the first release candidate. A change of a row means that stored runs
are computed anew; it needs a commit of its own that says why. To write the file again:

    SI_GOLDEN=write pytest tests/loop/test_golden.py
"""

import json
import os
from pathlib import Path

import pytest

from si.config.loading import load
from si.datasets.sources import fetch
from si.loop import conclude
from si.run import Run
from si.runs.record import begin
from si.store.folder import FolderStore
from tests.loop.inline import InlineCluster
from tests.loop.scripted import write_policy
from tests.loop.tiny import tiny_data, tiny_recipe

GOLDEN = Path(__file__).with_name("golden.json")
STRATEGIES = ("vanilla", "tc", "rp", "ar", "gr", "gr+rp")


def rows_of(folder: Path, strategy: str) -> list[dict[str, str | None]]:
    """Stage, entry, key, address and content of every artefact of one scripted run.

    The report has no content here: nothing is built on it, and its words may change.
    """
    store = FolderStore(folder / "si-runs")
    policy = write_policy(folder / "scripted-policy", 0.6)
    source = fetch(store, str(policy)).spec.address
    path = tiny_recipe(folder, tiny_data(store), model={"source": source})
    recipe, _ = load(path, {"strategy": strategy}, environment={})
    generation = begin(store, recipe.run_name, recipe)
    run = Run(recipe.run_name, recipe, store, InlineCluster(store), generation)
    assert conclude(run) is not None
    return [
        {
            "entry": str(entry),
            "stage": manifest.spec.stage,
            "key": manifest.spec.key,
            "address": manifest.spec.address,
            "content": None if manifest.spec.stage == "report" else manifest.content,
        }
        for entry, manifest in run.stages.items()
    ]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_artefacts_are_those_of_the_golden_file(strategy, tmp_path):
    """Every artefact of a scripted run has the key, address and content of the golden file."""
    rows = rows_of(tmp_path, strategy)
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("SI_GOLDEN") == "write":
        golden[strategy] = rows
        GOLDEN.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")
    assert rows == golden[strategy]
