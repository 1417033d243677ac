"""Loaded by Python at start-up in processes that a crash test runs: ends them at a chosen point.

Every file becomes visible in a folder store by one rename or one hard link. TEST_KILL is
`<folder>:<victim>:<n>`: every n-th of these points, counted over all processes, kills; with
n = 0 they are only counted, and with a negative n the one of that number alone kills.

Victim `all` dies right behind a link, and the controller with it: records are committed by links,
so with n = 1 a run that is begun again and again dies behind each of its commits once. Victim
`boss` is the controller alone. Victim `worker` is a worker alone; the controller's points are not
counted then. Victim `self` is the process at the point alone; there, points
before a link and behind a rename count as well.
"""

import fcntl
import os
import pathlib
import signal

FOLDER, VICTIM, N = os.environ["TEST_KILL"].rsplit(":", 2)
BOSS = pathlib.Path(FOLDER, "controller")
if not BOSS.exists():
    BOSS.write_text(str(os.getpid()))
CONTROLLER = int(BOSS.read_text())


def at_work(process: int) -> bool:
    """Whether the number is still the controller's: an orphan may outlive it."""
    try:
        return b"si-ctl" in pathlib.Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


def point(what: str, path: pathlib.Path) -> None:
    if VICTIM == "worker" and os.getpid() == CONTROLLER:
        return
    with open(f"{FOLDER}/points", "a+") as file:  # noqa: PTH123 - Path is what is patched
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        number = len(file.readlines()) + 1
        file.write(f"{what} {path}\n")
        file.flush()
    n = int(N)
    if number == -n if n < 0 else n and number % n == 0:
        if VICTIM in ("all", "boss") and at_work(CONTROLLER):
            os.kill(CONTROLLER, signal.SIGKILL)
        if VICTIM != "boss":
            os.kill(os.getpid(), signal.SIGKILL)


def patch() -> None:
    link, replace = pathlib.Path.hardlink_to, pathlib.Path.replace

    def hardlink_to(self: pathlib.Path, target: pathlib.Path) -> None:
        if VICTIM == "self" and not self.exists():  # else the link fails, and nothing changes
            point("before", self)
        link(self, target)
        point("after", self)

    def rename(self: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
        result = replace(self, target)
        if VICTIM == "self":
            point("put", pathlib.Path(target))
        return result

    pathlib.Path.hardlink_to = hardlink_to  # type: ignore[method-assign]
    pathlib.Path.replace = rename  # type: ignore[method-assign,assignment]


patch()
