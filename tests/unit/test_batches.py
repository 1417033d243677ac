"""What a training computes, made ready by threads."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from si.engines.batches import batches, in_threads, loaders, make_batch, make_examples, steps
from si.engines.hf import Prompts
from si.engines.trainer import TransformersTrainer, open_policy
from si.errors import RecipeError
from si.records import TrainingRow
from tests.unit import tiny
from tests.unit.settings import training

SIZES: dict[str, Any] = {"batch": 8, "micro_batch": 3, "lr": 5e-3, "cpu_threads": 1, "steps": 6}
SETTINGS = training(**SIZES)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("policy"), spread=0.1)


@pytest.fixture
def rows() -> list[TrainingRow]:
    return [
        TrainingRow(f"red {n}", (tiny.picture(n, 2 + n % 3),), tuple(range(3 + n % 5)), 2)
        for n in range(20)
    ]


@pytest.mark.parametrize("packing", [False, True])
def test_threads_change_no_byte(
    policy: Path,
    rows: list[TrainingRow],
    tmp_path: Path,
    packing: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One thread or many that make pictures and tensors ready: the policy's bytes are the same."""
    written = []
    for count in ("1", "5"):
        monkeypatch.setenv("SICTL_TRAIN_LOADERS", count)
        out = tmp_path / count
        out.mkdir()
        settings = training(**SIZES, packing=packing)
        TransformersTrainer().train(rows, policy, policy, out, settings, 0)
        written.append((out / "model.safetensors").read_bytes())
    assert written[0] == written[1]


def test_threads_are_ahead_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the first is used the next ones are made, no more than asked for, and each comes in
    its turn although later ones are made sooner."""
    monkeypatch.setenv("SICTL_TRAIN_LOADERS", "3")
    begun: list[int] = []
    second = threading.Event()

    def make(number: int) -> int:
        begun.append(number)
        if number == 1:
            assert second.wait(10)
        if number == 2:
            second.set()
        return number

    made = in_threads(make, iter(range(100)))
    assert next(made) == 0
    assert second.wait(10)  # nobody has asked for 2 yet
    assert next(made) == 1
    assert max(begun) <= 4
    assert list(made) == list(range(2, 100))


def test_a_thread_s_error_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong in a thread is raised where its result would be used, and what waits is
    not begun any more."""
    monkeypatch.setenv("SICTL_TRAIN_LOADERS", "1")
    begun: list[int] = []

    def make(number: int) -> int:
        begun.append(number)
        time.sleep(0.01)
        if number == 3:
            raise RecipeError("three")
        return number

    made: Iterator[int] = in_threads(make, iter(range(100)))
    with pytest.raises(RecipeError, match="three"):
        list(made)
    assert max(begun) <= 5


def test_a_resumed_training_goes_on(policy: Path, rows: list[TrainingRow]) -> None:
    """The steps after the first three are the fourth and on, with the micro-batches of each."""
    prompts = Prompts.open(policy, SETTINGS.prompts)
    examples = make_examples(rows, prompts, SETTINGS.train)
    model = open_policy(policy, policy, SETTINGS.train)
    whole = list(batches(examples, SETTINGS, 0))
    got = [
        (chosen, [batch.examples for batch, _ in ready])
        for chosen, ready in steps(
            examples, SETTINGS, 0, lambda part: make_batch(model, prompts, SETTINGS.train, part), 3
        )
    ]
    assert [chosen for chosen, _ in got] == whole[3:]
    assert [[e for part in parts for e in part] for _, parts in got] == whole[3:]


def test_pictures_are_never_cut(policy: Path, rows: list[TrainingRow]) -> None:
    """Of whatever is not dropped, a micro-batch holds every token of every picture, at any
    `max_length`."""
    prompts = Prompts.open(policy, SETTINGS.prompts)
    model = open_policy(policy, policy, SETTINGS.train)
    lengths = {len(prompts(row.question, row.images).ids) + len(row.token_ids) for row in rows}
    for longest in sorted(lengths):
        settings = training(**SIZES, max_length=longest).train
        examples = make_examples(rows, prompts, settings)
        assert max(example.length for example in examples) <= longest
        batch = make_batch(model, prompts, settings, examples)
        asked = int((batch.inputs["input_ids"] == model.config.image_token_id).sum())
        assert asked == sum((2 + int(e.row.question[4:]) % 3) ** 2 for e in examples)
        assert torch.equal(
            batch.inputs["attention_mask"].sum(1), torch.tensor([e.length for e in examples])
        )


def test_how_many_threads() -> None:
    """As many as the place says; by default no more than this process's share of the cores."""
    assert loaders({"SICTL_TRAIN_LOADERS": "7"}) == 7
    assert 1 <= loaders({}) <= 8
    assert loaders({"LOCAL_WORLD_SIZE": "4096"}) == 1
    for wrong in ("0", "many"):
        with pytest.raises(RecipeError, match="SICTL_TRAIN_LOADERS"):
            loaders({"SICTL_TRAIN_LOADERS": wrong})
