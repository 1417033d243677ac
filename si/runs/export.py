"""Export a policy from the store as a standard Hugging Face folder.

Every file is checked by size and SHA-256 during the copy. The export writes to a hidden folder
beside the target and renames it at the end, so the target is complete or absent.
"""

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from si.config.recipe import Recipe
from si.errors import OutputError, RecipeError, RunMissing, StoreUnavailable
from si.machine.files import check_folder, errors
from si.report.summary import RunSummary, collect
from si.runs.model_card import About, card
from si.runs.record import generations, load_recipe
from si.runs.status import entries, report_inputs
from si.runs.usage import made_by
from si.store.artifact import Artifact
from si.store.commit import Manifest
from si.store.keys import Ref
from si.store.port import Store

ADAPTER = "adapter_config.json"
Merge = Callable[[Path, Path, Path], None]  # policy 0, adapter, an empty folder to write to


@dataclass(frozen=True)
class Policy:
    """The policy of a run to export.

    Attributes:
        iteration: its iteration; 0 is policy 0.
        why: how it was chosen, in words.
        base: policy 0.
    """

    run: str
    generation: int
    recipe: Recipe
    summary: RunSummary
    iteration: int
    why: str
    made: Manifest
    base: Manifest
    data: Ref

    @property
    def is_adapter(self) -> bool:
        return any(blob.name == ADAPTER for record in self.made.shards for blob in record.blobs)


def choose(store: Store, run: str, wanted: str = "best") -> Policy:
    """A run's policy by iteration: a number, `best` on dev, or `last`.

    Raises:
        RunMissing: if the run has no such iteration yet.
        RecipeError: if `wanted` is invalid, or no iteration was scored on dev.
    """
    refs = report_inputs(store, run)
    if "scores-0" not in refs:
        raise RunMissing(
            f"The run {run} has no scored policy yet",
            f"in {store.url}",
            "Continue it first: the same `si-ctl iterate` command resumes.",
        )
    summary = collect(store, refs)
    if wanted == "best":
        if summary.best is None:
            raise RecipeError(
                f"The run {run} was not scored on dev, so it has no best policy",
                "evaluate.splits has no dev",
                "Name an iteration: --iteration last, or its number",
            )
        t, why = summary.best, "the best on dev"
    elif wanted == "last":
        t, why = summary.last, "the last"
    elif wanted.isdecimal():
        t, why = int(wanted), "chosen by number"
    else:
        raise RecipeError(f"--iteration {wanted!r} is not a number, best or last")
    found = entries(store, run)
    entry = f"it{t:02d}/train" if t else "it00/policy"
    if t > summary.last or entry not in found:
        raise RunMissing(
            f"The run {run} has no finished iteration {t}",
            f"finished: 0 to {summary.last}, in {store.url}",
            "Name one of these: --iteration N, best or last",
        )
    generation = generations(store, run)[-1]
    return Policy(
        run,
        generation,
        load_recipe(store, run, generation),
        summary,
        t,
        why,
        Artifact.open(store, found[entry]).manifest,
        Artifact.open(store, found["it00/policy"]).manifest,
        refs["data"],
    )


def export(
    store: Store,
    policy: Policy,
    out: Path,
    base: str | None = None,
    merge: Merge | None = None,
    force: bool = False,
) -> str:
    """Write the policy to the folder `out`, with a model card.

    Returns what was written: `model`, `adapter` or `merged`.

    Args:
        base: the base model's name for the model card and the adapter's config: a name on the
            hub, optionally with @revision, or a folder. Default: the name that it was fetched from
            the hub with, if any.
        merge: merges an adapter into policy 0; None keeps the adapter.
        force: replace an earlier export in `out`.

    Raises:
        OutputError: if `out` exists and is not empty, or cannot be written.
        StoreUnavailable: if there is too little room.
        RecipeError: if there is nothing to merge.
        ArtifactDamaged: if a file is not what was committed.
    """
    if merge and not policy.is_adapter:
        raise RecipeError(
            f"The policy of iteration {policy.iteration} is a complete model: there is nothing to "
            "merge",
            policy.made.spec.address,
            "Remove --merge.",
        )
    _free(out, force)
    kind = "merged" if merge else "adapter" if policy.is_adapter else "model"
    named = base or brought_as(store, policy.base)
    with errors(out), _part(out) as part:
        _room(part, [policy.made, *([policy.base] * 2 if merge else [])])
        made = part / "policy"
        _download(store, policy.made, made)
        if merge:
            adapter = made.rename(part / "adapter")
            _download(store, policy.base, part / "base")
            made.mkdir()
            merge(part / "base", adapter, made)
        elif kind == "adapter":
            _name_base(made / ADAPTER, named)
        known_as = named or Path(policy.recipe.model.source).name
        text = card(_about(store, policy, kind, known_as), policy.summary)
        (made / "README.md").write_text(text, encoding="utf-8")
        usual = (made / "README.md").stat().st_mode
        for path in made.rglob("*"):
            if path.is_file():  # safetensors makes files readable only by their owner
                path.chmod(usual)
        _sync(made)
        if out.exists() and any(out.iterdir()):  # --force
            out.rename(part / "old")
        made.rename(out)
    return kind


def brought_as(store: Store, policy_0: Manifest) -> str | None:
    """`owner/name@commit` of a policy that was fetched from the hub."""
    source = str(made_by(store, policy_0).get("source", ""))
    return source.removeprefix("hf:") if source.startswith("hf:") else None


def _download(store: Store, manifest: Manifest, folder: Path) -> None:
    folder.mkdir()
    Artifact(store, manifest).download(folder)


def _name_base(path: Path, base: str | None) -> None:
    """Write the base model's name into the adapter's config. In the store the artefact's inputs
    name it instead."""
    name, _, revision = (base or "").partition("@")
    config = json.loads(path.read_text())
    config |= {"base_model_name_or_path": name or None, "revision": revision or None}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _about(store: Store, policy: Policy, kind: str, base: str) -> About:
    made = policy.made
    said = made_by(store, made)
    settings = policy.recipe.model_dump(mode="json")
    settings["model"]["source"] = base  # no path of this machine
    versions = {"si-ctl": said.get("si_ctl"), "Python": said.get("python")}
    versions |= said.get("libraries", {})
    return About(
        run=policy.run,
        generation=policy.generation,
        iteration=policy.iteration,
        why=policy.why,
        kind=kind,
        base=base,
        policy=made.ref,
        policy_0=policy.base.ref,
        data=policy.data,
        facts=made.facts,
        settings=settings,
        made_with={name: version for name, version in versions.items() if version},
    )


# --- the folder ----------------------------------------------------------------------------


def _free(out: Path, force: bool) -> None:
    if not out.exists() and not out.is_symlink():
        check_folder(out.parent)
        return
    if not out.is_dir() or out.is_symlink():
        raise OutputError(
            f"{out} is not a folder", "nothing was written", "Name another folder: --out FOLDER"
        )
    check_folder(out)
    check_folder(out.parent)
    names = {path.name for path in out.iterdir()}
    ours = names & {"config.json", ADAPTER}
    if names and not (force and ours):
        ways = ["Name another folder: --out FOLDER"]
        ways += ["Or replace it: --force"] if ours else []
        why = "it does not contain a model, so --force does not replace it" if force else ""
        raise OutputError(f"The folder {out} is not empty", why, tuple(ways))


@contextmanager
def _part(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out`; removes those that killed exports left behind."""
    stem = f".{out.resolve().name}.part-"
    for old in out.parent.glob(f"{stem}*"):
        with suppress(OSError), _locked(old):
            shutil.rmtree(old)
    part = out.parent / f"{stem}{uuid.uuid4().hex[:8]}"
    part.mkdir()
    with _locked(part):
        try:
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder for this process; OSError if another process holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _room(folder: Path, manifests: list[Manifest]) -> None:
    needed = sum(b.size for made in manifests for record in made.shards for b in record.blobs)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StoreUnavailable(
            f"There is too little disk space beside {folder.parent} for the policy",
            f"needed {needed:,} bytes, free {free:,}",
            "Free some space, or name a folder on another disk.",
        )


def _sync(folder: Path) -> None:
    """Flush all files to disk before the folder gets its final name."""
    for path in (folder, *folder.rglob("*")):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
