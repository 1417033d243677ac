"""Loaded by Python at start-up in processes of tests/loop/test_macos.py: takes away what only Linux
has, as far as our own code could use it.

The system calls itself Darwin, there are no core affinities, and whoever reads below /proc is
refused and noted in TEST_NOTES. psutil, which asks each system in its own way, is let through.
"""

import os
import pathlib
import sys

_uname = os.uname
os.uname = lambda: os.uname_result(("Darwin", *_uname()[1:]))
for name in ("sched_getaffinity", "sched_setaffinity"):
    vars(os).pop(name, None)


def by_psutil() -> bool:
    frame = sys._getframe(2)
    while frame is not None:
        if f"{os.sep}psutil{os.sep}" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


def refuse(event: str, arguments: tuple) -> None:
    if event not in ("open", "os.listdir", "os.scandir") or not arguments:
        return
    path = arguments[0]
    below = isinstance(path, str) and (path == "/proc" or path.startswith("/proc/"))
    if below and not by_psutil():
        caller = sys._getframe(1).f_code.co_filename
        with pathlib.Path(os.environ["TEST_NOTES"]).open("a") as file:
            file.write(f"{event} {path} by {caller}\n")
        raise FileNotFoundError(2, "there is no /proc here", path)


sys.addaudithook(refuse)
