"""`status --watch` beside a run at work, in a terminal and without one."""

import os
import pty
import re
import subprocess
import time

import pytest

from si.runs.status import runs
from si.store.folder import FolderStore
from tests.loop.running import SI_CTL, environment, si_ctl
from tests.loop.tiny import tiny_data, tiny_recipe

RUN = "sums-gr-k4-s0"


@pytest.fixture
def place(tmp_path):
    recipe = tiny_recipe(tmp_path, tiny_data(FolderStore(tmp_path / "si-runs")))
    return tmp_path, ["iterate", "--recipe", str(recipe)]


def terminal(folder, *words):
    """Run si-ctl in a terminal of 30 lines; exit code and all that it wrote."""
    controller, end = pty.openpty()
    env = environment(TERM="xterm", LINES="30", COLUMNS="100")
    process = subprocess.Popen(
        [SI_CTL, *words], cwd=folder, env=env, stdin=end, stdout=end, stderr=end
    )
    os.close(end)
    said = b""
    while True:
        try:
            piece = os.read(controller, 65536)
        except OSError:  # the other end is closed
            piece = b""
        if not piece:
            break
        said += piece
    os.close(controller)
    return process.wait(), said.decode()


@pytest.mark.slow
def test_a_run_is_watched_until_it_is_over(place):
    """In a terminal the tree goes on with the run, and ends with it; a watcher keeps no run from
    its work. Afterwards, without a terminal, each stage is a line."""
    folder, words = place
    log = (folder / "log").open("w")
    worker = subprocess.Popen([SI_CTL, *words], cwd=folder, env=environment(), stdout=log)
    try:
        while not runs(FolderStore(folder / "si-runs")):
            time.sleep(0.1)
        code, said = terminal(folder, "status", RUN, "--watch")
    finally:
        assert worker.wait() == 0
    frames = said.split(f"{RUN}: gr")
    assert code == 0 and "Traceback" not in said
    assert any(f"process {worker.pid} is at work" in frame for frame in frames)
    assert re.search(r"at work: \d of \d shards", said)
    assert "report" in frames[-1] and "is at work" not in frames[-1]
    assert frames[-1].count("explore") > 4 > frames[-3].count("policy")
    done = si_ctl("status", RUN, "--watch", cwd=folder)
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{RUN}: gr, K=4") and lines[-1].startswith("it02/report")
    assert "\x1b" not in done.stdout


def test_what_cannot_be_watched_is_said(place):
    """--watch wants one run, and is no JSON."""
    for words in (("--watch",), ("x", "--watch", "--json")):
        done = si_ctl("status", *words, cwd=place[0], check=False)
        assert done.returncode == 2 and "--watch needs a run" in done.stderr
