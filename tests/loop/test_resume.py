"""A killed training goes on from its last checkpoint, and ends as an undisturbed one."""

import json
import signal

import pytest

from tests.loop.resume import Training

SETTINGS = {
    "full": (),
    "lora": ("--set", "train.lora.r=4", "--set", "train.lora.dropout=0.1"),
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def training(request, tmp_path_factory):
    return Training(tmp_path_factory.mktemp("training"), *SETTINGS[request.param])


@pytest.mark.parametrize(
    ("training", "number", "times"),
    [
        ("full", signal.SIGKILL, 1),
        ("lora", signal.SIGTERM, 2),
        pytest.param("full", signal.SIGTERM, 2, marks=pytest.mark.soak),
        pytest.param("lora", signal.SIGKILL, 2, marks=pytest.mark.soak),
    ],
    indirect=["training"],
)
def test_a_killed_training_ends_with_the_same_weights(training, number, times):
    """Killed after a checkpoint, by the kernel or politely, it goes on from there: the policy is
    the undisturbed one's byte for byte, with its figures of all steps, and no checkpoint is
    left."""
    facts = training.facts()
    training.undo()
    codes = list(training.disturbed(number, times))
    assert codes == [-number if number == signal.SIGKILL else 4] * times + [0]
    assert training.weights() == training.calm
    assert training.facts() == facts and len(facts["grad_norms"]) == facts["steps"]
    assert not training.records()


@pytest.mark.parametrize("training", ["full"], indirect=True)
def test_what_is_not_whole_or_damaged_is_passed_over(training):
    """Of a checkpoint with a changed byte, or without its record, the one before is taken. The
    record, put last, names every file with size and SHA-256."""
    training.undo()
    run = training.disturbed(signal.SIGTERM, 2)
    assert [next(run), next(run)] == [4, 4]
    newest = training.records()[-1]
    record = json.loads((training.folder / "checkpoints" / newest).read_text())
    assert record["files"][0].keys() == {"name", "size", "sha256"} and record["step"] >= 1
    name = newest.partition(".")[0]
    (file,) = (training.folder / "checkpoints" / name / "0").iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    process = training.run()
    _, said = process.communicate()
    assert process.returncode == 0
    assert f"{name} cannot be used" in said
    assert training.weights() == training.calm
