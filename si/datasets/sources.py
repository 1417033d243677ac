"""Data sets and policy 0 as artefacts: generated, imported or fetched once, read by every stage.

They are committed by the controller, which needs no pod for a generator or a local folder. What is
on the hub is fetched through a `si.datasets.port.Hub`; a record in the store says which artefact it
became.
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
from si.records import IMAGES, OPTIONAL, QUERIES
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
from si.untrusted import slug

SLICES = 10  # training slices of synthetic data: so many iterations repeat no query
SEED = 0  # of synthetic data; their levels are measured for this seed only

HUB_NAME = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?"
POLICY = re.compile(r"policies/[a-z0-9-]+-[0-9a-f]{12}")  # address of a policy in a store
# Files of a checkpoint folder that are not part of the policy.
IGNORED = (".git", ".cache", "README.md", "__pycache__")


def commit(store: Store, spec: Spec, make: Callable[[int], Output]) -> Manifest:
    """Commit an artefact in this process: its missing shards, then its manifest.

    Args:
        make: creates a shard's output, given its number; called for missing shards only.
    """
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
        raise StageFailed(
            f"The artefact {spec.address} is incomplete after its last shard was committed",
            f"in {store.url}",
            "Run the same command again.",
        )
    return manifest


def parts(queries: list[dict[str, Any]], split: str) -> Output:
    """A part of a data set, ready to commit.

    Args:
        queries: dicts with the columns of QUERIES, `images`, and those of OPTIONAL that they have.
        split: the split of the part.
    """
    more = [each for each in OPTIONAL if any(query.get(each.name) for query in queries)]
    schema = pa.schema([*QUERIES, *more], QUERIES.metadata)
    return Output(
        files={
            QUERIES_FILE: pa.Table.from_pylist(
                [
                    {name: query[name] for name in QUERIES.names}
                    | {each.name: query.get(each.name) or None for each in more}
                    for query in queries
                ],
                schema,
            ),
            IMAGES_FILE: pa.Table.from_pylist(
                [{name: query[name] for name in IMAGES.names} for query in queries], IMAGES
            ),
        },
        rows=len(queries),
        facts={"split": split},
    )


def synth_spec(source: str, salt: dict[str, Any] | None = None, levels: bool = True) -> Spec:
    """The spec of a synthetic data set.

    Args:
        source: `synth:embedded` or `synth:puzzles`.
        salt: further params of the key, for a separate copy.
        levels: whether its measured levels are part of it.

    Raises:
        RecipeError: if there is no synthetic data set of that name.
    """
    if source not in EMBEDDED_LEVELS:
        raise RecipeError(
            f"There is no synthetic data set {source!r}",
            f"known: {', '.join(EMBEDDED_LEVELS)}",
            "Use one of these as data.source, or the address of a data set in the store.",
        )
    # Levels are measured, not generated, so the key depends on their file, too.
    measured = hashlib.sha256(EMBEDDED_LEVELS[source].read_bytes()).hexdigest() if levels else None
    return Spec(
        "synth",
        source.removeprefix("synth:"),
        settings={"data.source": source},
        params={"seed": SEED, "slices": SLICES, "levels": measured, **(salt or {})},
        inputs={},
        # Training slices, dev, test, and facts about all of them.
        shards=SLICES + 3,
    )


def synth(
    store: Store,
    source: str = "synth:embedded",
    salt: dict[str, Any] | None = None,
    levels: bool = True,
) -> Manifest:
    """Generate and commit a synthetic data set, unless the store has it; see `synth_spec`."""
    spec = synth_spec(source, salt, levels)
    made: list[Output] = []

    def make(shard: int) -> Output:
        if not made:
            made.extend(_puzzles(source, levels))
        return made[shard]

    return commit(store, spec, make)


def _puzzles(source: str, levels: bool) -> Iterator[Output]:
    from si.embedded import families, sets

    separators = {name: family.separator for name, family in families.FAMILIES.items()}
    for split, queries in sets.SETS[source].generate(SEED, SLICES):
        yield parts(queries, split)
    last = Output(files={}, rows=0, facts={"separators": separators})
    if levels:
        table = pq.read_table(EMBEDDED_LEVELS[source])
        last.files["levels.parquet"] = table.replace_schema_metadata(None)
        last.facts["levels_policy"] = table.schema.metadata[b"policy"].decode()
        last.facts["levels_k"] = table.schema.metadata[b"k"].decode()
    yield last


def policy(
    store: Store, source: str, hub: Hub | None, salt: dict[str, Any] | None = None
) -> Manifest:
    """Policy 0 as an artefact.

    Args:
        source: a checkpoint folder, `embedded`, an address in the store, or a model on the hub
            (`owner/name`, `owner/name@revision`).
        hub: fetches a model; None if no hub can be reached from here.
        salt: further params of the key, for a separate copy.

    Raises:
        RecipeError: if there is no such policy, or it is not a checkpoint that can be used.
    """
    if source == "embedded" or Path(source).is_dir():
        return fetch(store, source, salt)
    if POLICY.fullmatch(source):
        return Artifact.open(store, source).manifest
    if not re.fullmatch(HUB_NAME, source):
        raise RecipeError(
            f"model.source {source!r} is neither a folder on this machine nor a name on the hub",
            "expected a folder with config.json, safetensors, tokenizer and processor files; "
            "owner/name or owner/name@revision; policies/... in the store; or `embedded`",
            "For a run on a cluster, upload a folder of this machine into the bucket, and use the "
            "address that this prints: si-ctl fetch --on kubernetes",
        )
    fetch_model = partial(hub.policy, store, source) if hub else None
    return fetch_once(store, {"model.source": source}, fetch_model)


def dataset(
    store: Store, settings: Mapping[str, Any], hub: Hub | None, salt: dict[str, Any] | None = None
) -> Manifest:
    """The data set of a recipe as an artefact.

    Args:
        settings: the recipe's `data` settings by dotted name.
        hub: fetches a data set; None if no hub can be reached from here.
        salt: further params of the key, for a separate copy of a synthetic data set.

    Raises:
        RecipeError: if there is no such data set.
    """
    source = settings["data.source"]
    if source.startswith("synth:"):
        return synth(store, source, salt)
    if source.startswith("data/"):
        return Artifact.open(store, source).manifest
    if not re.fullmatch(f"hub:{HUB_NAME}", source):
        raise RecipeError(
            f"data.source {source!r} is not a data set",
            f"expected {', '.join(EMBEDDED_LEVELS)}; data/<name>-<digest>, an address in the "
            "store; or hub:owner/name, also with @revision",
            "Import a file or a folder into the store first, and use the address that this prints: "
            f"si-ctl data import {source}",
        )
    fetch_data = partial(hub.data, store, settings) if hub else None
    return fetch_once(store, settings, fetch_data)


def fetch_once(
    store: Store, wish: Mapping[str, Any], fetch_now: Callable[[], Manifest] | None
) -> Manifest:
    """The artefact that was fetched into this store for `wish`, or that is fetched now.

    A record in the store says which artefact it is, so that all runs share it, and need the hub
    only once.

    Args:
        wish: what to fetch: settings of a recipe by dotted name.
        fetch_now: commits the artefact; None if no hub can be reached from here.

    Raises:
        RecipeError: if it was missing, and there is no `fetch_now`.
    """
    source = str(wish.get("data.source") or wish.get("model.source"))
    record = f"sources/{named(source)}-{digest(wish)[:12]}.json"
    if store.exists(record):
        return Artifact.open(store, read_record(store, record, lambda raw: raw["address"])).manifest
    if fetch_now is None:
        raise RecipeError(
            f"{source} is not in the store, and the hub cannot be reached from here",
            f"in {store.url}",
            (
                "Fetch it once on a machine that reaches the hub and the bucket: "
                "si-ctl fetch, with the same --recipe and --set",
                "Or use an artefact of the store: data.source data/..., model.source policies/...",
            ),
        )
    made = fetch_now()
    settle(store, record, canonical(sealed({"wish": dict(wish), "address": made.spec.address})))
    return made


def on_hub(recipe: Recipe) -> bool:
    """Whether a recipe's model or data set is on the hub."""
    source = recipe.model.source
    model = re.fullmatch(HUB_NAME, source) and not POLICY.fullmatch(source)
    return bool(model) or recipe.data.source.startswith("hub:")


def named(source: str) -> str:
    """The name of a source for use in an address: lower case, without owner and revision."""
    return slug(source.partition("@")[0].rstrip("/").rpartition("/")[2], 30) or "policy"


def fetch(
    store: Store,
    source: str,
    salt: dict[str, Any] | None = None,
    name: str = "",
    provenance: Mapping[str, Any] | None = None,
) -> Manifest:
    """Commit policy 0 from a folder, unless the store has it.

    Args:
        source: a checkpoint folder; `embedded` for the one in the package.
        salt: further params of the key, for a separate copy.
        name: names the policy in its address; by default the folder's name.
        provenance: stored beside the artefact, outside its key.

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
