"""Training: the transformers trainer with a tiny model, and the stage around it."""

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

from si.config.recipe import Lora
from si.engines import trainer as adapter
from si.engines import writing
from si.engines.batches import make_batch, make_examples, shuffled, summed_loss
from si.engines.hf import is_adapter, load_processor
from si.engines.port import Trained, Trainer, TrainSettings
from si.engines.trainer import TransformersTrainer, learning_rate
from si.engines.transformers import TransformersSampler
from si.errors import NothingToTrain, RecipeError, SiError
from si.records import EXAMPLES, IMAGES, QUERIES, Request, TrainingRow
from si.stages.job import Job
from si.stages.train import train
from si.store.checkpoints import Checkpoints
from si.store.commit import Output, announce, commit_shard, finish
from si.store.folder import FolderStore
from si.store.keys import Ref, Spec
from tests.unit import tiny
from tests.unit.settings import sampling, training

SETTINGS: dict[str, Any] = {"batch": 8, "micro_batch": 8, "lr": 5e-3, "cpu_threads": 1}
LORA = Lora(r=4, alpha=8).model_dump(mode="json")
GREEDY = sampling(temperature=0.0)


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny policy with small random weights, as before any training."""
    return tiny.build(tmp_path_factory.mktemp("policy"), spread=0.1)


@pytest.fixture(scope="session")
def rows(policy: Path) -> list[TrainingRow]:
    """Twelve examples of three lengths about four pictures, each with a prefix of two tokens."""
    tokenizer = load_processor(policy).tokenizer
    rng = random.Random(1)
    made = []
    for number in range(12):
        words = " ".join(rng.choice(("red", "blue", "plus")) for _ in range(2 + number % 3))
        ids = (*tokenizer(f"Answer {words}").input_ids, tokenizer.eos_token_id)
        made.append(TrainingRow(f"red {number % 4}", (tiny.picture(number % 4),), ids, 2))
    return made


@pytest.fixture
def fit(policy: Path, tmp_path: Path) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """Trains into a fresh folder: `fit(rows, steps=3)` gives the folder and the facts."""
    count = iter(range(100))

    def run(
        rows: Sequence[TrainingRow], start: Path = policy, seed: int = 0, **more: Any
    ) -> tuple[Path, dict[str, Any]]:
        out = tmp_path / f"out{next(count)}"
        out.mkdir()
        settings = training(**{**SETTINGS, **more})
        done = TransformersTrainer().train(rows, start, policy, out, settings, seed)
        return out, {**done.facts, "provenance": done.provenance}

    return run


Fit = Callable[..., tuple[Path, dict[str, Any]]]


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


# --- learning -------------------------------------------------------------------------------


def test_what_can_be_memorised_is_memorised(
    fit: Fit, rows: list[TrainingRow], policy: Path
) -> None:
    """The loss falls to near 0 on four rows, and the policy then says them greedily."""
    few = rows[:4]
    out, facts = fit(few, batch=4, steps=60, lr=2e-2)
    assert facts["losses"][0] > 4
    assert facts["losses"][-1] < 0.1
    sampler = TransformersSampler(out, out, GREEDY)
    requests = [Request(row.question, row.images, (0,)) for row in few]
    said = [samples[0].token_ids for samples in sampler.sample(requests)]
    assert said == [row.token_ids for row in few]


def test_facts(fit: Fit, rows: list[TrainingRow]) -> None:
    """Facts say what was done: two epochs of 12 in batches of 8 are three steps."""
    _, facts = fit(rows, epochs=2)
    assert facts["steps"] == len(facts["losses"]) == 3
    assert facts["examples"] == 12
    assert facts["tokens"] == sum(len(row.token_ids) for row in rows)
    assert facts["dropped"] == 0
    assert facts["adapter"] is False


def test_steps_override_epochs(fit: Fit, rows: list[TrainingRow]) -> None:
    """`steps` is the number of gradient steps, however often the examples have to be seen."""
    _, facts = fit(rows[:3], steps=5)
    assert facts["steps"] == 5


def test_shuffling_is_keyed_and_complete() -> None:
    """Each epoch has every example once, in its own order, which the seed alone decides."""
    one, again, other = (list(islice(shuffled(20, seed), 40)) for seed in (1, 1, 2))
    assert one == again != other
    assert sorted(one[:20]) == sorted(one[20:]) == list(range(20))
    assert one[:20] != one[20:]


def test_learning_rate_rises_and_falls() -> None:
    """It rises linearly to the peak, then falls by a cosine, and is never 0 where it is used."""
    rates = [learning_rate(step, 20, 1.0, 0.2) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 0 < rates[-1] < 0.02
    assert learning_rate(0, 1, 1.0, 0.05) == 1.0


# --- the loss -------------------------------------------------------------------------------


def loss_of(policy: Path, rows: Sequence[TrainingRow], **more: Any) -> float:
    """The mean loss of one batch, as the trainer computes it."""
    settings = training(**{**SETTINGS, **more}).train
    prompts = adapter.Prompts(load_processor(policy))
    examples = make_examples(rows, prompts, settings)
    model = adapter.open_policy(policy, policy, settings).eval()
    batch = make_batch(model, prompts, settings, examples)
    with torch.no_grad():
        total = float(summed_loss(model, batch, torch.device("cpu"), torch.float32))
    return total / sum(example.targets for example in examples)


def test_loss_is_that_of_the_sampler(policy: Path, rows: list[TrainingRow]) -> None:
    """The loss is minus the log-probability that sampling reports, over the same tokens."""
    sampler = TransformersSampler(policy, policy, GREEDY)
    requests = [Request(row.question, row.images, (0,), (), 9) for row in rows[:4]]
    said = [samples[0] for samples in sampler.sample(requests)]
    imitated = [
        TrainingRow(request.question, request.images, one.token_ids)
        for request, one in zip(requests, said, strict=True)
    ]
    tokens = sum(len(one.token_ids) for one in said)
    want = -sum(one.logprob for one in said) / tokens
    assert loss_of(policy, imitated) == pytest.approx(want, abs=1e-4)


def test_reported_loss_is_the_mean_over_tokens(
    fit: Fit, policy: Path, rows: list[TrainingRow]
) -> None:
    """The first step's loss is the untrained policy's mean over the batch's response tokens."""
    _, facts = fit(rows, batch=12, micro_batch=5, steps=1)
    assert facts["losses"][0] == pytest.approx(loss_of(policy, rows), abs=1e-3)


def test_mask_prefix(policy: Path, rows: list[TrainingRow]) -> None:
    """Masked, a prefix's tokens are context and no target; otherwise they are learnt."""
    row = rows[0]
    whole = loss_of(policy, [row]) * len(row.token_ids)
    rest = loss_of(policy, [row], mask_prefix=True) * (len(row.token_ids) - 2)
    prefix = loss_of(policy, [replace(row, token_ids=row.token_ids[:2])]) * 2
    assert rest + prefix == pytest.approx(whole, abs=1e-3)
    assert prefix > 1


@pytest.mark.parametrize("micro", [1, 3, 48])
def test_micro_batches_change_nothing(fit: Fit, rows: list[TrainingRow], micro: int) -> None:
    """Weights after three steps are the same, rounding aside, however a batch is cut up."""
    whole, facts = fit(rows, micro_batch=8)
    cut, other = fit(rows, micro_batch=micro)
    assert other["losses"] == pytest.approx(facts["losses"], abs=2e-4)
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(cut)[name], tensor, atol=2e-3, rtol=0)


def test_overlong_examples_are_dropped_whole(fit: Fit, rows: list[TrainingRow]) -> None:
    """Examples over `max_length`, images included, are left out and counted, never cut."""
    long = replace(rows[0], token_ids=rows[0].token_ids * 20)
    _, facts = fit([*rows[:4], long, long], max_length=100)
    assert (facts["examples"], facts["dropped"]) == (4, 2)
    assert facts["tokens"] == sum(len(row.token_ids) for row in rows[:4])
    with pytest.raises(NothingToTrain, match="longer than 20"):
        fit(rows, max_length=20)


def test_pictures_are_prepared_once(
    fit: Fit, rows: list[TrainingRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many examples and epochs a query has, its pictures are processed once."""
    made: list[str] = []
    make = adapter.Prompts._make

    def counted(self: adapter.Prompts, question: str, images: tuple[bytes, ...]) -> Any:
        made.append(question)
        return make(self, question, images)

    monkeypatch.setattr(adapter.Prompts, "_make", counted)
    fit(rows)
    assert sorted(made) == sorted({row.question for row in rows})


# --- what changes ---------------------------------------------------------------------------


def test_vision_stays_frozen(fit: Fit, rows: list[TrainingRow], policy: Path) -> None:
    """By default only the language model changes, its tied embeddings included."""
    before, after = weights(policy), weights(fit(rows)[0])
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any("visual" in name for name in changed)
    assert changed == {name for name in before if "visual" not in name}
    assert any("embed_tokens" in name for name in changed)


def test_vision_trains_if_asked(fit: Fit, rows: list[TrainingRow], policy: Path) -> None:
    """With `freeze_vision: false` vision tower and projector change too."""
    before, after = weights(policy), weights(fit(rows, freeze_vision=False)[0])
    name = next(name for name in before if "patch_embed" in name)
    assert not torch.equal(before[name], after[name])


def test_bfloat16_steps_add_up(fit: Fit, rows: list[TrainingRow], policy: Path) -> None:
    """In bfloat16 steps too small for the format still add up, and the folder is written in it."""
    out, _ = fit(rows, dtype="bfloat16", steps=30, batch=12, lr=4e-4)
    before, after = weights(policy), weights(out)
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    norms = [name for name in before if "norm" in name and "visual" not in name]
    # Each step is a tenth of the distance from 1 to the next number below it.
    assert norms
    assert all((before[name] == 1).all() and (after[name] != 1).any() for name in norms)


# --- bytes ----------------------------------------------------------------------------------


def test_equal_inputs_equal_bytes(fit: Fit, rows: list[TrainingRow]) -> None:
    """Twice the same training gives the same bytes in every file; another seed does not."""
    one, again, other = fit(rows)[0], fit(rows)[0], fit(rows, seed=1)[0]
    assert digests(one) == digests(again)
    assert digests(one)["model.safetensors"] != digests(other)["model.safetensors"]


def test_a_policy_folder_is_complete(fit: Fit, rows: list[TrainingRow], policy: Path) -> None:
    """Tokenizer, processor and chat template go with the weights, byte by byte."""
    before, after = digests(policy), digests(fit(rows)[0])
    assert after.keys() == before.keys()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert after[name] == before[name]


def one_value(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors[name][0, 0] += 1e-3


def gone(tensors: dict[str, torch.Tensor], name: str) -> None:
    del tensors[name]


def one_more(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors[name + ".extra"] = torch.zeros(1)


@pytest.mark.parametrize("spoil", [one_value, gone, one_more])
def test_a_bad_write_is_caught(
    fit: Fit, rows: list[TrainingRow], monkeypatch: pytest.MonkeyPatch, spoil: Any
) -> None:
    """If what was written is not what was trained, training fails and names the tensor."""
    write = writing.write_policy

    def fake_write(model: Any, start: Path, out: Path) -> None:
        """A fake of a writer that spoils one tensor."""
        write(model, start, out)
        tensors = weights(out)
        spoil(tensors, next(name for name in sorted(tensors) if "down_proj" in name))
        save_file(tensors, out / "model.safetensors", {"format": "pt"})

    monkeypatch.setattr(writing, "write_policy", fake_write)
    with pytest.raises(SiError) as caught:
        fit(rows[:2], steps=1)
    assert "down_proj" in caught.value.detail


def test_a_bad_adapter_is_caught(
    fit: Fit, rows: list[TrainingRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter that was not written as trained is caught too."""
    write = writing.write_policy

    def fake_write(model: Any, start: Path, out: Path) -> None:
        """A fake of a writer that forgets what was learnt."""
        write(model, start, out)
        tensors = load_file(out / "adapter_model.safetensors")
        save_file(
            {name: torch.zeros_like(tensor) for name, tensor in tensors.items()},
            out / "adapter_model.safetensors",
            {"format": "pt"},
        )

    monkeypatch.setattr(writing, "write_policy", fake_write)
    with pytest.raises(SiError, match="not written as it was trained"):
        fit(rows[:2], steps=1, lora=LORA)


# --- LoRA -----------------------------------------------------------------------------------


def test_lora_from_base_to_sampling(fit: Fit, rows: list[TrainingRow], policy: Path) -> None:
    """An adapter learns, is written alone and without paths, and samples on its base."""
    few = rows[:4]
    out, facts = fit(few, lora={**LORA, "r": 16, "alpha": 32}, batch=4, steps=80, lr=3e-2)
    assert facts["adapter"] is True
    assert is_adapter(out)
    assert facts["losses"][-1] < 0.7 * facts["losses"][0]
    assert not (out / "model.safetensors").exists()
    assert not (out / "config.json").exists()
    assert (out / "tokenizer.json").exists()
    assert str(policy) not in (out / "adapter_config.json").read_text()
    assert not any("visual" in name for name in load_file(out / "adapter_model.safetensors"))

    requests = [Request(row.question, row.images, (0,)) for row in few]
    adapted = list(TransformersSampler(out, policy, GREEDY).sample(requests))
    plain = list(TransformersSampler(policy, policy, GREEDY).sample(requests))
    assert adapted != plain
    assert sum(s[0].logprob for s in adapted) > sum(s[0].logprob for s in plain)


def test_lora_goes_on_with_the_same_adapter(fit: Fit, rows: list[TrainingRow]) -> None:
    """Trained on, an adapter keeps its tensors' names and number: nothing is stacked."""
    first, _ = fit(rows, lora=LORA, steps=5)
    second, facts = fit(rows, start=first, lora=LORA, steps=5)
    one, two = (load_file(f / "adapter_model.safetensors") for f in (first, second))
    assert one.keys() == two.keys()
    assert any(not torch.equal(one[name], two[name]) for name in one)
    config = [json.loads((f / "adapter_config.json").read_text()) for f in (first, second)]
    assert config[0]["r"] == config[1]["r"] == 4
    assert facts["adapter"] is True
    assert digests(first).keys() == digests(second).keys()


def test_lora_bytes(fit: Fit, rows: list[TrainingRow]) -> None:
    """An adapter's files, its random start included, are the same bytes each time."""
    assert digests(fit(rows, lora=LORA)[0]) == digests(fit(rows, lora=LORA)[0])


def test_an_adapter_needs_lora(fit: Fit, rows: list[TrainingRow]) -> None:
    """To start a full fine-tune from an adapter is refused in words."""
    first, _ = fit(rows, lora=LORA, steps=1)
    with pytest.raises(RecipeError, match=r"does not set train\.lora"):
        fit(rows, start=first)


# --- the stage ------------------------------------------------------------------------------


class ScriptedTrainer(Trainer):
    """A fake trainer: it writes down what it was given."""

    def train(
        self,
        rows: Sequence[TrainingRow],
        start: Path,
        base: Path,
        out: Path,
        settings: TrainSettings,
        seed: int,
        checkpoints: Checkpoints | None = None,
    ) -> Trained:
        (out / "deeper").mkdir()
        told = {
            "rows": [[r.question, [i.decode() for i in r.images], r.token_ids] for r in rows],
            "start": (start / "weights").read_text(),
            "base": (base / "weights").read_text(),
            "steps": settings.steps,
            "lr": settings.train.lr,
            "system_prompt": settings.prompts.system_prompt,
            "seed": seed,
        }
        (out / "deeper" / "told.json").write_text(json.dumps(told))
        return Trained(steps=1, losses=(0.25,), provenance={"seconds": [0.5]})


def commit(store: FolderStore, stage: str, name: str, output: Output) -> Ref:
    spec = Spec(stage, name, {}, {"name": name}, {})
    announce(store, spec)
    commit_shard(store, spec, 0, output)
    manifest = finish(store, spec)
    assert manifest is not None
    return manifest.ref


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    """Makes training jobs for the scripted trainer: `job(["q1", "q0"], ["q1"])`, a list of
    query ids for each iteration of the pool."""
    store = FolderStore(tmp_path / "store")
    names = ["q0", "q1"]
    like = {"family": "f", "answer": "1", "answer_kind": "text", "difficulty": 1, "rationale": None}
    queries = [{**like, "query_id": name, "question": f"{name}?"} for name in names]
    images = [{"query_id": name, "images": [name.encode()]} for name in names]
    tables = {
        "queries.parquet": pa.Table.from_pylist(queries, QUERIES),
        "images.parquet": pa.Table.from_pylist(images, IMAGES),
    }
    data = commit(store, "synth", "data", Output(dict(tables), 2, {"split": "train"}))
    base = commit(store, "fetch", "base", Output({"weights": b"base"}, 1))
    start = commit(store, "fetch", "start", Output({"weights": b"start"}, 1))

    def make(*pool: Sequence[str], **settings: Any) -> Job:
        inputs = {"data": data, "start": start, "base": base}
        for number, ids in enumerate(pool, 1):
            rows = [
                {
                    "query_id": name,
                    "round": 1,
                    "prefix_id": "",
                    "sample": i,
                    "copy": 0,
                    "token_ids": [number, i],
                    "prefix_len": 0,
                    "text": "",
                }
                for i, name in enumerate(ids)
            ]
            table = pa.Table.from_pylist(rows, EXAMPLES)
            inputs[f"examples-{number}"] = commit(
                store, "rebalance", f"e{number}", Output({"examples.parquet": table}, len(rows))
            )
        spec = Spec(
            "train",
            "test",
            {"train": {"trainer": "tests.unit.test_train:ScriptedTrainer", "lr": 1.0}, **settings},
            {"iteration": 2, "steps": 7, "seed": 3},
            inputs,
        )
        return Job(store, spec, tmp_path / "scratch")

    return make


def test_the_stage_hands_over_and_collects(job: Callable[..., Job]) -> None:
    """The trainer gets the pool's rows in order with questions and pictures, both policies,
    steps and prompt; every file it writes is part of the artefact, and its speed lies beside."""
    made = job(["q1", "q0"], ["q1"], **{"sampling.system_prompt": "Be brief."})
    output = train(made)(0)
    assert list(output.files) == ["deeper/told.json"]
    assert output.rows == 3
    counts = {"steps": 1, "examples": 0, "tokens": 0, "dropped": 0, "adapter": False}
    curves = {"losses": [0.25], "learning_rates": [], "grad_norms": []}
    assert output.facts == counts | curves
    assert output.provenance == {"train": {"seconds": [0.5]}}
    path = output.files["deeper/told.json"]
    assert isinstance(path, Path)
    told = json.loads(path.read_text())
    assert told["rows"] == [
        ["q1?", ["q1"], [1, 0]],
        ["q0?", ["q0"], [1, 1]],
        ["q1?", ["q1"], [2, 0]],
    ]
    assert (told["start"], told["base"]) == ("start", "base")
    assert (told["steps"], told["lr"], told["system_prompt"]) == (7, 1.0, "Be brief.")


def test_nothing_to_train(job: Callable[..., Job]) -> None:
    """Without examples the stage stops by name; no policy is written."""
    with pytest.raises(NothingToTrain, match="iteration 2"):
        train(job([]))(0)
