"""The report of a large run, against a bare pyarrow scan of its files; and its page in a browser.

    python benchmarks/report.py [--rollouts 200000] [--folder DIR]

One iteration with two rounds is made up as in benchmarks/rebalance.py: K = 8, about 40 tokens a
response, a JPEG a query; 2,000 queries are held out. Report and scan are processes of their own:
wall time, processor time, and the most memory each held. The scan reads all rollouts and verdicts,
a shard in memory at a time, and no images; everything is in the page cache.

Where there is a Chromium, the page is opened: how long it takes from a changed filter to the next
frame, against writing a row for each of its samples into the page.
"""

import argparse
import io
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from rebalance import SHARD, K, memory, responses, shards

from si.config.recipe import Recipe
from si.records import IMAGES, LEVEL_TABLE, QUERIES, level
from si.stages.evaluate import evaluate
from si.stages.job import Job
from si.stages.rebalance import rebalance
from si.stages.report import report
from si.store.commit import Output, announce, commit_shard, finish
from si.store.folder import FolderStore
from si.store.keys import Ref, Spec

HELD_OUT = 2000  # queries
PART = 2000  # queries of a part of the data set
NOISE = 6000  # bytes behind a JPEG, so that no two are alike


def commit(store: FolderStore, spec: Spec, outputs: Any) -> Ref:
    announce(store, spec)
    for shard, output in enumerate(outputs):
        commit_shard(store, spec, shard, output)
    manifest = finish(store, spec)
    assert manifest is not None
    return manifest.ref


def parts(ids: Sequence[str], split: str, numbers: np.random.Generator) -> Iterator[Output]:
    file = io.BytesIO()
    pixels = numbers.integers(0, 255, (18, 24, 3), np.uint8)
    Image.fromarray(pixels).resize((480, 360)).save(file, "JPEG", quality=80)
    for start in range(0, len(ids), PART):
        some = ids[start : start + PART]
        n = len(some)
        columns: dict[str, Any] = {
            "query_id": some,
            "family": ["tiles"] * n,
            "question": [f"What is the sum of the tiles in picture {query}?" for query in some],
            "answer": ["12"] * n,
            "answer_kind": ["number"] * n,
            "difficulty": [0] * n,
            "images": [[file.getvalue() + numbers.bytes(NOISE)] for _ in some],
        }
        files: dict[str, Any] = {
            name: pa.table([columns.get(f.name) or pa.nulls(n, f.type) for f in schema], schema)
            for name, schema in (("queries.parquet", QUERIES), ("images.parquet", IMAGES))
        }
        yield Output(files, n, {"split": split})


def make(store: FolderStore, folder: Path, rollouts: int) -> dict[str, Ref]:
    """The report stage's inputs of a run of one iteration."""
    numbers = np.random.default_rng(0)
    pool = responses(numbers)
    count = -(-rollouts // (K * SHARD)) * SHARD

    def named(n: int) -> list[str]:
        ids = [f"{number:016x}" for number in numbers.integers(0, 1 << 63, n).tolist()]
        return [q for at in range(0, n, SHARD) for q in sorted(ids[at : at + SHARD])]

    ids, held_out = named(count), named(HELD_OUT)
    made = [
        *parts(ids, "train", numbers),
        *parts(held_out[: HELD_OUT // 2], "dev", numbers),
        *parts(held_out[HELD_OUT // 2 :], "test", numbers),
    ]
    made[-1].facts["separators"] = {}
    data = commit(store, Spec("synth", "data", {}, {}, {}, len(made)), made)
    rates = numbers.beta(0.5, 0.5, count + HELD_OUT)
    names = [level(16, k) for k in numbers.binomial(16, rates).tolist()]
    known = [*ids, *held_out]
    table = pa.table([known, [16] * len(known), [0] * len(known), names], LEVEL_TABLE)
    output = Output({"levels.parquet": table}, len(table))
    levels = commit(store, Spec("levels", "levels", {}, {}, {}), [output])
    refs = {"data": data, "levels": levels}

    def explored(
        name: str, ids: list[str], n: Any, rate: Any, number: int, t: int, more: Any
    ) -> Any:
        inputs = {"data": data, **more}
        params = {"iteration": t, "k": K, "round": number}
        said, judged, right = zip(*shards(pool, numbers, ids, n, rate, number), strict=True)
        rollouts = commit(store, Spec("explore", name, {}, params, inputs, len(said)), said)
        inputs = {"data": data, "rollouts": rollouts}
        verdicts = commit(store, Spec("verify", name, {}, {}, inputs, len(judged)), judged)
        return rollouts, verdicts, np.concatenate(right)

    def run(stage: Any, name: str, settings: Any, params: Any, inputs: Any) -> Ref:
        spec = Spec(name, "it01", settings, params, inputs)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            return commit(store, spec, [stage(Job(store, spec, Path(scratch)))(0)])

    for t in (0, 1):
        greedy = explored("heldout", held_out, np.ones(HELD_OUT, int), rates[count:], 1, t, {})
        inputs = {"data": data, "levels": levels, "rollouts": greedy[0], "verdicts": greedy[1]}
        refs[f"scores-{t}"] = run(evaluate, "evaluate", {}, {"iteration": t}, inputs)
    first = explored("r1", ids, np.full(count, K), rates[:count], 1, 1, {})
    draws = commit(store, Spec("resample", "gr", {"strategy": "gr"}, {}, {}), [Output({}, 1)])
    second = explored("r2", ids, K - first[2], rates[:count], 2, 1, {"draws": draws})
    inputs = {"data": data, "levels": levels}
    for number, (rollouts, verdicts, _) in enumerate((first, second), 1):
        inputs |= {f"rollouts-{number}": rollouts, f"verdicts-{number}": verdicts}
        role = "" if number == 1 else "2"
        refs |= {f"explore{role}-1": rollouts, f"verify{role}-1": verdicts}
    settings = {"seed": 0, "strategy": "rp", "tc": {}}
    refs["examples-1"] = run(rebalance, "rebalance", settings, {"iteration": 1, "k": K}, inputs)
    return refs


def do(folder: Path, what: str, refs: dict[str, Ref]) -> dict[str, Any]:
    """One measurement, in this process."""
    started, busy = time.perf_counter(), time.process_time()
    size = 0
    if what == "scan":
        for name in ("rollouts", "verdicts"):
            for path in sorted(folder.glob(f"pool/*/*/data/*/{name}.parquet")):
                size += pq.read_table(path).num_rows
    else:
        whole = Recipe(strategy="gr+rp").model_dump(mode="json")
        spec = Spec("report", "large", whole, {"iterations": 1}, refs)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            files = report(Job(FolderStore(folder), spec, Path(scratch)))(0).files
        size = (folder / "report.html").write_bytes(files["report.html"])
    return {
        "seconds": time.perf_counter() - started,
        "cpu": time.process_time() - busy,
        "memory": memory(),
        "size": size,
    }


FILTER = """const done = arguments[0], form = document.querySelector('#browser form');
const at = performance.now();
form.elements.verdict.value = form.elements.verdict.value === 'right' ? 'wrong' : 'right';
form.elements.text.value = 'answer';
form.dispatchEvent(new Event('change', {bubbles: true}));
requestAnimationFrame(() => setTimeout(() => done(performance.now() - at)));"""
EVERY_ROW = """const done = arguments[0], at = performance.now();
const all = document.createElement('div');
const one = document.querySelector('#list .row');
for (let i = 0; i < 10000; i++) all.append(one.cloneNode(true));
document.body.append(all);
requestAnimationFrame(() => setTimeout(() => { done(performance.now() - at); all.remove(); }));"""


def in_browser(page: Path) -> None:
    """Time from a changed filter to the next frame."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    driver = Chrome(options, ChromeService(shutil.which("chromedriver")))
    try:
        driver.get(page.as_uri())
        while not driver.execute_script("return document.documentElement.className"):
            time.sleep(0.1)
        times = {
            name: sorted(driver.execute_async_script(code) for _ in range(7))[3]
            for name, code in (("filter", FILTER), ("every row", EVERY_ROW), ("filter ", FILTER))
        }
    finally:
        driver.quit()
    for name, took in times.items():
        print(f"{name:10} {took:8.0f} ms {took / times['every row']:6.2f} x writing every row")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=200_000, help="of the first round")
    parser.add_argument("--folder", type=Path, help="where to put them, or where they are")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        listing = folder / "inputs.json"
        if not listing.exists():
            folder.mkdir(parents=True, exist_ok=True)
            made = make(FolderStore(folder), folder, options.rollouts)
            refs = {role: [ref.address, ref.content] for role, ref in made.items()}
            listing.write_text(json.dumps(refs))
        inputs = {role: Ref(*ref) for role, ref in json.loads(listing.read_text()).items()}
        if options.child:
            print(json.dumps(do(folder, options.child, inputs)))
            return
        found: dict[str, Any] = {}
        for what in ("scan", "report", "scan"):  # the first one warms the page cache
            words = [sys.executable, __file__, "--folder", str(folder), "--child", what]
            done = subprocess.run(words, check=True, stdout=subprocess.PIPE)
            found[what] = json.loads(done.stdout)
        print(f"{'':10} {'seconds':>8} {'x scan':>7} {'cpu s':>7} {'x scan':>7} {'MB':>7}")
        for what, told in found.items():
            times = (
                f"{told[of]:8.2f} {told[of] / found['scan'][of]:7.2f}" for of in ("seconds", "cpu")
            )
            print(f"{what:10}", *times, f"{told['memory']:7.0f}", f"{told['size']:12,}")
        if shutil.which("chromium") and shutil.which("chromedriver"):
            in_browser(folder / "report.html")


if __name__ == "__main__":
    main()
