"""A process that hangs is ended, with what it has started; one that works or rests is not."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from si.machine.processes import children
from si.machine.watchdog import Watchdog

HANGS = """
import subprocess, sys, time
from si.machine.watchdog import Watchdog
child = subprocess.Popen(["sleep", "600"])
print(child.pid, flush=True)
with Watchdog("The engine", 3) as watchdog:
    for _ in range(3):
        time.sleep(1.2)
        watchdog.fed()
    with watchdog.resting():
        time.sleep(3.5)
    print("still here", flush=True)
    time.sleep(600)
"""


def test_a_hanging_process_is_ended():
    """Exit code 4, words of what happened, no process left; work and rest were not taken for it."""
    done = subprocess.run(
        [sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=500, check=False
    )
    child, here, said = done.stdout.splitlines()
    assert done.returncode == 4 and here == "still here"
    event = json.loads(said)
    assert event["event"] == "error" and "made no progress for 3 s" in event["headline"]
    wait_until(lambda: not alive(int(child)))


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what comes at once on an idle machine, and as long as a busy one needs."""
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_after_the_work_nothing_is_watched():
    """Left in time, it ends nothing later."""
    with Watchdog("It", 0.2):
        pass
    time.sleep(0.5)


def test_children_of_children_are_found():
    """All processes below one are found, the youngest first."""
    with subprocess.Popen(["sh", "-c", "sleep 600 & echo on; wait"], stdout=subprocess.PIPE) as one:
        assert one.stdout and one.stdout.readline()
        found = children(one.pid)
        assert len(found) == 1
        one.kill()
        os.kill(found[0], signal.SIGKILL)
