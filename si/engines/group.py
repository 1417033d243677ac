"""Starting the processes that train together, on this machine and others.

torchrun starts them, one per GPU or SICTL_TRAIN_PROCESSES per machine. With several machines each
starts its own, and they meet at the address in SICTL_TRAIN_MASTER.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from si.engines.port import Trained
from si.engines.threads import sleep_while_waiting
from si.errors import RecipeError, SiError

PROCESSES = "SICTL_TRAIN_PROCESSES"
NODES, NODE, MASTER = "SICTL_TRAIN_NODES", "SICTL_TRAIN_NODE", "SICTL_TRAIN_MASTER"


def processes(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes to start on this machine."""
    return whole_number(PROCESSES, max(1, torch.cuda.device_count()), environment)


def machines(environment: Mapping[str, str] = os.environ) -> int:
    """How many machines train together."""
    return whole_number(NODES, 1, environment)


def whole_number(
    name: str, default: int, environment: Mapping[str, str] = os.environ, least: int = 1
) -> int:
    """An environment variable that is a whole number.

    Raises:
        RecipeError: if it is anything else, or too small.
    """
    text = environment.get(name) or str(default)
    if not text.isdecimal() or int(text) < least:
        raise RecipeError(f"{name}={text} is not a whole number of {least} or more")
    return int(text)


def rendezvous_arguments(environment: Mapping[str, str] = os.environ) -> list[str]:
    """torchrun's options for where the processes of one training meet.

    Raises:
        RecipeError: if there are several machines, and this one's number or the address of the
            first is missing.
    """
    nodes = machines(environment)
    if nodes == 1:
        return ["--standalone"]
    host, _, port = environment.get(MASTER, "").rpartition(":")
    node = whole_number(NODE, nodes, environment, least=0)
    if node >= nodes or not host or not port.isdecimal():
        raise RecipeError(
            f"{NODES}={nodes} machines train together, but the rendezvous is incomplete",
            f"{NODE}={environment.get(NODE, '')}, {MASTER}={environment.get(MASTER, '')}",
            f"Set {NODE} (0 to {nodes - 1}), and {MASTER}=HOST:PORT of machine 0.",
        )
    words = ["--nnodes", str(nodes), "--node-rank", str(node)]
    return [*words, "--master-addr", host, "--master-port", port]


def launch(module: str, count: int, out: Path, arguments: tuple[Any, ...]) -> Trained:
    """Run `python -m module TASK ANSWER` in `count` processes of this machine.

    They read `arguments` from TASK, a pickle, and write a pickled `Trained` or `SiError` to ANSWER.

    Args:
        out: the folder for the policy; temporary files go beside it.

    Returns:
        The first process's answer; an empty one if that process is on another machine.

    Raises:
        SiError: the error of one of the processes, or that one ended without an answer.
    """
    with TemporaryDirectory(prefix="launch-", dir=out.parent) as folder:
        task, answer = Path(folder) / "task", Path(folder) / "answer"
        task.write_bytes(pickle.dumps(arguments))
        words = [sys.executable, "-m", "torch.distributed.run", *rendezvous_arguments()]
        words += ["--nproc-per-node", str(count), "-m", module, str(task), str(answer)]
        environment = dict(os.environ)
        sleep_while_waiting(environment)
        # What they print goes to the log: standard output is for events.
        done = subprocess.run(words, stdout=2, env=environment, check=False)  # noqa: S603
        found: Any = pickle.loads(answer.read_bytes()) if answer.exists() else None  # noqa: S301
    if isinstance(found, SiError):
        raise found
    if found is None and not done.returncode and whole_number(NODE, 0, least=0):
        return Trained(steps=0)
    if done.returncode or not isinstance(found, Trained):
        raise SiError(
            f"One of {count} training processes failed with exit code {done.returncode}",
            "its output is in this stage's log",
        )
    return found
