"""Our training step against TRL's SFTTrainer and the HF Trainer: tokens per second.

    .venv-engines/bin/python benchmarks/training.py [--queries 96] [--rounds 3]

All train the embedded policy's language model on the same rows with the same micro-batches in
the same order (theirs are handed over in our order and not shuffled), so they pad alike: to the
longest of a micro-batch. Same precision (float32), threads, fused AdamW, schedule and clipping;
loss on response tokens only, logged every step; nothing saved on the way. The time is that of the
whole training with its images' preprocessing, without loading and saving the policy. Tokens are
those of prompts and responses, without padding. The trainers take turns; the median of the rounds'
ratios counts, of the clock's time and of the processor's, which other loads disturb less. Their
loaders have no worker processes, which were slower on two cores (`--workers`).

Two data sets: each query once; and each eight times, as rp makes them of K = 8. Ours with its
defaults, and with packing and cached image features, which neither of the others has for images.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# Threads that spin while they wait stall a machine that has other work, tenfold: for all alike.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import transformers
import trl
from torch.utils.data import SequentialSampler

from si.config.recipe import Train
from si.datasets.dataset import Dataset
from si.datasets.sources import synth
from si.embedded import EMBEDDED_POLICY
from si.engines.batches import batches, make_examples
from si.engines.hf import Prompts, decode_images
from si.engines.port import TrainSettings
from si.engines.trainer import configure, fit, make_deterministic, open_policy
from si.records import TrainingRow
from si.store.artifact import Artifact
from si.store.folder import FolderStore

SETTINGS = TrainSettings(Train())


class Round(NamedTuple):
    """One training: tokens, seconds by the clock and of the processor, the first step's loss."""

    tokens: int
    clock: float
    processor: float
    loss: float


class Stopwatch:
    def __init__(self) -> None:
        self.begun = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self.begun[0], time.process_time() - self.begun[1]


def make_rows(count: int, copies: int) -> list[TrainingRow]:
    """The first queries of the embedded training split with their rationales as responses."""
    tokenizer = Prompts.open(EMBEDDED_POLICY, SETTINGS.prompts).tokenizer
    with tempfile.TemporaryDirectory() as folder:
        store = FolderStore(Path(folder))
        data = Dataset(Artifact(store, synth(store, "synth:embedded", {})))
        chosen = data.select([{"split": "train", "start": 0, "stop": count}])
        queries = list(data.queries(chosen))
        images = data.images(query.query_id for query in queries)
    return [
        TrainingRow(
            query.question,
            images.get(query.query_id, ()),
            (*tokenizer(query.rationale).input_ids, tokenizer.eos_token_id),
        )
        for query in queries
        for _ in range(copies)
    ]


def ours(rows: Sequence[TrainingRow], **more: Any) -> Round:
    """Our plain trainer."""
    settings = TrainSettings(Train.model_validate(more))
    prompts = Prompts.open(EMBEDDED_POLICY, settings.prompts)
    model = open_policy(EMBEDDED_POLICY, EMBEDDED_POLICY, settings.train)
    watch = Stopwatch()
    examples = make_examples(rows, prompts, settings.train)
    configure(model, prompts, settings.train)
    done = fit(model, prompts, examples, settings, 0)
    return Round(sum(step.tokens for step in done), *watch.read(), done[0].loss)


def in_our_order(rows: Sequence[TrainingRow]) -> list[TrainingRow]:
    prompts = Prompts.open(EMBEDDED_POLICY, SETTINGS.prompts)
    examples = make_examples(rows, prompts, SETTINGS.train)
    return [example.row for chosen in batches(examples, SETTINGS, 0) for example in chosen]


def as_text(prompts: Prompts, row: TrainingRow) -> dict[str, Any]:
    """A row as TRL takes it: images, prompt, completion."""
    images = decode_images(row.images)
    turns = prompts.turns(row.question, images)
    prompt = prompts.processor.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=False
    )
    return {
        "images": images,
        "prompt": prompt,
        "completion": prompts.tokenizer.decode(row.token_ids),
    }


def arguments(folder: str, workers: int) -> dict[str, Any]:
    """What both of them are told."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": SETTINGS.train.micro_batch,
        "gradient_accumulation_steps": SETTINGS.train.batch // SETTINGS.train.micro_batch,
        "num_train_epochs": SETTINGS.train.epochs,
        "learning_rate": SETTINGS.train.lr,
        "weight_decay": SETTINGS.train.weight_decay,
        "max_grad_norm": SETTINGS.train.clip,
        "warmup_steps": SETTINGS.train.warmup,
        "lr_scheduler_type": "cosine",
        "optim": "adamw_torch_fused",
        "bf16": False,
        "use_cpu": not torch.cuda.is_available(),
        "gradient_checkpointing": False,
        "dataloader_num_workers": workers,
        "remove_unused_columns": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 1,
        "disable_tqdm": True,
    }


class Counting:
    """A collator that counts the tokens which it hands on."""

    def __init__(self, collate: Callable[[list[Any]], dict[str, Any]]):
        self.collate = collate
        self.tokens = 0

    def __call__(self, examples: list[Any]) -> dict[str, Any]:
        batch = self.collate([dict(example) for example in examples])
        self.tokens += int(batch["attention_mask"].sum())
        return batch


def timed(trainer: Any, counting: Counting, tokens: int) -> Round:
    trainer._get_train_sampler = lambda dataset=None: SequentialSampler(trainer.train_dataset)
    watch = Stopwatch()
    trainer.train()
    spent = watch.read()
    assert counting.tokens in (0, tokens), (counting.tokens, tokens)  # 0: counted by workers
    return Round(tokens, *spent, trainer.state.log_history[0]["loss"])


def by_trl(rows: Sequence[TrainingRow], tokens: int, workers: int) -> Round:
    """TRL's SFTTrainer, with its own collator."""
    from datasets import Dataset as Rows

    prompts = Prompts.open(EMBEDDED_POLICY, SETTINGS.prompts)
    model = open_policy(EMBEDDED_POLICY, EMBEDDED_POLICY, SETTINGS)
    data = Rows.from_list([as_text(prompts, row) for row in rows])
    with tempfile.TemporaryDirectory() as folder:
        config = trl.SFTConfig(
            **arguments(folder, workers), max_length=None, completion_only_loss=True
        )
        trainer = trl.SFTTrainer(
            model=model, args=config, train_dataset=data, processing_class=prompts.processor
        )
        counting = Counting(trainer.data_collator)
        trainer.data_collator = counting
        return timed(trainer, counting, tokens)


def by_hf(rows: Sequence[TrainingRow], tokens: int, workers: int) -> Round:
    """transformers' Trainer, with the collator that its examples show."""
    prompts = Prompts.open(EMBEDDED_POLICY, SETTINGS.prompts)
    model = open_policy(EMBEDDED_POLICY, EMBEDDED_POLICY, SETTINGS)

    def collate(examples: list[Any]) -> dict[str, Any]:
        batch = prompts.processor(
            images=[example["images"] for example in examples],
            text=[example["prompt"] + example["completion"] for example in examples],
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        labels = batch["input_ids"].clone()
        for label, example in zip(labels, examples, strict=True):
            label[: -example["targets"]] = -100
        return dict(batch) | {"labels": labels}

    data = [as_text(prompts, row) | {"targets": len(row.token_ids)} for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        counting = Counting(collate)
        trainer = transformers.Trainer(
            model=model,
            args=transformers.TrainingArguments(**arguments(folder, workers)),
            train_dataset=data,
            data_collator=counting,
        )
        return timed(trainer, counting, tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    make_deterministic(SETTINGS.train.cpu_threads, 0)
    transformers.logging.set_verbosity_error()
    for name, copies in (("each query once", 1), ("each query eight times", 8)):
        rows = make_rows(options.queries * (8 // copies) // 4, copies)
        ordered = in_our_order(rows)
        tokens = ours(rows).tokens
        ways: dict[str, Callable[[], Round]] = {
            "ours": lambda rows=rows: ours(rows),
            "ours, packed": lambda rows=rows: ours(rows, packing=True),
            "ours, packed, kept": lambda rows=rows: ours(rows, packing=True, cache_vision=True),
            "TRL": lambda o=ordered, t=tokens: by_trl(o, t, options.workers),
            "HF Trainer": lambda o=ordered, t=tokens: by_hf(o, t, options.workers),
        }
        print(f"{name}: {len(rows)} rows, {tokens} tokens", flush=True)
        rounds: dict[str, list[Round]] = {way: [] for way in ways}
        for _ in range(options.rounds):
            for way, run in ways.items():
                done = run()
                rounds[way].append(done)
                print(
                    f"  {way:<20} {done.tokens / done.clock:7.0f} tokens/s, "
                    f"{done.tokens / done.processor:7.0f} a processor second, loss {done.loss:.4f}",
                    flush=True,
                )
        for way in list(ways)[:3]:
            for other in ("TRL", "HF Trainer"):
                pairs = list(zip(rounds[way], rounds[other], strict=True))
                clock = statistics.median(b.clock / a.clock for a, b in pairs)
                processor = statistics.median(b.processor / a.processor for a, b in pairs)
                print(
                    f"{name}: {way} / {other}: ratio {clock:.2f}, processor {processor:.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
