"""Diagnosing and re-balancing many rollouts, against a bare pyarrow scan of the same file.

    python benchmarks/diagnose.py [--rollouts 1000000]

Rollouts are made up: K = 8, a query id, a prompt, a response of about 200 characters, a reward
and a step, in one Parquet file and as JSON lines. Each measurement is a process of its own: wall
time and the most memory it held. The scan reads the columns that diagnosing reads; of JSON it
parses the same fields. Everything is in the page cache.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
import pyarrow.parquet as pq

K = 8
POOL = 20_000  # different responses, told apart by the number at their end
READ = ["query_id", "response", "reward", "step"]


def make(folder: Path, rollouts: int) -> None:
    numbers = np.random.default_rng(0)
    words = np.array(["red", "tile", "angle", "so", "the", "sum", "is", "and", "plus", "minus\n"])
    said = pa.array(
        [" ".join(words[numbers.integers(0, len(words), 45)]) for _ in range(POOL)], pa.string()
    )
    queries = rollouts // (K * 4)
    rate = numbers.beta(0.5, 0.5, queries)
    writer, lines = None, (folder / "rollouts.jsonl").open("w")
    for step in range(1, 5):
        query = np.repeat(np.arange(queries), K)
        ids = pc.binary_join_element_wise("q", pa.array(query).cast(pa.string()), "")
        ends = pa.array(numbers.integers(0, 1 << 30, len(query))).cast(pa.string())
        table = pa.table(
            {
                "query_id": ids,
                "prompt": pc.binary_join_element_wise("What is the answer to ", ids, ""),
                "response": pc.binary_join_element_wise(
                    said.take(pa.array(numbers.integers(0, POOL, len(query)))), ends, " "
                ),
                "reward": (numbers.random(len(query)) < rate[query]).astype(float),
                "step": np.full(len(query), step),
            }
        )
        writer = writer or pq.ParquetWriter(folder / "rollouts.parquet", table.schema)
        writer.write_table(table, 65_536)
        for row in table.to_pylist():
            lines.write(json.dumps(row) + "\n")
    assert writer is not None
    writer.close()
    lines.close()


def scan(path: Path) -> int:
    """Reads what diagnosing reads, and does nothing with it."""
    if path.suffix == ".parquet":
        return sum(len(batch) for batch in pq.ParquetFile(path).iter_batches(columns=READ))
    kinds = [pa.string(), pa.string(), pa.float64(), pa.int64()]
    options = pj.ParseOptions(
        explicit_schema=pa.schema(zip(READ, kinds, strict=True)),
        unexpected_field_behavior="ignore",
    )
    reading = pj.ReadOptions(block_size=16 << 20)
    return sum(len(b) for b in pj.open_json(str(path), reading, options))


def work(what: str, path: Path) -> None:
    import si

    if what == "scan":
        scan(path)
    elif what == "diagnose":
        si.diagnose(path)
    else:
        made = si.rebalance(path, what, path.parent / f"{what}.jsonl", force=True)
        print(made.rows, made.kind)


def measure(what: str, path: Path) -> tuple[float, float, str]:
    begun = time.perf_counter()
    done = subprocess.run(
        ["/usr/bin/env", sys.executable, __file__, "--work", what, "--file", str(path)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    seconds = time.perf_counter() - begun
    peak = re.search(r"peak (\d+)", done.stdout)
    return seconds, int(peak[1]) / 1e6 if peak else 0.0, done.stdout.partition("\n")[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=1_000_000)
    parser.add_argument("--work")
    parser.add_argument("--file", type=Path)
    given = parser.parse_args()
    if given.work:
        import resource

        work(given.work, given.file)
        print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), given.rollouts)
        for suffix in ("parquet", "jsonl"):
            path = Path(folder) / f"rollouts.{suffix}"
            base = min(measure("scan", path)[0] for _ in range(3))
            print(f"{suffix:<8} scan      {base:6.2f} s")
            for what in ("diagnose", "rp", "tc", "gr"):
                seconds, peak, said = min(measure(what, path) for _ in range(2))
                said = "" if said.startswith("peak") else said
                print(
                    f"{suffix:<8} {what:<9} {seconds:6.2f} s   {seconds / base:5.1f} x scan   "
                    f"{peak:6.0f} MB   {said}"
                )


if __name__ == "__main__":
    main()
