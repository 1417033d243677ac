"""Train: the next policy, from the examples of this iteration (or of all so far)."""

from pathlib import Path
from typing import Any

from si.artifacts import Output
from si.dataset import Dataset
from si.errors import NothingToTrain
from si.job import Job, ShardFunction
from si.plugins import load
from si.ports import Trainer
from si.randomness import keyed_seed
from si.records import TrainingRow

TRAINERS = {
    "transformers": "si.adapters.trainer:TransformersTrainer",
    "deepspeed": "si.adapters.deepspeed:DeepSpeedTrainer",
}
EXAMPLES_FILE = "examples.parquet"


def train(job: Job) -> ShardFunction:
    """The stage: examples and a policy to the next policy, as a Hugging Face folder.

    Settings: train, and sampling.system_prompt if prompts have one. Params: iteration,
    steps (int or None), seed. Inputs: data, start, base, examples-1 to examples-n.
    """

    def do(shard: int) -> Output | None:
        rows = _rows(job)
        settings: dict[str, Any] = {
            **job.settings["train"],
            "steps": job.params["steps"],
            "system_prompt": job.settings.get("sampling.system_prompt", ""),
        }
        trainer: Trainer = load("trainer", settings["trainer"], TRAINERS)()
        start = job.folder("start")
        same = job.input("base").manifest.content == job.input("start").manifest.content
        base = start if same else job.folder("base")
        out = job.scratch / "trained"
        out.mkdir()
        seed = keyed_seed(job.params["seed"], "train", job.params["iteration"])
        facts = trainer.train(rows, start, base, out, settings, seed)
        files: dict[str, Any] = {path.relative_to(out).as_posix(): path for path in _files(out)}
        if not files:
            return None  # one of several processes that torchrun has started, but not the first
        return Output(files, len(rows), facts)

    return do


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
    questions = {
        row["query_id"]: row["question"]
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
