"""The sweep that chose the embedded recipe's setting. It looks at vanilla only.

    python benchmarks/sweep.py --out FOLDER [--seeds 2] [--iterations 3]

Every setting runs vanilla on data that the embedded run does not have: training queries of another
seed, and dev queries for the scores. Printed are accuracy, and the head's and the tail's share of
the training data, by iteration. Wanted is a setting under which vanilla improves and then stalls,
while the head's share grows and the tail's falls. The same command again resumes.
"""

import argparse
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from si.datasets.sources import commit, parts
from si.embedded import families
from si.embedded.sets import LONG_TAILED, PuzzleSet
from si.records import HEAD, TAIL
from si.report.summary import RunSummary, collect
from si.report.tables import percent
from si.runs.status import report_inputs
from si.store.commit import Output
from si.store.folder import FolderStore
from si.store.keys import Spec

SEED = 1000  # of the sweep's queries
FIRST = 100  # of the sweep's runs
HELD_OUT = 400
MIXES = {"uniform": families.uniform_mix(400), "long-tailed": LONG_TAILED}

Settings = dict[str, Any]


def setting(mix: str, lr: float, epochs: int, init: str = "base") -> Settings:
    """A point of the sweep; the rest is as in the shipped recipe."""
    return {"mix": mix, "lr": lr, "epochs": epochs, "init": init}


SETTINGS = (
    setting("long-tailed", 2e-4, 1),
    setting("long-tailed", 5e-4, 2),
    setting("uniform", 2e-4, 1),
    setting("uniform", 5e-4, 1),
    setting("uniform", 5e-4, 2),
    setting("uniform", 1e-3, 2),
    setting("uniform", 5e-4, 2, "previous"),
)


def data(store: FolderStore, mix: str, iterations: int) -> str:
    """The address of the sweep's data with this mix, generated unless the store has it."""
    params = {"seed": SEED, "mix": mix, "slices": iterations}
    spec = Spec("synth", f"sweep-{mix}", {}, params, {}, shards=iterations + 3)

    @cache
    def outputs() -> list[Output]:
        puzzles = PuzzleSet(MIXES[mix], families.uniform_mix(HELD_OUT), {})
        made = [parts(queries, split) for split, queries in puzzles.generate(SEED, iterations)]
        separators = {name: each.separator for name, each in families.FAMILIES.items()}
        return [*made, Output(files={}, rows=0, facts={"separators": separators})]

    return commit(store, spec, lambda shard: outputs()[shard]).spec.address


def recipe(source: str, at: Settings, iterations: int, seed: int) -> dict[str, Any]:
    """The recipe of one run."""
    return {
        "name": "sweep",
        "strategy": "vanilla",
        "iterations": iterations,
        "seed": seed,
        "data": {"source": source, "slice_size": 400},
        "train": {name: at[name] for name in ("lr", "epochs", "init")},
        "levels": {"k": 8},
        "evaluate": {"splits": ["dev"], "samples": 4, "temperature": 1.0},
        "report": {"samples": 0},
    }


def run(out: Path, at: Settings, iterations: int, seed: int) -> RunSummary:
    """Run one setting, or what is left of it."""
    store = FolderStore(out / "store")
    source = data(store, at["mix"], iterations)
    name = f"{at['mix'][0]}-{at['lr']:.0e}-{at['epochs']}-{at['init'][0]}-s{seed}"
    file = out / f"{name}.yaml"
    file.write_text(yaml.safe_dump(recipe(source, at, iterations, seed)))
    command = [Path(sys.executable).with_name("si-ctl"), "iterate", "--recipe", str(file)]
    subprocess.run([*command, "--run", name, "--store", str(store.root)], check=True)
    return collect(store, report_inputs(store, name))


def row(at: Settings, seed: int, found: RunSummary) -> str:
    """A line of the table: figures by iteration, policy 0 first."""

    def cells(values: list[float | None]) -> str:
        return " ".join(percent(value).removesuffix(" %") for value in values)

    accuracy = cells([it.accuracy("dev") for it in found.iterations])
    head, tail = (
        cells([it.share("successes", levels) for it in found.trained]) for levels in (HEAD, TAIL)
    )
    return (
        f"| {at['mix']} | {at['lr']:.0e} | {at['epochs']} | {at['init']} | {seed} "
        f"| {accuracy} | {head} | {tail} |"
    )


def main() -> None:
    """Run every setting with every seed, and print the table as it grows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=3)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    lines = [
        "| mix | lr | epochs | from | seed | accuracy, % | head of the data, % | tail, % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for seed in range(FIRST, FIRST + options.seeds):
        for at in SETTINGS:
            lines.append(row(at, seed, run(options.out, at, options.iterations, seed)))
            (options.out / "table.md").write_text("\n".join(lines) + "\n")
            print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
