"""Makes policy 0 of the embedded default from nothing: `python -m si.embedded.make_policy`.

A tokenizer of its own, a tiny model of transformers' Qwen2-VL classes, and some
minutes of training on the split `policy`, which no run ever sees again:

1. alignment: every image token is taught, through the tied output head, to say
   the colour and the number of its 28 x 28 cell;
2. warm start: imitation of worked solutions, equally many of every family and
   difficulty, in varying orders of steps. It stops a little above half right on purpose: what is
   left to learn is the self-improvement loop's work.

The folder is a complete checkpoint for `AutoModelForImageTextToText` and
`AutoProcessor`. Equal seeds give equal weights on one machine; another machine
or version of torch may round differently.
"""

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch.nn import functional
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from si.embedded import families
from si.embedded.families import COLOURS, Puzzle

POLICY = Path(__file__).parent / "policy"

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
PAD, START, END, VISION_START, VISION_END, IMAGE, VIDEO = SPECIAL

# transformers' models and processors carry no useful types.
Model = Any
Processor = Any

# A number is cut into groups of two digits from its right end, so that 0..99 are one
# token each, sign and leading space included; `Answer:` is one token too.
SPLIT = r"Answer:| ?-?\d{1,2}(?=(?:\d\d)*(?!\d))| ?[A-Za-z]+| ?[^\sA-Za-z\d]|\s"

CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part['type'] == 'text' -%}{{ part['text'] }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}
"""


@dataclass(frozen=True)
class Settings:
    """Everything that decides what policy 0 becomes."""

    hidden: int = 96
    layers: int = 3
    heads: int = 3
    vision_width: int = 64
    vision_depth: int = 2
    align_steps: int = 400
    align_batch: int = 64
    align_lr: float = 3e-3
    warm_steps: int = 800
    warm_batch: int = 48
    warm_lr: float = 2e-3
    stop_at: float = 0.56
    stop_every: int = 40


def build_tokenizer() -> Any:
    """The tokenizer: bytes, the families' words, and the numbers 0..99 as single tokens.

    There are no merges: a word is either in the vocabulary or spelled in bytes, so any
    text survives encoding and decoding.
    """
    words = {"Answer:", " =", " *", " +", " -", "+", "-", "user", "assistant", "system"}
    splitter = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    mix = families.uniform_mix(400)
    for _, _, _, puzzle in families.compose("policy", mix, seed=0):
        for text in (puzzle.question, puzzle.rationale):
            words.update(word for word, _ in splitter.pre_tokenize_str(text))
    words |= {f" {colour}" for colour in COLOURS}
    words = {word for word in words if not any(c.isdigit() for c in word)}
    numbers = [f" {n}" for n in range(100)] + [f"{n:02d}" for n in range(100)]
    numbers += [f" -{n}" for n in range(1, 100)]

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    vocab: dict[str, int] = {}
    for piece in (*sorted(pre_tokenizers.ByteLevel.alphabet()), *sorted(words), *numbers):
        for spelled, _ in byte_level.pre_tokenize_str(piece) if len(piece) > 1 else [(piece, 0)]:
            vocab.setdefault(spelled, len(vocab))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([splitter, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    make: Any = PreTrainedTokenizerFast
    return make(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens=[START, VISION_START, VISION_END, IMAGE, VIDEO],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def build_processor() -> Processor:
    """The tokenizer with Qwen2-VL's own image processor, for images of 84 x 84 and up."""
    pixels = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 64}
    norm = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    make: Any = Qwen2VLProcessor
    return make(
        image_processor=Qwen2VLImageProcessor(size=pixels, **norm),
        tokenizer=build_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(size=pixels, **norm),
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: Any, settings: Settings) -> Model:
    """A fresh model with random weights, drawn from torch's global generator."""
    ids: dict[str, Any] = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": settings.hidden,
            "intermediate_size": 4 * settings.hidden,
            "num_hidden_layers": settings.layers,
            "num_attention_heads": settings.heads,
            "num_key_value_heads": settings.heads,
            "max_position_embeddings": 512,
            "initializer_range": 0.05,
            "tie_word_embeddings": True,
            # Sections for time, row and column; they sum to half of a head's width.
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [8, 4, 4],
            },
            "bos_token_id": None,
            "eos_token_id": ids[END],
            "pad_token_id": ids[PAD],
        },
        vision_config={
            "depth": settings.vision_depth,
            "embed_dim": settings.vision_width,
            "hidden_size": settings.hidden,
            "num_heads": 2,
            "mlp_ratio": 4,
        },
        image_token_id=ids[IMAGE],
        video_token_id=ids[VIDEO],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
        tie_word_embeddings=True,
    )
    make_model: Any = Qwen2VLForConditionalGeneration
    make_generation: Any = GenerationConfig
    model = make_model(config)
    model.generation_config = make_generation(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=80,
        eos_token_id=ids[END],
        pad_token_id=ids[PAD],
        # An image token in a response would ask for an image that is not there.
        suppress_tokens=[ids[t] for t in (VISION_START, VISION_END, IMAGE, VIDEO, START, PAD)],
    )
    return model


# --- batches -------------------------------------------------------------------------------


class Codec:
    """Turns puzzles into tensors with the processor's own code, once for many puzzles."""

    def __init__(self, processor: Processor):
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.end = self.tokenizer.convert_tokens_to_ids(END)
        self.pad = self.tokenizer.convert_tokens_to_ids(PAD)
        self.image = self.tokenizer.convert_tokens_to_ids(IMAGE)

    def pixels(self, puzzles: Sequence[Puzzle]) -> torch.Tensor:
        """Patches of the pictures, (puzzles, 36, 1176) float32."""
        out = []
        for i in range(0, len(puzzles), 256):
            images = [torch.from_numpy(p.picture.transpose(2, 0, 1)) for p in puzzles[i : i + 256]]
            out.append(self.processor.image_processor(images, return_tensors="pt").pixel_values)
        return torch.cat(out).view(len(puzzles), 36, -1)

    def prompt(self, question: str) -> list[int]:
        """Token ids of the user's turn with an 84 x 84 image, ready for the answer."""
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        return list(self.tokenizer(text.replace(IMAGE, IMAGE * 9)).input_ids)

    def response(self, text: str) -> list[int]:
        """Token ids of a response, its end included."""
        return [*self.tokenizer(text).input_ids, self.end]

    def batch(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], px: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Model inputs, padded on the left, with the loss on the responses only."""
        width = max(len(p) + len(r) for p, r in zip(prompts, responses, strict=True))
        ids = torch.full((len(prompts), width), self.pad)
        labels = torch.full_like(ids, -100)
        mask = torch.zeros_like(ids)
        for i, (p, r) in enumerate(zip(prompts, responses, strict=True)):
            ids[i, width - len(p) - len(r) :] = torch.tensor([*p, *r])
            mask[i, width - len(p) - len(r) :] = 1
            if r:
                labels[i, -len(r) :] = torch.tensor(r)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": labels,
            "mm_token_type_ids": (ids == self.image).long(),
            "pixel_values": px.flatten(0, 1),
            "image_grid_thw": torch.tensor([[1, 6, 6]]).repeat(len(prompts), 1),
        }


def optimise(
    model: Model, losses: Iterable[torch.Tensor], steps: int, lr: float, label: str
) -> None:
    """AdamW with a short warm-up and a cosine to a tenth of `lr`, a step for each loss."""
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
    """Teaches every image token to say its cell's colour and number through the tied head."""
    # A cone shows two numbers where tiles show nine, and of two digits: more images are cones.
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
    """Imitates worked solutions of fresh queries, every family and difficulty alike.

    The loss falls steeply once the model has learnt to look a colour up, at a step that
    differs between seeds and machines. So what ends this is a pass rate, not a count:
    `stop_at` of the samples of other queries, looked at every `stop_every` steps.

    Returns:
        the number of steps taken, at most `warm_steps`.
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
            right = np.mean(
                [
                    is_right(codec, ids, p)
                    for p, ids_of in zip(probe, drawn, strict=True)
                    for ids in ids_of
                ]
            )
            print(f"step {taken}: {right:.3f} of {2 * len(probe)} samples right", flush=True)
            if right >= settings.stop_at:
                return

    optimise(model, losses(), settings.warm_steps, settings.warm_lr, "warm start")
    return taken


def mean_loss(model: Model, codec: Codec, puzzles: Sequence[Puzzle]) -> torch.Tensor:
    """The mean over all response tokens of a batch, in two halves so that less is padding."""
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
    """`n` responses a puzzle at T = 1, as token ids without the end: [puzzle][sample][token]."""
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


def is_right(codec: Codec, ids: Sequence[int], puzzle: Puzzle) -> bool:
    """Whether a response's last line gives the reference answer."""
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
    """Pass rates and mean lengths on `each` dev queries of every family and difficulty."""
    rows = families.compose("dev", families.uniform_mix(10 * each), seed)
    rows.sort(key=lambda row: row[2])  # equal lengths in a batch: less waiting
    started = time.monotonic()
    drawn = sample(model, codec, [row[3] for row in rows], n, greedy=greedy)
    seconds = time.monotonic() - started
    right: dict[str, list[float]] = defaultdict(list)
    length: dict[str, list[int]] = defaultdict(list)
    for (_, family, difficulty, puzzle), responses in zip(rows, drawn, strict=True):
        for ids in responses:
            for key in (f"{family} {difficulty}", f"mean {difficulty}", "mean"):
                right[key].append(is_right(codec, ids, puzzle))
                length[key].append(len(ids) + 1)
    return {
        "pass": {key: float(np.mean(value)) for key, value in right.items()},
        "tokens": {key: float(np.mean(value)) for key, value in length.items()},
        "samples_per_s": len(rows) * n / seconds,
    }


def table(measured: dict[str, Any], key: str = "pass", digits: int = 2) -> str:
    """A Markdown table of one measured figure by family and difficulty."""
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

A Qwen2-VL of {parameters:,} parameters (float32) that reads small pictures and reasons in
steps, right often enough to learn from itself and wrong often enough to need it. It was
made from nothing, by one command on two CPU cores:

    python -m si.embedded.make_policy --seed {seed}

## Architecture

transformers' own `Qwen2VLForConditionalGeneration` and `Qwen2VLProcessor`: a text model of
{layers} layers, width {hidden}, {heads} heads of 32; a vision tower of {vision_depth} layers, width
{vision_width}; tied embeddings. An image of 84 x 84 pixels is 9 tokens. The tokenizer has
{vocab} tokens: all bytes, the families' words, and the numbers 0..99 as one token each.

## Data

Both families of `si/embedded/families.py`, split `policy` only, which is disjoint by content
from train, dev and test: {align_steps} steps of {align_batch} images for alignment (each
image token says its cell's colour and number), then {warm_steps} steps of {warm_batch} worked
solutions, equally many of every family and difficulty. Nothing else: no human data, no other
model.

## Pass rates

By family and difficulty, sampled at temperature 1, {each} fresh queries of the split dev in each
cell, {n} samples each; measured by

    python -m si.embedded.make_policy --only-measure

{passed}

Greedy decoding, the same queries:

{greedy}

Mean tokens of a sampled response, its end included:

{tokens}

## Limits

It knows the two families and nothing else. It is a demonstration, a test subject and a
yardstick for the loop's plumbing; no claim about large models follows from it.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the policy, measures it and writes its card."""
    summary = (__doc__ or "").split("\n", 1)[0]
    parser = argparse.ArgumentParser("python -m si.embedded.make_policy", description=summary)
    parser.add_argument("--out", type=Path, default=POLICY, help="folder to write (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=80, help="dev queries a cell to measure on")
    parser.add_argument("--samples", type=int, default=4, help="samples a query to measure on")
    parser.add_argument("--only-measure", action="store_true", help="measure what is in --out")
    args = parser.parse_args(argv)

    settings = Settings()
    # One thread: the same sums in the same order on any number of cores, and at this size
    # a second one gains little and loses much when the machine is busy.
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
