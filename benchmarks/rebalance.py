"""Rebalancing and metrics of many rollouts, against a bare pyarrow scan of the same files.

    python benchmarks/rebalance.py [--rollouts 1000000] [--folder DIR]

Rollouts are made up: K = 8, about 40 tokens each, shards of 500 queries, pass rates that pile up
at both ends. A second round (K - k_i samples a query) is there for gr. Each measurement is a
process of its own: wall time, processor time, and the most memory it held. The scan reads the
columns that rebalancing reads, from the files that it reads; everything is in the page cache.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from si.records import KEY, LEVEL_TABLE, QUERIES, ROLLOUTS, VERDICTS, level
from si.stages.job import Job
from si.stages.rebalance import WANTED, rebalance
from si.stages.resample import resample
from si.store.commit import Output, announce, commit_shard, finish
from si.store.folder import FolderStore
from si.store.keys import Ref, Spec

K = 8
SHARD = 500  # queries
POOL = 20_000  # different responses, told apart by the number at their end
RULES = ("rp", "tc", "vanilla", "gr", "draws-ar", "draws-gr")

SHOWN = ("queries", "successes", "examples", "draws", "samples")

Numbers = np.random.Generator


def responses(numbers: Numbers) -> pa.Table:
    """Responses of about 40 tokens in five steps, with ids from a large vocabulary."""
    words = ["red", "blue", "tile", "angle", "so", "the", "sum", "is", "and", "plus", "minus"]
    rng, rows = random.Random(0), []
    for _ in range(POOL):
        lines = [
            " ".join(
                rng.choice(words) if rng.random() < 0.7 else str(rng.randrange(1000))
                for _ in range(rng.randint(5, 11))
            )
            for _ in range(rng.randint(3, 6))
        ]
        text = "\n".join([*lines, "Answer: "])
        ends = [i + 1 for i, char in enumerate(text) if char in " \n"]
        ids = (numbers.zipf(1.2, len(ends)) % 150_000).tolist()
        rows.append({"text": text, "token_ids": ids, "token_ends": ends})
    return pa.Table.from_pylist(rows, pa.schema([ROLLOUTS.field(n) for n in rows[0]]))


def shards(
    pool: pa.Table, numbers: Numbers, ids: list[str], asked: Any, rate: Any, number: int
) -> Iterator[tuple[Output, Output, Any]]:
    """Rollouts and verdicts shard by shard, and how many of each query are right."""
    for start in range(0, len(ids), SHARD):
        here = slice(start, start + SHARD)
        n = asked[here]
        query = np.repeat(np.arange(len(n)), n)
        rows = len(query)
        right = numbers.random(rows) < rate[here][query]
        said = pool.take(numbers.integers(0, POOL, rows))
        texts = pc.binary_join_element_wise(
            said["text"], pa.array(numbers.integers(0, 1_000_000, rows)).cast(pa.string()), ""
        )
        key = {
            "query_id": pa.array(ids[here]).take(query),
            "round": pa.array(np.full(rows, number), pa.int8()),
            "prefix_id": pa.array(["" if number == 1 else "c002-01234567"] * rows),
            "sample": pa.array(np.arange(rows) - np.repeat(np.cumsum(n) - n, n), pa.int32()),
        }
        rollouts = key | {
            "seed": pa.array(numbers.integers(0, 1 << 62, rows)),
            "token_ids": said["token_ids"],
            "token_ends": said["token_ends"],
            "prefix_len": pa.array(np.full(rows, 0 if number == 1 else 12), pa.int32()),
            "text": texts,
            "finish_reason": pa.array(["stop"] * rows),
            "logprob": pa.array(-numbers.random(rows), pa.float32()),
        }
        verdicts = key | {
            "correct": pa.array(right),
            "extracted": pc.utf8_slice_codeunits(texts, -6),
            "method": pa.array(["exact"] * rows),
        }
        yield (
            Output({"rollouts.parquet": pa.table(rollouts, ROLLOUTS)}, rows),
            Output({"verdicts.parquet": pa.table(verdicts, VERDICTS)}, rows),
            np.bincount(query[right], minlength=len(n)),
        )


def commit(store: FolderStore, stage: str, name: str, number: int, outputs: Any) -> Ref:
    spec = Spec(stage, name, {}, {}, {}, number)
    announce(store, spec)
    for shard, output in enumerate(outputs):
        commit_shard(store, spec, shard, output)
    manifest = finish(store, spec)
    assert manifest is not None
    return manifest.ref


def make(store: FolderStore, rollouts: int) -> dict[str, Ref]:
    """Everything that rebalance reads; `rollouts` of them in the first round."""
    numbers = np.random.default_rng(0)
    pool = responses(numbers)
    count = -(-rollouts // (K * SHARD)) * SHARD
    drawn = numbers.integers(0, 1 << 63, count).tolist()
    ids = [f"{number:016x}" for number in drawn]
    for start in range(0, count, SHARD):
        ids[start : start + SHARD] = sorted(ids[start : start + SHARD])
    rate = numbers.beta(0.5, 0.5, count)
    n, inputs = np.full(count, K), {}
    k = np.zeros(count, np.int64)
    for number in (1, 2):
        specs = [Spec(s, f"r{number}", {}, {}, {}, count // SHARD) for s in ("explore", "verify")]
        for spec in specs:
            announce(store, spec)
        made = shards(pool, numbers, ids, n, rate, number)
        for shard, (said, judged, right) in enumerate(made):
            for spec, output in zip(specs, (said, judged), strict=True):
                commit_shard(store, spec, shard, output)
            k[shard * SHARD : (shard + 1) * SHARD] += right
        for role, spec in zip(("rollouts", "verdicts"), specs, strict=True):
            manifest = finish(store, spec)
            assert manifest is not None
            inputs[f"{role}-{number}"] = manifest.ref
        if number == 1:
            names = [level(K, right) for right in k.tolist()]
            table = pa.table([ids, [K] * count, k, names], LEVEL_TABLE)
            output = Output({"levels.parquet": table}, count)
            inputs["levels"] = commit(store, "levels", "levels", 1, [output])
            n = K - k
    columns = {"query_id": ids, "family": ["tiles"] * count}
    table = pa.table(
        [columns.get(f.name) or pa.nulls(count).cast(f.type) for f in QUERIES], QUERIES
    )
    output = Output({"queries.parquet": table}, count, {"split": "train", "separators": {}})
    inputs["data"] = commit(store, "synth", "data", 1, [output])
    return inputs


def scan(folder: Path, rounds: int) -> None:
    """Read the columns that rebalancing reads, and nothing else."""
    for name, columns in (("verdicts", [*KEY, "correct"]), ("rollouts", WANTED)):
        for number in range(1, rounds + 1):
            for path in sorted(folder.glob(f"pool/*/r{number}-*/data/*/{name}.parquet")):
                pq.read_table(path, columns=columns)


def do(folder: Path, rule: str, inputs: dict[str, Ref]) -> dict[str, Any]:
    """One measurement, in this process."""
    started, busy = time.perf_counter(), time.process_time()
    facts: dict[str, Any] = {}
    if rule.startswith("scan"):
        scan(folder, int(rule[-1]))
    else:
        settings: dict[str, Any] = {"seed": 0, "tc": {}, "ar": {"budget": 0.5}, "gr": {}}
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            if rule.startswith("draws"):
                settings["strategy"] = rule.removeprefix("draws-")
                roles = {"data": "data", "rollouts-1": "rollouts", "verdicts-1": "verdicts"}
                inputs = {role: inputs[name] for name, role in roles.items()}
                stage = resample
            else:
                settings["strategy"] = rule if rule in ("rp", "tc") else "vanilla"
                second = ("rollouts-2", "verdicts-2") if rule != "gr" else ()
                inputs = {role: ref for role, ref in inputs.items() if role not in second}
                stage = rebalance
            spec = Spec(stage.__name__, rule, settings, {"iteration": 1, "k": K}, inputs)
            facts = stage(Job(FolderStore(folder), spec, Path(scratch)))(0).facts
    return {
        "seconds": time.perf_counter() - started,
        "cpu": time.process_time() - busy,
        "memory": memory(),
        "facts": facts,
    }


def memory() -> float:
    """The most this process held, in MB; getrusage would count its parent's, too."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=1_000_000, help="of the first round")
    parser.add_argument("--folder", type=Path, help="where to put them, or where they are")
    parser.add_argument("--rules", nargs="+", default=RULES, choices=RULES)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        listing = folder / "inputs.json"
        if not listing.exists():
            made = make(FolderStore(folder), options.rollouts)
            refs = {role: [ref.address, ref.content] for role, ref in made.items()}
            listing.write_text(json.dumps(refs))
        inputs = {role: Ref(*ref) for role, ref in json.loads(listing.read_text()).items()}
        if options.child:
            print(json.dumps(do(folder, options.child, inputs)))
            return

        def measured(rule: str) -> dict[str, Any]:
            words = [sys.executable, __file__, "--folder", str(folder), "--child", rule]
            done = subprocess.run(words, check=True, stdout=subprocess.PIPE)
            result: dict[str, Any] = json.loads(done.stdout)
            return result

        bare = {}
        for scanned in ("scan-2", "scan-1", "scan-2"):  # the first one warms the page cache
            bare[scanned] = measured(scanned)
        print(f"{'':10} {'seconds':>8} {'x scan':>7} {'cpu s':>7} {'x scan':>7} {'MB':>7}")
        rows = {rule: measured(rule) for rule in options.rules}
        for rule, found in (bare | rows).items():
            against = bare["scan-2" if rule in ("gr", "scan-2") else "scan-1"]
            times = [
                f"{found[of]:8.2f} {found[of] / against[of]:7.2f}" for of in ("seconds", "cpu")
            ]
            facts = [f"{key}={n}" for key, n in found["facts"].items() if key in SHOWN]
            print(f"{rule:10}", *times, f"{found['memory']:7.0f}  ", *facts)


if __name__ == "__main__":
    main()
