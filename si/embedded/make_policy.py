"""Trains policy 0 of the embedded default from scratch: `python -m si.embedded.make_policy`.

A tiny model of transformers' Qwen2-VL classes with its own tokenizer (`tiny_model`) trains for some
minutes on the split `policy`, which no run uses:

1. alignment: every image token learns, through the tied output head, to predict the colour and the
   number of its 28 x 28 cell;
2. warm start: imitation of worked solutions, the same number for every family and difficulty, with
   the steps in varying orders. It deliberately stops a little above half of the answers correct:
   the self-improvement loop is to learn the rest.

The folder is a complete checkpoint for `AutoModelForImageTextToText` and `AutoProcessor`. Equal
seeds give equal weights on one machine; another machine or version of torch may round differently.
"""

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import AutoModelForImageTextToText, AutoProcessor

from si.embedded import families
from si.embedded.drawing import Puzzle
from si.embedded.tiny_model import Codec, Model, Settings, build_model, build_processor

POLICY = Path(__file__).parent / "policy"


def optimise(
    model: Model, losses: Iterable[torch.Tensor], steps: int, lr: float, label: str
) -> None:
    """Take one AdamW step per loss, with short warmup and cosine decay to a tenth of `lr`."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min(1, (s + 1) / 20) * (0.55 + 0.45 * np.cos(np.pi * min(1, s / steps))),
    )
    started, total = time.monotonic(), 0.0
    for step, loss in enumerate(losses, 1):
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        total += loss.item()
        if step % 50 == 0:
            seconds = time.monotonic() - started
            print(f"{label} step {step}/{steps} loss {total / 50:.3f} {seconds:.0f} s", flush=True)
            total = 0.0


def align(model: Model, codec: Codec, settings: Settings, seed: int) -> None:
    """Train every image token to predict its cell's colour and number through the tied head."""
    # A cone shows two numbers, with two digits, where tiles show nine: so most images are cones.
    total = settings.align_steps * settings.align_batch
    mix = {("cone", 2): total // 5, ("cone", 5): 2 * total // 5}
    mix[("tiles", 1)] = total - sum(mix.values())
    puzzles = [p for *_, p in families.compose("policy", mix, seed + 1)]
    blank = codec.tokenizer.convert_tokens_to_ids(".")
    targets = torch.tensor(
        [
            [
                [codec.tokenizer(f" {part}").input_ids[0] for part in cell] if cell else [blank] * 2
                for cell in puzzle.cells
            ]
            for puzzle in puzzles
        ]
    )  # (puzzles, 9, 2)
    head = model.get_output_embeddings()
    norm = model.model.language_model.norm

    def losses() -> Iterator[torch.Tensor]:
        for i in range(0, settings.align_steps * settings.align_batch, settings.align_batch):
            px = codec.pixels(puzzles[i : i + settings.align_batch])
            want = targets[i : i + settings.align_batch].flatten(0, 1)
            grid = torch.tensor([[1, 6, 6]]).repeat(len(px), 1)
            seen = torch.cat(list(model.get_image_features(px.flatten(0, 1), grid).pooler_output))
            logits = head(norm(seen))
            yield (
                functional.cross_entropy(logits, want[:, 0])
                + functional.cross_entropy(logits, want[:, 1])
            ) / 2

    optimise(model, losses(), settings.align_steps, settings.align_lr, "align")


def warm_start(model: Model, codec: Codec, settings: Settings, seed: int) -> int:
    """Imitate worked solutions of new queries, the same number for every family and difficulty.

    The loss falls steeply once the model has learnt to look up a colour, at a step that differs
    between seeds and machines. So a pass rate ends the training: `stop_at` of the samples of
    other queries, measured every `stop_every` steps.

    Returns:
        The number of steps taken, at most `warm_steps`.
    """
    size, taken = settings.warm_batch, 0
    probe = [p for *_, p in families.compose("policy", families.uniform_mix(200), seed + 3)]
    probe.sort(key=lambda puzzle: len(puzzle.rationale))

    def losses() -> Iterator[torch.Tensor]:
        nonlocal taken
        seen: set[str] = set()
        for block in range(settings.warm_steps // settings.stop_every):
            mix = families.uniform_mix(settings.stop_every * size)
            rows = families.compose("policy", mix, 1000 * (seed + 2) + block, seen=seen)
            puzzles = [puzzle for *_, puzzle in rows]
            for i in range(0, len(puzzles), size):
                yield mean_loss(model, codec, puzzles[i : i + size])
                taken += 1
            drawn = sample(model, codec, probe, 2)
            correct = np.mean(
                [
                    is_correct(codec, ids, p)
                    for p, ids_of in zip(probe, drawn, strict=True)
                    for ids in ids_of
                ]
            )
            print(f"step {taken}: {correct:.3f} of {2 * len(probe)} samples correct", flush=True)
            if correct >= settings.stop_at:
                return

    optimise(model, losses(), settings.warm_steps, settings.warm_lr, "warm start")
    return taken


def mean_loss(model: Model, codec: Codec, puzzles: Sequence[Puzzle]) -> torch.Tensor:
    """The mean loss over all response tokens of a batch, in two halves to reduce padding."""
    puzzles = sorted(puzzles, key=lambda puzzle: len(puzzle.rationale))
    parts, total = [], 0
    for half in (puzzles[: len(puzzles) // 2], puzzles[len(puzzles) // 2 :]):
        responses = [codec.response(puzzle.rationale) for puzzle in half]
        tokens = sum(len(ids) for ids in responses)
        prompts = [codec.prompt(puzzle.question) for puzzle in half]
        parts.append(tokens * model(**codec.batch(prompts, responses, codec.pixels(half))).loss)
        total += tokens
    return torch.stack(parts).sum() / total


# --- measuring -----------------------------------------------------------------------------


@torch.no_grad()
def sample(
    model: Model,
    codec: Codec,
    puzzles: Sequence[Puzzle],
    n: int,
    *,
    greedy: bool = False,
    batch: int = 64,
) -> list[list[list[int]]]:
    """`n` responses per puzzle at temperature 1, as token ids without the end:
    [puzzle][sample][token]."""
    out: list[list[list[int]]] = []
    for i in range(0, len(puzzles), batch):
        part = puzzles[i : i + batch]
        inputs = codec.batch(
            [codec.prompt(p.question) for p in part], [[] for _ in part], codec.pixels(part)
        )
        del inputs["labels"]
        width = inputs["input_ids"].shape[1]
        options: dict[str, Any] = {"do_sample": False} if greedy else {"num_return_sequences": n}
        made = model.generate(**inputs, **options)[:, width:].tolist()
        cut = [row[: row.index(codec.end)] if codec.end in row else row for row in made]
        out += [cut[j * n : (j + 1) * n] for j in range(len(part))]
    return out


def is_correct(codec: Codec, ids: Sequence[int], puzzle: Puzzle) -> bool:
    """Whether a response's last line has the reference answer."""
    text = codec.tokenizer.decode(ids)
    return bool(text.rsplit("\n", 1)[-1] == f"Answer: {puzzle.answer}")


def measure(
    model: Model,
    codec: Codec,
    each: int,
    n: int,
    seed: int,
    *,
    greedy: bool = False,
) -> dict[str, Any]:
    """Pass rates and mean lengths, on `each` dev queries for every family and difficulty."""
    rows = families.compose("dev", families.uniform_mix(10 * each), seed)
    rows.sort(key=lambda row: row[2])  # similar lengths in a batch
    started = time.monotonic()
    drawn = sample(model, codec, [row[3] for row in rows], n, greedy=greedy)
    seconds = time.monotonic() - started
    correct: dict[str, list[float]] = defaultdict(list)
    length: dict[str, list[int]] = defaultdict(list)
    for (_, family, difficulty, puzzle), responses in zip(rows, drawn, strict=True):
        for ids in responses:
            for key in (f"{family} {difficulty}", f"mean {difficulty}", "mean"):
                correct[key].append(is_correct(codec, ids, puzzle))
                length[key].append(len(ids) + 1)
    return {
        "pass": {key: float(np.mean(value)) for key, value in correct.items()},
        "tokens": {key: float(np.mean(value)) for key, value in length.items()},
        "samples_per_s": len(rows) * n / seconds,
    }


def table(measured: dict[str, Any], key: str = "pass", digits: int = 2) -> str:
    """A Markdown table of one figure by family and difficulty."""
    lines = ["| | 1 | 2 | 3 | 4 | 5 |", "|---|---|---|---|---|---|"]
    for name in (*families.FAMILIES, "mean"):
        cells = (f"{measured[key][f'{name} {d}']:.{digits}f}" for d in families.DIFFICULTIES)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


CARD = """\
---
license: apache-2.0
pipeline_tag: image-text-to-text
library_name: transformers
---

# Policy 0 of the embedded default

A Qwen2-VL of {parameters:,} parameters (float32) that reads small images and reasons in
steps. It is correct often enough to learn from itself, and incorrect often enough to need it. One
command trains it from scratch on two CPU cores:

    python -m si.embedded.make_policy --seed {seed}

## Architecture

transformers' `Qwen2VLForConditionalGeneration` and `Qwen2VLProcessor`: a text model of
{layers} layers, width {hidden}, {heads} heads of 32; a vision tower of {vision_depth} layers, width
{vision_width}; tied embeddings. An image of 84 x 84 pixels is 9 tokens. The tokenizer has
{vocab} tokens: all bytes, the families' words, and the numbers 0..99 as one token each.

## Data

Both families of `si/embedded/families.py`, split `policy` only, which is disjoint by content
from train, dev and test: {align_steps} steps of {align_batch} images for alignment (each
image token predicts its cell's colour and number), then {warm_steps} steps of {warm_batch} worked
solutions, the same number for every family and difficulty. Nothing else: no human data, no other
model.

## Pass rates

By family and difficulty, sampled at temperature 1 on {each} new queries of the split dev in each
cell, with {n} samples each; measured by

    python -m si.embedded.make_policy --only-measure

{passed}

Greedy decoding, the same queries:

{greedy}

Mean tokens per sampled response, including its end:

{tokens}

## Limits

It knows the two families and nothing else. It is for demonstrations and tests of the loop, and
supports no claim about large models.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Train the policy, measure it, and write its model card."""
    summary = (__doc__ or "").split("\n", 1)[0]
    parser = argparse.ArgumentParser("python -m si.embedded.make_policy", description=summary)
    parser.add_argument("--out", type=Path, default=POLICY, help="folder to write (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=80, help="dev queries per cell to measure on")
    parser.add_argument("--samples", type=int, default=4, help="samples per query")
    parser.add_argument(
        "--only-measure", action="store_true", help="only measure the policy in --out"
    )
    args = parser.parse_args(argv)

    settings = Settings()
    # One thread gives the same order of sums on any number of cores. At this size a second one
    # gains little, and loses much on a busy machine.
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    if args.only_measure:
        auto_model: Any = AutoModelForImageTextToText
        auto_processor: Any = AutoProcessor
        codec = Codec(auto_processor.from_pretrained(args.out))
        model = auto_model.from_pretrained(args.out, dtype=torch.float32).eval()
    else:
        codec = Codec(build_processor())
        model = build_model(codec.tokenizer, settings)
        print(f"{model.num_parameters():,} parameters, {len(codec.tokenizer)} tokens", flush=True)
        align(model, codec, settings, args.seed)
        settings = replace(settings, warm_steps=warm_start(model, codec, settings, args.seed))
        model.eval()
        model.save_pretrained(args.out)
        codec.processor.save_pretrained(args.out)
    torch.manual_seed(args.seed)
    sampled = measure(model, codec, args.each, args.samples, args.seed)
    greedy = measure(model, codec, args.each, 1, args.seed, greedy=True)
    parts = {
        "passed": table(sampled),
        "greedy": table(greedy),
        "tokens": table(sampled, "tokens", 1),
    }
    for name, part in parts.items():
        print(f"{name}\n{part}\n")
    print(f"mean {sampled['pass']['mean']:.3f}, {sampled['samples_per_s']:.0f} samples/s")
    if not args.only_measure:
        card = CARD.format(
            parameters=model.num_parameters(),
            vocab=len(codec.tokenizer),
            seed=args.seed,
            each=args.each,
            n=args.samples,
            **vars(settings),
            **parts,
        )
        (args.out / "README.md").write_text(card, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
