"""Running `si-ctl` as a user does, and looking at what a run left in its store."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from si.runs.status import status
from si.store.folder import FolderStore

ROOT = Path(__file__).parents[2]
SI_CTL = Path(sys.executable).with_name("si-ctl")


def environment(**more: str) -> dict[str, str]:
    """The machine's environment less our own settings, with the tests importable."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SI_")}
    return kept | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"} | more


def si_ctl(*words: str, cwd: Path, check: bool = True, **env: str) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [SI_CTL, *words], cwd=cwd, env=environment(**env), capture_output=True, text=True
    )
    if check and done.returncode:
        raise AssertionError(f"si-ctl {words}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def artefacts(folder: Path, run: str) -> dict[str, tuple[str, str | None]]:
    """Entry -> (address, content digest) of everything that the run has made."""
    return read_artefacts(status(FolderStore(folder), run))


def read_artefacts(tree: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    return {
        stage["entry"]: (stage["address"], stage["content"])
        for iteration in tree["iterations"]
        for stage in iteration["stages"]
    }


def records(folder: Path) -> dict[str, int]:
    """How many manifests and shard records the store holds: more or fewer is doubled or lost."""
    store = FolderStore(folder)
    names = [*store.list("pool"), *store.list("data"), *store.list("policies")]
    return {
        "manifests": sum(name.endswith("/manifest.json") for name in names),
        "shards": sum("/shards/" in name for name in names),
    }


def wreck(folder: Path) -> list[str]:
    """Records that are not whole JSON: there must be none, whatever was killed."""
    bad = []
    for path in folder.rglob("*.json"):
        try:
            json.loads(path.read_bytes())
        except ValueError:
            bad.append(str(path))
    return bad
