"""The local loop's overhead: a run's wall time against the time its workers sampled and trained.

    python benchmarks/overhead.py [--iterations 2] [--strategy gr]

Sampling counts as the busiest worker's time in each exploration, since workers run side by
side. Everything else is overhead: start-up, data, verification, re-balancing, commits, report.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from si.runs.status import status
from si.store.folder import FolderStore


def working_seconds(folder: Path, run: str) -> tuple[float, float]:
    """Seconds of sampling (busiest worker) and of training in a finished run."""
    store = FolderStore(folder)
    sampling = training = 0.0
    for iteration in status(store, run)["iterations"]:
        for stage in iteration["stages"]:
            busy: Counter[int] = Counter()
            for address in store.list(f"{stage['address']}/provenance"):
                attempt = json.loads(store.get(address))
                busy[attempt.get("worker", 0)] += attempt.get("seconds", 0)
            if stage["stage"] == "explore":
                sampling += max(busy.values())
            elif stage["stage"] == "train":
                training += max(busy.values())
    return sampling, training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--strategy", default="gr")
    options = parser.parse_args()
    si_ctl = str(Path(sys.executable).with_name("si-ctl"))
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "runs"
        words = ["iterate", "--strategy", options.strategy, "--run", "overhead"]
        words += ["--iterations", str(options.iterations), "--store", str(store)]
        begun = time.perf_counter()
        subprocess.run([si_ctl, *words], check=True, stdout=subprocess.DEVNULL)
        total = time.perf_counter() - begun
        sampling, training = working_seconds(store, "overhead")
    work = sampling + training
    print(f"whole run             {total:6.1f} s ({options.iterations} iterations)")
    print(f"sampling and training {work:6.1f} s ({sampling:.1f} + {training:.1f})")
    print(f"everything else       {total - work:6.1f} s")
    print(f"ratio                 {total / work:6.2f}")


if __name__ == "__main__":
    main()
