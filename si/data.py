"""Data sets and policy 0 as artefacts: made or imported once, read by every stage.

These two run in the controller: they need a generator or a local folder, not a pod.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from si.artifacts import (
    Manifest,
    Output,
    Spec,
    announce,
    commit_shard,
    committed,
    finish,
    load_manifest,
)
from si.dataset import IMAGES_FILE, QUERIES_FILE
from si.errors import RecipeError, StageFailed
from si.ports import Store
from si.records import IMAGES, QUERIES

EMBEDDED_POLICY = Path(__file__).parent / "embedded" / "policy"
EMBEDDED_LEVELS = Path(__file__).parent / "embedded" / "levels.parquet"
SLICES = 10  # training slices in the embedded data: as many iterations without a repeated query
SEED = 0  # of the embedded data; another seed would be another data set, without levels

# Files of a checkpoint folder that are no part of the policy.
IGNORED = (".git", ".cache", "README.md", "__pycache__")


def commit(store: Store, spec: Spec, make: Callable[[int], Output]) -> Manifest:
    """Commit an artefact in this process: its missing shards, then its manifest."""
    manifest = load_manifest(store, spec)
    if manifest is not None:
        return manifest
    announce(store, spec)
    done = committed(store, spec.address)
    for shard in range(spec.shards):
        if shard not in done:
            commit_shard(store, spec, shard, make(shard))
    manifest = finish(store, spec)
    if manifest is None:
        raise StageFailed(f"The artefact {spec.address} did not become whole")
    return manifest


def parts(queries: list[dict[str, Any]], split: str) -> Output:
    """One part of a data set from dicts with the columns of QUERIES and `images`."""
    return Output(
        files={
            QUERIES_FILE: pa.Table.from_pylist(
                [{name: query[name] for name in QUERIES.names} for query in queries], QUERIES
            ),
            IMAGES_FILE: pa.Table.from_pylist(
                [{name: query[name] for name in IMAGES.names} for query in queries], IMAGES
            ),
        },
        rows=len(queries),
        facts={"split": split},
    )


def synth_spec(source: str, salt: dict[str, Any] | None = None, levels: bool = True) -> Spec:
    """The stage that makes a synthetic data set, with its measured levels or without.

    Raises:
        RecipeError: if there is no generator of that name.
    """
    if source != "synth:embedded":
        raise RecipeError(
            f"No synthetic data set is called {source!r}",
            "known: synth:embedded",
            "Use data.source: synth:embedded, or the address of a data set in the store.",
        )
    # Levels are measured, not generated: their file is part of what identifies the data.
    measured = hashlib.sha256(EMBEDDED_LEVELS.read_bytes()).hexdigest() if levels else None
    return Spec(
        "synth",
        "embedded",
        settings={"data.source": source},
        params={"seed": SEED, "slices": SLICES, "levels": measured, **(salt or {})},
        inputs={},
        # Training slices, dev, test, and what holds for all of them.
        shards=SLICES + 3,
    )


def synth(
    store: Store,
    source: str = "synth:embedded",
    salt: dict[str, Any] | None = None,
    levels: bool = True,
) -> Manifest:
    """Make the embedded data set, or find it made."""
    spec = synth_spec(source, salt, levels)
    made: list[Output] = []

    def make(shard: int) -> Output:
        if not made:
            made.extend(_embedded(levels))
        return made[shard]

    return commit(store, spec, make)


def _embedded(levels: bool) -> Iterator[Output]:
    from si.embedded import families

    separators = {name: family.separator for name, family in families.FAMILIES.items()}
    for queries in families.generate_slices("train", families.TRAIN_MIX, SEED, SLICES):
        yield parts(queries, "train")
    yield parts(families.generate("dev", families.DEV_MIX, SEED), "dev")
    yield parts(families.generate("test", families.TEST_MIX, SEED), "test")
    last = Output(files={}, rows=0, facts={"separators": separators})
    if levels:
        table = pq.read_table(EMBEDDED_LEVELS)
        last.files["levels.parquet"] = table.replace_schema_metadata(None)
        last.facts["levels_policy"] = table.schema.metadata[b"policy"].decode()
        last.facts["levels_k"] = table.schema.metadata[b"k"].decode()
    yield last


def fetch(store: Store, source: str, salt: dict[str, Any] | None = None) -> Manifest:
    """Commit policy 0 from a folder (`embedded`: the one in the package), or find it committed.

    Raises:
        RecipeError: if the folder is not a Hugging Face checkpoint.
    """
    folder = EMBEDDED_POLICY if source == "embedded" else Path(source)
    if not (folder / "config.json").is_file():
        raise RecipeError(
            f"model.source {source!r} is no Hugging Face checkpoint",
            f"{folder} has no config.json",
            "Give a folder with config.json, safetensors and tokenizer files, or `embedded`.",
        )
    files: dict[str, pa.Table | bytes | Path] = {
        str(path.relative_to(folder)): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not set(path.relative_to(folder).parts) & set(IGNORED)
    }
    hashes = {}
    for name, path in files.items():
        assert isinstance(path, Path)
        with path.open("rb") as file:
            hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
    name = "".join(c if c.isalnum() else "-" for c in folder.name.lower()).strip("-")
    spec = Spec(
        "fetch",
        "embedded" if source == "embedded" else name[:30] or "policy",
        settings={},
        params={"files": hashes, **(salt or {})},
        inputs={},
    )
    return commit(store, spec, lambda _: Output(files=files, rows=1))
