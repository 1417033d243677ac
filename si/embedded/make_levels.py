"""Measures the levels of the embedded queries under the embedded policy, with the loop's stages.

    python -m si.embedded.make_levels synth:puzzles [--workers N]

Writes the data set's file of `EMBEDDED_LEVELS`: for every training, dev and test query, the number
of correct answers among 16 samples of policy 0. These samples are never trained on. The file
contains the content digest of the policy it was measured with.
"""

import argparse
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from si.clusters.local import LocalCluster
from si.config.place import Place
from si.config.recipe import Recipe
from si.datasets import sources
from si.datasets.dataset import Dataset
from si.embedded import EMBEDDED_LEVELS
from si.records import LEVEL_TABLE
from si.run import Run
from si.runner import DATA, POLICY
from si.stages.explore import Slice
from si.store.artifact import Artifact
from si.store.folder import FolderStore


def main() -> None:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", choices=EMBEDDED_LEVELS, help="the data set")
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument(
        "--store",
        type=Path,
        default=None,
        help="store to use (temporary)",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        store = FolderStore(options.store or scratch / "store")
        place = Place(store=str(store.root), workers=options.workers)
        logs = scratch / "logs"
        cluster = LocalCluster(
            place, logs, scratch / "work", ["si.clusters.preload", "si.engines.preload"]
        )
        run = Run("levels", Recipe(), store, cluster, on_event=lambda event: print(event))
        made = sources.synth(store, options.source, levels=False)
        dataset = Dataset(Artifact(store, made))
        run.stages |= {DATA: made, POLICY: sources.fetch(store, "embedded")}
        everything = [
            Slice(split=split, start=0, stop=dataset.size(split))
            for split in ("train", "dev", "test")
        ]
        levels = run.levels(0, everything)
        table = Artifact.open(store, levels.ref).tables("levels.parquet")
    facts = {"policy": run.base.content, "k": str(run.recipe.levels.k)}
    table = pa.table(table.columns, schema=LEVEL_TABLE.remove_metadata().with_metadata(facts))
    pq.write_table(table, EMBEDDED_LEVELS[options.source], compression="zstd")
    print(table.group_by("level").aggregate([("query_id", "count")]).to_pydict())


if __name__ == "__main__":
    main()
