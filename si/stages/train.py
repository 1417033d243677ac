"""Train: the next policy, from the examples of this iteration (or of all so far)."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from si.datasets.dataset import Dataset
from si.engines.port import Trainer
from si.errors import NothingToTrain, RecipeError
from si.plugins import load
from si.randomness import keyed_seed
from si.records import TrainingRow, render_prompt
from si.stages.job import Job, ShardFunction
from si.store.checkpoints import forget, kept
from si.store.commit import Output

TRAINERS = {
    "transformers": "si.engines.trainer:TransformersTrainer",
    "deepspeed": "si.engines.deepspeed:DeepSpeedTrainer",
}
EXAMPLES_FILE = "examples.parquet"
# Settings of other sections that the trainer makes prompts by.
PROMPTS = ("sampling.system_prompt", "sampling.image_tokens", "model.family")


def train(job: Job) -> ShardFunction:
    """The stage: examples and a policy to the next policy, as a Hugging Face folder.

    Settings: train, and of sampling and model what makes the prompts. Params: iteration,
    steps (int or None), seed. Inputs: data, start, base, examples-1 to examples-n.
    """

    # Threads that spin while they wait stall a machine that has other work; torch reads this when
    # it is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    def do(shard: int) -> Output | None:
        rows = _rows(job)
        settings: dict[str, Any] = {
            **job.settings["train"],
            "steps": job.params["steps"],
            **{name.partition(".")[2]: v for name, v in job.settings.items() if name in PROMPTS},
        }
        trainer: Trainer = load("trainer", settings["trainer"], TRAINERS)()
        start = job.folder("start")
        same = job.input("base").manifest.content == job.input("start").manifest.content
        base = start if same else job.folder("base")
        out = job.scratch / "trained"
        out.mkdir()
        seed = keyed_seed(job.params["seed"], "train", job.params["iteration"])
        address = job.spec.address
        part, attempt = machine()
        with kept(job.store, address, job.scratch / "kept", pause(), part, attempt) as checkpoints:
            facts = trainer.train(rows, start, base, out, settings, seed, checkpoints=checkpoints)
        speed = facts.pop("provenance", {})
        files: dict[str, Any] = {path.relative_to(out).as_posix(): path for path in _files(out)}
        if not files:
            return None  # one of several processes that torchrun has started, but not the first
        provenance = {"train": speed} if speed else {}
        return Output(files, len(rows), facts, provenance, lambda: forget(job.store, address))

    return do


PAUSE = "SICTL_TRAIN_CHECKPOINT_MINUTES"


def pause(environment: Mapping[str, str] = os.environ) -> float:
    """Seconds between two checkpoints, as the place says; half an hour by default.

    Raises:
        RecipeError: if it is no number of minutes.
    """
    text = environment.get(PAUSE) or "30"
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1
    if not 0 <= minutes < math.inf:
        raise RecipeError(f"{PAUSE}={text} is no number of minutes", "", "Give 0 or more.")
    return 60 * minutes


def machine(environment: Mapping[str, str] = os.environ) -> tuple[tuple[int, int], str]:
    """Which of the machines that train together this is, of how many, and what this attempt of
    theirs is called: as the place says (docs/engines.md), or torchrun."""
    names = ("SICTL_TRAIN_NODE", "SICTL_TRAIN_NODES", "SICTL_TRAIN_MASTER")
    if not environment.get(names[1]):
        names = ("GROUP_RANK", "GROUP_WORLD_SIZE", "TORCHELASTIC_RUN_ID")
    which, of, attempt = (environment.get(name, "") for name in names)
    if which.isdecimal() and of.isdecimal() and int(which) < int(of) > 1:
        return (int(which), int(of)), attempt
    return (0, 1), ""


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _rows(job: Job) -> list[TrainingRow]:
    """All examples with their questions and images, in stored order.

    Raises:
        NothingToTrain: if there are none.
    """
    columns = ["query_id", "token_ids", "prefix_len"]
    pool = [artifact.tables(EXAMPLES_FILE, columns) for artifact in job.inputs("examples")]
    examples = [row for table in pool for row in table.to_pylist()]
    if not examples:
        raise NothingToTrain(
            f"There are no examples to train iteration {job.params['iteration']} on",
            ", ".join(artifact.address for artifact in job.inputs("examples")),
            "Sample more per query (--k), or begin with easier queries or a better policy.",
        )
    data = Dataset(job.input("data"))
    wanted = {example["query_id"] for example in examples}
    template = job.settings.get("sampling.prompt_template", "{question}")
    questions = {
        row["query_id"]: render_prompt(template, row["question"])
        for row in data.table(columns=["query_id", "question"]).to_pylist()
    }
    images = data.images(wanted)
    return [
        TrainingRow(
            questions[example["query_id"]],
            images.get(example["query_id"], ()),
            tuple(example["token_ids"]),
            example["prefix_len"],
        )
        for example in examples
    ]
