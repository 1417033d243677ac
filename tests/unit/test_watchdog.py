"""A process that hangs is ended, with what it has started; one that works or rests is not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from si.machine.processes import children
from si.machine.watchdog import Watchdog

HANGS = """
import subprocess, sys, time
from si.machine.watchdog import Watchdog
child = subprocess.Popen(["sleep", "60"])
print(child.pid, flush=True)
with Watchdog("The engine", 0.5) as watchdog:
    for _ in range(3):
        time.sleep(0.3)
        watchdog.fed()
    with watchdog.resting():
        time.sleep(0.8)
    print("still here", flush=True)
    time.sleep(60)
"""


def test_a_hanging_process_is_ended():
    """Exit code 4, words of what happened, no process left; work and rest were not taken for it."""
    done = subprocess.run(
        [sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=30, check=False
    )
    child, here, said = done.stdout.splitlines()
    assert done.returncode == 4 and here == "still here"
    event = json.loads(said)
    assert event["event"] == "error" and "made no progress for 0.5 s" in event["headline"]
    time.sleep(0.1)
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or ") Z " in state.read_text()


def test_after_the_work_nothing_is_watched():
    """Left in time, it ends nothing later."""
    with Watchdog("It", 0.2):
        pass
    time.sleep(0.5)


def test_children_of_children_are_found():
    """All processes below one are found, the youngest first."""
    with subprocess.Popen(["sh", "-c", "sleep 60 & echo on; wait"], stdout=subprocess.PIPE) as one:
        assert one.stdout and one.stdout.readline()
        found = children(one.pid)
        assert len(found) == 1
        one.kill()
        os.kill(found[0], signal.SIGKILL)
