"""A killed training under DeepSpeed goes on from its last checkpoint."""

import signal

import pytest
import torch
from safetensors.torch import load

from tests.engines import needs
from tests.loop.resume import Training

LORA = ("--set", "train.lora.r=4", "--set", "train.lora.dropout=0.1")
ENGINE = ("--set", "train.trainer=deepspeed", "--set")

pytestmark = [needs.deepspeed, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("settings", [("2",), ("3", *LORA)], ids=["zero2-full", "zero3-lora"])
def test_one_process_ends_with_the_same_weights(settings, tmp_path):
    """Killed and told to stop, it ends with the undisturbed training's policy, byte for byte."""
    zero, *more = settings
    training = Training(tmp_path, *ENGINE, f"train.deepspeed.zero={zero}", *more)
    for number, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 4)):
        facts = training.facts()
        training.undo()
        assert list(training.disturbed(number, 1)) == [code, 0]
        assert training.weights() == training.calm
        assert training.facts() == facts


def test_two_processes_end_as_close_as_two_trainings(tmp_path):
    """Two processes under ZeRO-3, each with a state of its own: weights within 1e-6 of the
    undisturbed training's; one process cannot use what two have kept, and starts over."""
    two = {"SICTL_TRAIN_PROCESSES": "2"}
    training = Training(tmp_path, *ENGINE, "train.deepspeed.zero=3")
    training.undo()
    process = training.run(**two)
    process.communicate()
    calm = training.weights()
    training.undo()
    assert list(training.disturbed(signal.SIGTERM, 2, **two)) == [4, 4, 0]
    one, other = (load(weights["model.safetensors"]) for weights in (calm, training.weights()))
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[name], other[name], rtol=0, atol=1e-6) for name in one)

    training.undo()
    next(training.disturbed(signal.SIGTERM, 1, **two))
    process = training.run()
    _, said = process.communicate()
    assert process.returncode == 0 and "Starting over" in said
    assert training.weights() == training.calm


def test_torchrun_starts_the_stage_itself(tmp_path):
    """`torchrun jobs/train.py` in two processes: told to stop, they keep one state of both, begun
    again they go on from it, and the first alone commits, weights within 1e-6."""
    training = Training(tmp_path, *ENGINE, "train.deepspeed.zero=2")
    training.launcher = (*("-m", "torch.distributed.run", "--standalone"), "--nproc-per-node", "2")
    training.undo()
    assert list(training.disturbed(signal.SIGTERM, 1))[-1] == 0
    assert training.said.count("Starting over") == 0
    one, other = (
        load(weights["model.safetensors"]) for weights in (training.calm, training.weights())
    )
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[name], other[name], rtol=0, atol=1e-6) for name in one)
    assert len(list((training.folder / "provenance").iterdir())) == 1
