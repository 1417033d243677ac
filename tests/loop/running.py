"""Running `si-ctl` as a user does, and looking at what a run left in its store."""

import contextlib
import io
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from si.cli import main
from si.clusters.local import LocalCluster
from si.runs.status import status
from si.store.folder import FolderStore
from si.store.keys import Spec
from si.store.open import open_store
from tests.loop.inline import InlineCluster

ROOT = Path(__file__).parents[2]
SI_CTL = Path(sys.executable).with_name("si-ctl")


def environment(**more: str) -> dict[str, str]:
    """The machine's environment less our own settings, with the tests importable."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SI_")}
    return kept | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"} | more


def si_ctl(*words: str, cwd: Path, check: bool = True, **env: str) -> subprocess.CompletedProcess:
    """Run the command line in this process, its stages included (tests.loop.inline).

    What is a process's own is as it would be: the folder, the environment, the words that a resume
    repeats. Where processes are the point, or a library reads the environment when it is imported,
    `si_ctl_process` is right.
    """
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, environment(**env), clear=True),
        mock.patch.object(sys, "argv", [str(SI_CTL), *map(str, words)]),
        mock.patch.object(LocalCluster, "warm_up", lambda self: None),
        mock.patch.object(LocalCluster, "run", _inline),
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
        except Exception:  # noqa: BLE001 - Python's own last words
            traceback.print_exc(file=err)
            code = 1
    return _checked(subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue()), check)


def _inline(self: LocalCluster, entry: str, spec: Spec, on_event: Callable[[Any], None]) -> None:
    InlineCluster(open_store(self.place), self.place.workers or 1).run(entry, spec, on_event)


def si_ctl_process(
    *words: str, cwd: Path, check: bool = True, **env: str
) -> subprocess.CompletedProcess:
    """Run the installed command as a user does, with processes for its workers."""
    return _checked(
        subprocess.run(
            [SI_CTL, *words], cwd=cwd, env=environment(**env), capture_output=True, text=True
        ),
        check,
    )


def _checked(done: subprocess.CompletedProcess, check: bool) -> subprocess.CompletedProcess:
    if check and done.returncode:
        words = " ".join(map(str, done.args))
        raise AssertionError(f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}")
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
