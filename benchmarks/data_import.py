"""`data import` against a bare copy of the same files, and against decoding their images once.

    python benchmarks/data_import.py [--rows 5000] [--layout parquet|jsonl] [--folder FOLDER]

The rows are like those of real data sets: half drawings (PNG), half photographs (JPEG), a
thousand different images of about 0.2 megapixels, each row with its own question. The copy
writes the same files to the same disk and syncs them, as an import does. Peak memory is the
importing process's.
"""

import argparse
import io
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

DIFFERENT = 1000


def images() -> list[tuple[str, bytes]]:
    """(suffix, bytes): drawings and photographs in turn."""
    rng, noise = random.Random(0), np.random.default_rng(0)
    made = []
    for number in range(DIFFERENT):
        out = io.BytesIO()
        if number % 2:
            coarse = noise.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            photo = np.asarray(Image.fromarray(coarse).resize((512, 384))).astype(np.int16)
            photo += noise.integers(-12, 13, photo.shape, dtype=np.int16)
            Image.fromarray(photo.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=85)
        else:
            drawing = Image.new("RGB", (512, 384), "white")
            pen = ImageDraw.Draw(drawing)
            for _ in range(40):
                ends = [(rng.randrange(512), rng.randrange(384)) for _ in range(2)]
                pen.line(ends, fill=rng.randrange(1 << 24), width=rng.randrange(1, 6))
            drawing.save(out, "PNG")
        made.append(("jpg" if number % 2 else "png", out.getvalue()))
    return made


def write(folder: Path, count: int, layout: str) -> None:
    made = images()
    if layout == "jsonl":
        (folder / "images").mkdir(parents=True)
        with (folder / "train.jsonl").open("w") as file:
            for n in range(count):
                suffix, data = made[n % DIFFERENT]
                (folder / "images" / f"{n}.{suffix}").write_bytes(data)
                row = {"question": f"What is {n}?", "answer": n, "image": f"images/{n}.{suffix}"}
                file.write(json.dumps(row) + "\n")
        return
    folder.mkdir(parents=True)
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("question", pa.string()), ("answer", pa.string()), ("image", image)])
    per_file = 10_000
    files = -(-count // per_file)
    for number in range(files):
        path = folder / f"train-{number:05d}-of-{files:05d}.parquet"
        with pq.ParquetWriter(path, schema) as out:
            for start in range(number * per_file, min(count, (number + 1) * per_file), 100):
                rows = [
                    {
                        "question": f"What is {n}?",
                        "answer": str(n),
                        "image": {"bytes": made[n % DIFFERENT][1], "path": None},
                    }
                    for n in range(start, min(count, start + 100))
                ]
                out.write_table(pa.Table.from_pylist(rows, schema))


def copy(source: Path, target: Path) -> float:
    """Seconds that a bare copy of all files takes, synced file by file."""
    begun = time.perf_counter()
    for path in sorted(source.rglob("*")):
        where = target / path.relative_to(source)
        if path.is_dir():
            where.mkdir(parents=True)
            continue
        where.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as file, where.open("wb") as out:
            shutil.copyfileobj(file, out, 1 << 20)
            out.flush()
            os.fsync(out.fileno())
    return time.perf_counter() - begun


def decode(count: int) -> float:
    """Seconds that decoding so many rows' images takes, on all cores, and nothing else."""
    made = [data for _, data in images()]
    begun = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(
            lambda n: Image.open(io.BytesIO(made[n % DIFFERENT])).convert("RGB").size, range(count)
        ):
            pass
    return time.perf_counter() - begun


def run(source: Path, store: Path) -> float:
    """Seconds that `si-ctl data import` takes, start-up included."""
    si_ctl = str(Path(sys.executable).with_name("si-ctl"))
    begun = time.perf_counter()
    words = ["data", "import", str(source), "--store", str(store)]
    subprocess.run([si_ctl, *words], check=True)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--layout", choices=("parquet", "jsonl"), default="parquet")
    parser.add_argument("--folder", help="where to write; needs 4 times the size of the rows")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write(folder / "source", options.rows, options.layout)
        size = sum(path.stat().st_size for path in (folder / "source").rglob("*"))
        copied = copy(folder / "source", folder / "copy")
        decoded = decode(options.rows)
        imported = run(folder / "source", folder / "store")
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        again = run(folder / "source", folder / "store")
    rate, busy = options.rows / imported, used.ru_utime + used.ru_stime
    peak = used.ru_maxrss / 1e6
    print(f"{options.rows:,} rows, {size / 1e6:,.0f} MB as {options.layout}")
    print(f"data import    {imported:7.1f} s, {rate:,.0f} rows/s, peak {peak:.2f} GB")
    print(f"  of processor {busy:7.1f} s, {1e3 * busy / options.rows:.1f} ms a row")
    print(f"the same again {again:7.1f} s")
    print(f"bare copy      {copied:7.1f} s, ratio {imported / copied:.1f}")
    print(f"bare decoding  {decoded:7.1f} s, ratio {imported / decoded:.1f}")


if __name__ == "__main__":
    main()
