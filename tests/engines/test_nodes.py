"""One training over several machines, which are processes here: they meet by address and number."""

import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from si.engines.port import Trained
from si.engines.trainer import TransformersTrainer
from si.errors import RecipeError
from si.records import TrainingRow
from tests.engines import needs
from tests.engines.test_deepspeed import CLOSE, furthest
from tests.unit import tiny
from tests.unit.settings import training

pytestmark = [needs.deepspeed, pytest.mark.slow, pytest.mark.timeout(600)]

MACHINE = """
import pickle, sys
from pathlib import Path
from si.engines.deepspeed import DeepSpeedTrainer
arguments = pickle.loads(Path(sys.argv[1]).read_bytes())
Path(sys.argv[2]).write_bytes(pickle.dumps(DeepSpeedTrainer().train(*arguments)))
"""


def test_two_machines_train_as_one(policy: Path, tmp_path: Path) -> None:
    """Two machines of one process each end where the plain trainer ends; one has the policy."""
    rows = [
        TrainingRow("Which?", (tiny.picture(n % 4),), (*range(5 + n % 5), 0), 0) for n in range(24)
    ]
    settings = training(batch=8, micro_batch=4, lr=1e-3, steps=3)
    plain = tmp_path / "plain"
    plain.mkdir()
    expected = TransformersTrainer().train(rows, policy, policy, plain, settings, 0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    machines = []
    for node in range(2):
        out = tmp_path / f"machine{node}" / "out"
        out.mkdir(parents=True)
        task = out.parent / "task"
        task.write_bytes(pickle.dumps((rows, policy, policy, out, settings, 0)))
        place = {
            "SICTL_TRAIN_NODES": "2",
            "SICTL_TRAIN_NODE": str(node),
            "SICTL_TRAIN_MASTER": f"localhost:{port}",
        }
        words = [sys.executable, "-c", MACHINE, str(task), str(out.parent / "facts")]
        machines.append(subprocess.Popen(words, env={**os.environ, **place}))
    assert [machine.wait() for machine in machines] == [0, 0]
    facts = [pickle.loads((tmp_path / f"machine{n}/facts").read_bytes()) for n in range(2)]
    assert facts[0].losses == pytest.approx(expected.losses, abs=2e-4)
    assert facts[1] == Trained(steps=0) and not list((tmp_path / "machine1" / "out").iterdir())
    assert furthest(plain, tmp_path / "machine0" / "out") < CLOSE


def test_where_machines_meet() -> None:
    """One machine meets nobody; of several each says which it is, and where the first one is."""
    from si.engines.group import rendezvous_arguments

    assert rendezvous_arguments({}) == ["--standalone"]
    place = {"SICTL_TRAIN_NODES": "4", "SICTL_TRAIN_NODE": "3", "SICTL_TRAIN_MASTER": "a.b:29400"}
    assert rendezvous_arguments(place) == [
        *("--nnodes", "4", "--node-rank", "3", "--master-addr", "a.b", "--master-port", "29400")
    ]
    for wrong in (
        {"SICTL_TRAIN_NODES": "0"},
        {"SICTL_TRAIN_NODE": "4"},
        {"SICTL_TRAIN_NODE": ""},
        {"SICTL_TRAIN_MASTER": ""},
        {"SICTL_TRAIN_MASTER": "a.b"},
    ):
        with pytest.raises(RecipeError, match="SICTL_TRAIN_NODES"):
            rendezvous_arguments(place | wrong)
