"""Train: the next policy, from the examples of this iteration (or of all so far)."""

import math
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from si.config.recipe import Recipe, Train
from si.config.section import LATER
from si.datasets.dataset import Dataset
from si.engines.port import PromptSettings, Trainer, TrainSettings
from si.engines.threads import sleep_while_waiting
from si.errors import NothingToTrain, RecipeError
from si.metrics import ends
from si.plugins import load_class
from si.randomness import keyed_seed
from si.records import TrainingRow, render_prompt
from si.stages import stage
from si.stages.job import Job, ShardFunction
from si.stages.stage import code_of
from si.store.checkpoints import checkpointing, delete_checkpoints
from si.store.commit import Output

TRAINERS = {
    "transformers": "si.engines.trainer:TransformersTrainer",
    "deepspeed": "si.engines.deepspeed:DeepSpeedTrainer",
}
EXAMPLES_FILE = "examples.parquet"
# Fields of the recipe's section `train` that the loop resolves into inputs and steps.
RESOLVED = ("init", "pool", "match_steps")


class Settings(stage.Settings):
    """What training reads of the recipe: its own section, and what makes the prompts."""

    train: Train = Train()
    system_prompt: str = Field("", alias="sampling.system_prompt")
    prompt_template: Annotated[str, LATER] = Field("{question}", alias="sampling.prompt_template")
    image_tokens: Annotated[int | None, LATER] = Field(None, alias="sampling.image_tokens")
    family: Annotated[str, LATER] = Field("auto", alias="model.family")

    @classmethod
    def of(cls, recipe: Recipe) -> "Settings":
        return cls(
            train=recipe.train,
            system_prompt=recipe.sampling.system_prompt,
            prompt_template=recipe.sampling.prompt_template,
            image_tokens=recipe.sampling.image_tokens,
            family=recipe.model.family,
            code=code_of(recipe.model.family),
        )

    def identity(self) -> dict[str, Any]:
        values = super().identity()
        unread = RESOLVED if self.train.trainer == "deepspeed" else (*RESOLVED, "deepspeed")
        for name in unread:
            del values["train"][name]
        return values


class Params(stage.Params):
    """Iteration, seed, and how many gradient steps; None for as many as the examples make."""

    iteration: int
    steps: int | None
    seed: int


class Facts(stage.Facts):
    """What a trainer says: steps, examples, tokens, dropped examples, losses (one a step)."""

    steps: int = 0
    examples: int = 0
    tokens: int = 0
    dropped: int = 0
    losses: list[float] = Field([])

    def describe(self) -> str:
        found = ends(self.losses)
        if found is None:
            return f"{self.steps} steps"
        first, last = found
        return f"{self.steps} steps, mean loss {first:.3f} -> {last:.3f} (first and last quarter)"


def train(job: Job[Settings, Params]) -> ShardFunction:
    """Stage function: examples and a policy to the next policy, as a Hugging Face folder.

    Inputs: data, start, base, examples-1 to examples-n.
    """

    sleep_while_waiting()  # before torch is imported

    def do(shard: int) -> Output | None:
        rows = _rows(job)
        asked = job.settings
        prompts = PromptSettings(asked.system_prompt, asked.image_tokens, asked.family)
        settings = TrainSettings(asked.train, job.params.steps, prompts)
        trainer = load_class("trainer", asked.train.trainer, TRAINERS, Trainer)()  # type: ignore[type-abstract]
        start = job.folder("start")
        same = job.input("base").manifest.content == job.input("start").manifest.content
        base = start if same else job.folder("base")
        out = job.scratch / "trained"
        out.mkdir()
        seed = keyed_seed(job.params.seed, "train", job.params.iteration)
        address = job.spec.address
        part, attempt = machine()
        kept = checkpointing(job.store, address, job.scratch / "kept", pause(), part, attempt)
        with kept as checkpoints:
            done = trainer.train(rows, start, base, out, settings, seed, checkpoints=checkpoints)
        files: dict[str, Any] = {path.relative_to(out).as_posix(): path for path in _files(out)}
        if not files:
            return None  # one of several processes that torchrun has started, but not the first
        provenance = {"train": done.provenance} if done.provenance else {}
        forget = partial(delete_checkpoints, job.store, address)
        return Output(files, len(rows), done.facts, provenance, forget)

    return do


PAUSE = "SICTL_TRAIN_CHECKPOINT_MINUTES"


def pause(environment: Mapping[str, str] = os.environ) -> float:
    """Seconds between two checkpoints, from the environment; half an hour by default.

    Raises:
        RecipeError: if it is not a number of minutes.
    """
    text = environment.get(PAUSE) or "30"
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1
    if not 0 <= minutes < math.inf:
        raise RecipeError(f"{PAUSE}={text} is not a number of minutes", "", "Set 0 or more.")
    return 60 * minutes


def machine(environment: Mapping[str, str] = os.environ) -> tuple[tuple[int, int], str]:
    """This machine's index among those that train together, their number, and the name of their
    attempt: from the environment (docs/engines.md), or from torchrun."""
    names = ("SICTL_TRAIN_NODE", "SICTL_TRAIN_NODES", "SICTL_TRAIN_MASTER")
    if not environment.get(names[1]):
        names = ("GROUP_RANK", "GROUP_WORLD_SIZE", "TORCHELASTIC_RUN_ID")
    which, of, attempt = (environment.get(name, "") for name in names)
    if which.isdecimal() and of.isdecimal() and int(which) < int(of) > 1:
        return (int(which), int(of)), attempt
    return (0, 1), ""


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _rows(job: Job[Settings, Params]) -> list[TrainingRow]:
    """All examples with their questions and images, in stored order.

    Raises:
        NothingToTrain: if there are none.
    """
    columns = ["query_id", "token_ids", "prefix_len"]
    pool = [artifact.tables(EXAMPLES_FILE, columns) for artifact in job.inputs("examples")]
    examples = [row for table in pool for row in table.to_pylist()]
    if not examples:
        raise NothingToTrain(
            f"There are no examples to train iteration {job.params.iteration} on",
            ", ".join(artifact.address for artifact in job.inputs("examples")),
            "Sample more per query (--k), or begin with easier queries or a better policy.",
        )
    data = Dataset(job.input("data"))
    wanted = {example["query_id"] for example in examples}
    questions = {
        row["query_id"]: render_prompt(job.settings.prompt_template, row["question"])
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
