"""Data sets and policy 0 as artefacts: made or imported once, read by every stage.

These two run in the controller: they need a generator or a local folder, not a pod. What is on the
model hub is brought by whoever reaches it (`ports.Hub`); a record in the store remembers which
artefact it became.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from si.config.recipe import Recipe
from si.datasets.dataset import IMAGES_FILE, QUERIES_FILE
from si.datasets.port import Hub
from si.embedded import EMBEDDED_LEVELS, EMBEDDED_POLICY
from si.engines.families import read_config
from si.errors import RecipeError, StageFailed
from si.records import IMAGES, QUERIES
from si.store.artifact import Artifact
from si.store.commit import (
    Manifest,
    Output,
    announce,
    commit_shard,
    committed,
    finish,
    load_manifest,
    settle,
)
from si.store.keys import Spec, canonical, digest, read_record, sealed
from si.store.port import Store

SLICES = 10  # training slices in the embedded data: as many iterations without a repeated query
SEED = 0  # of the embedded data; another seed would be another data set, without levels

HUB_NAME = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?"
POLICY = re.compile(r"policies/[a-z0-9-]+-[0-9a-f]{12}")  # the address of one in the store
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


def policy(
    store: Store, source: str, hub: Hub | None, salt: dict[str, Any] | None = None
) -> Manifest:
    """Policy 0 as an artefact: made of a folder, found in the store, or brought from the hub.

    Raises:
        RecipeError: if it is nowhere, or no checkpoint that can be used.
    """
    if source == "embedded" or Path(source).is_dir():
        return fetch(store, source, salt)
    if POLICY.fullmatch(source):
        return Artifact.open(store, source).manifest
    if not re.fullmatch(HUB_NAME, source):
        raise RecipeError(
            f"model.source {source!r} is no folder here, and no name on the hub",
            "a folder with config.json, safetensors, tokenizer and processor files; owner/name or "
            "owner/name@revision; policies/... in the store; or `embedded`",
            "For a run on a cluster, bring a folder of this machine into the bucket, and name the "
            "address that this prints: si-ctl fetch --on kubernetes",
        )
    bring = partial(hub.policy, store, source) if hub else None
    return brought(store, {"model.source": source}, bring)


def dataset(
    store: Store, settings: Mapping[str, Any], hub: Hub | None, salt: dict[str, Any] | None = None
) -> Manifest:
    """The data set that the recipe's `data` settings (by dotted name) name."""
    source = settings["data.source"]
    if source.startswith("synth:"):
        return synth(store, source, salt)
    if source.startswith("data/"):
        return Artifact.open(store, source).manifest
    if not re.fullmatch(f"hub:{HUB_NAME}", source):
        raise RecipeError(
            f"data.source {source!r} names no data set",
            "synth:embedded; data/<name>-<digest>, a data set's address in the store; or "
            "hub:owner/name, also with @revision",
            "Bring a file or a folder into the store first, and name the address that this prints: "
            f"si-ctl data import {source}",
        )
    return brought(store, settings, partial(hub.data, store, settings) if hub else None)


def brought(
    store: Store, wish: Mapping[str, Any], bring: Callable[[], Manifest] | None
) -> Manifest:
    """What was once brought into this store for `wish`, or is brought now; a record says which
    artefact it was, so that all runs of a store share it, and need no hub again.

    Raises:
        RecipeError: if it is not there, and `bring` is None: no hub is reached from here.
    """
    source = str(wish.get("data.source") or wish.get("model.source"))
    record = f"sources/{named(source)}-{digest(wish)[:12]}.json"
    if store.exists(record):
        return Artifact.open(store, read_record(store, record, lambda raw: raw["address"])).manifest
    if bring is None:
        raise RecipeError(
            f"{source} is not in the store, and no hub is reached from here",
            f"in {store.url}",
            (
                "Bring it there once, from a machine that reaches the hub and the bucket: "
                "si-ctl fetch, with the same --recipe and --set",
                "Or name what is there: data.source data/..., model.source policies/...",
            ),
        )
    made = bring()
    settle(store, record, canonical(sealed({"wish": dict(wish), "address": made.spec.address})))
    return made


def on_hub(recipe: Recipe) -> bool:
    """Whether a recipe names anything of the model hub."""
    source = recipe.model.source
    model = re.fullmatch(HUB_NAME, source) and not POLICY.fullmatch(source)
    return bool(model) or recipe.data.source.startswith("hub:")


def named(source: str) -> str:
    """A source's name as it can stand in an address: without owner and revision."""
    name = source.partition("@")[0].rstrip("/").rpartition("/")[2].lower()
    return re.sub(r"[^a-z0-9]+", "-", name)[:30].strip("-") or "policy"


def fetch(
    store: Store,
    source: str,
    salt: dict[str, Any] | None = None,
    name: str = "",
    provenance: Mapping[str, Any] | None = None,
) -> Manifest:
    """Commit policy 0 from a folder (`embedded`: the one in the package), or find it committed.

    Raises:
        RecipeError: if the folder is not a Hugging Face checkpoint that can be used.
    """
    folder = EMBEDDED_POLICY if source == "embedded" else Path(source)
    read_config(folder)
    files: dict[str, pa.Table | bytes | Path] = {
        str(path.relative_to(folder)): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not set(path.relative_to(folder).parts) & set(IGNORED)
    }
    hashes = {}
    for file_name, path in files.items():
        assert isinstance(path, Path)
        with path.open("rb") as file:
            hashes[file_name] = hashlib.file_digest(file, "sha256").hexdigest()
    spec = Spec(
        "fetch",
        "embedded" if source == "embedded" else named(name or folder.resolve().name),
        settings={},
        params={"files": hashes, **(salt or {})},
        inputs={},
    )
    made = Output(files=files, rows=1, provenance=dict(provenance or {}))
    return commit(store, spec, lambda _: made)
