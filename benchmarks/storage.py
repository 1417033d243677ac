"""Policies to and from a bucket: ours against plain boto3, on one server in one run.

    tests/minio/run .venv/bin/python benchmarks/storage.py [--files 4] [--megabytes 100]

tests/minio/run starts a MinIO on this machine; any other server is named by
SI_TEST_S3_ENDPOINT, SI_TEST_S3_BUCKET and credentials.

Ours reads an artefact (`Artifact.download`) and commits one (`commit_shard`): every byte hashed.
The baseline is `download_file` of each file and SHA-256 of it afterwards, or SHA-256 and then
`upload_file`, with boto3's own settings. The two take turns, and who begins changes; the ratio is
the median of the rounds' own. A third line is the same without hashing, which is no safe way.
"""

import argparse
import hashlib
import os
import shutil
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3

from si.config.place import S3, Place
from si.store.artifact import Artifact
from si.store.commit import Output, announce, commit_shard, finish
from si.store.keys import Spec
from si.store.open import open_store


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def turns(rounds: int, work: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
    """Seconds of each, by round; the first round warms up and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds + 1):
        names = list(work) if turn % 2 else list(work)[::-1]
        for name in names:
            begun = time.perf_counter()
            work[name]()
            if turn:
                seconds[name].append(time.perf_counter() - begun)
    return seconds


def show(what: str, size: int, seconds: dict[str, list[float]]) -> None:
    ours = seconds["ours"]
    rates = {name: size / statistics.median(some) / 1e6 for name, some in seconds.items()}
    said = [f"{what:<9} {rates['ours']:5.0f} MB/s"]
    for name in list(seconds)[1:]:
        ratio = statistics.median(b / a for a, b in zip(ours, seconds[name], strict=True))
        said.append(f"{name} {rates[name]:5.0f}: ratio {ratio:.2f}")
    print("; ".join(said), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    endpoint, bucket = os.environ["SI_TEST_S3_ENDPOINT"], os.environ["SI_TEST_S3_BUCKET"]
    store = open_store(Place(store=f"s3://{bucket}/{uuid.uuid4().hex}", s3=S3(endpoint=endpoint)))
    client: Any = boto3.client("s3", endpoint_url=endpoint)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = {}
        for number in range(options.files):
            files[f"{number}.safetensors"] = path = folder / f"{number}.safetensors"
            path.write_bytes(os.urandom(options.megabytes << 20))
        size = options.files * options.megabytes << 20
        count = iter(range(10**6))

        def commit() -> Spec:
            spec = Spec("train", f"b{next(count)}", {}, {"n": next(count)}, {})
            announce(store, spec)
            commit_shard(store, spec, 0, Output(dict(files), 1))
            return spec

        def upload(hashing: bool = True) -> None:
            for name, path in files.items():
                if hashing:
                    digest(path)
                client.upload_file(str(path), bucket, f"plain/{next(count)}/{name}")

        spec = commit()
        assert finish(store, spec)
        artifact = Artifact.open(store, spec.address)
        prefix = f"{store.url.removeprefix(f's3://{bucket}/')}/{spec.address}"
        keys = {blob.name: f"{prefix}/{blob.path}" for blob in artifact.blobs()}

        def fetch() -> None:
            target = folder / "ours"
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            artifact.download(target)

        def download(hashing: bool = True) -> None:
            target = folder / "theirs"
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            for name, key in keys.items():
                client.download_file(bucket, key, str(target / name))
                if hashing:
                    digest(target / name)

        show(
            "download",
            size,
            turns(
                options.rounds,
                {
                    "ours": fetch,
                    "boto3 + SHA-256": download,
                    "boto3 alone": lambda: download(False),
                },
            ),
        )
        show(
            "upload",
            size,
            turns(
                options.rounds,
                {
                    "ours": lambda: commit() and None,
                    "SHA-256 + boto3": upload,
                    "boto3 alone": lambda: upload(False),
                },
            ),
        )


if __name__ == "__main__":
    main()
