"""The data of a training: which examples, in which order, prepared ahead of the model.

Rows become examples, examples become the batches of gradient steps, and a batch becomes one
process's micro-batches. Threads decode images and build the tensors of the next micro-batches while
the model computes the current one. The result does not depend on the number of threads.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from si.config.recipe import Train
from si.engines.hf import Prompt, Prompts, collate, positions
from si.engines.packing import lay_out, packs
from si.engines.port import TrainSettings
from si.engines.speed import Lengths
from si.errors import NothingToTrain, RecipeError
from si.lookahead import ordered_map
from si.machine.processes import cores
from si.randomness import keyed_rng
from si.records import TrainingRow

IGNORED = -100  # label of tokens outside the loss
LOADERS = "SICTL_TRAIN_LOADERS"
MOST_LOADERS = 8

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Example:
    """A training row and its sizes. The prompt is made when it is needed: the images of an entire
    data set may not fit into memory.

    Attributes:
        masked: number of leading response ids that are excluded from the loss.
        length: tokens of prompt and response.
        pixels: values in its images' tensors.
    """

    row: TrainingRow
    masked: int
    length: int
    pixels: int = 0

    @property
    def targets(self) -> int:
        """Number of tokens in the loss."""
        return len(self.row.token_ids) - self.masked

    @property
    def lengths(self) -> Lengths:
        """What its cost depends on."""
        return Lengths(self.length, self.targets, self.pixels)


Query = tuple[str, tuple[bytes, ...]]  # a question and its images


def measure(prompts: Prompts, queries: Sequence[Query]) -> list[tuple[int, int]]:
    """For each query, the number of tokens in its prompt and of values in its images' tensors."""

    def size(query: Query) -> tuple[int, int]:
        prompt = prompts(*query)
        values = (t.numel() for t in prompt.features.values() if t.is_floating_point())
        return len(prompt.ids), sum(values)

    # The first one alone: it sets up the tokenizer, which two threads must not do at once.
    return [*map(size, queries[:1]), *in_threads(size, queries[1:])]


def make_examples(
    rows: Sequence[TrainingRow],
    prompts: Prompts,
    train: Train,
    measure: Callable[[Prompts, Sequence[Query]], list[tuple[int, int]]] = measure,
) -> list[Example]:
    """Rows as examples, without those that are too long. They are dropped, because truncation would
    remove image tokens or the answer.

    Args:
        measure: computes the sizes of queries.

    Raises:
        NothingToTrain: if all are too long.
    """
    queries = list(dict.fromkeys((row.question, row.images) for row in rows))
    sizes = dict(zip(queries, measure(prompts, queries), strict=True))
    examples = []
    for row in rows:
        length, pixels = sizes[row.question, row.images]
        masked = row.prefix_len if train.mask_prefix else 0
        examples.append(Example(row, masked, length + len(row.token_ids), pixels))
    fit = [e for e in examples if e.length <= train.max_length and e.targets > 0]
    if not fit:
        raise NothingToTrain(
            f"All {len(rows)} examples are longer than {train.max_length} tokens",
            f"shortest: {min((e.length for e in examples), default=0)} tokens, images included",
            "Raise train.max_length.",
        )
    return fit


# --- order ---------------------------------------------------------------------------------


def shuffled(count: int, seed: int) -> Iterator[int]:
    """Example numbers without end: all of them in each epoch, shuffled anew."""
    epoch = 0
    while True:
        order = list(range(count))
        keyed_rng(seed, "epoch", epoch).shuffle(order)
        yield from order
        epoch += 1


def count_examples(examples: Sequence[Example], settings: TrainSettings) -> int:
    """How many examples the training sees, repetitions included."""
    if settings.steps is None:
        return settings.train.epochs * len(examples)
    return settings.steps * settings.train.batch


def count_steps(examples: Sequence[Example], settings: TrainSettings) -> int:
    """The number of gradient steps."""
    return -(-count_examples(examples, settings) // settings.train.batch)


def batches(
    examples: Sequence[Example], settings: TrainSettings, seed: int
) -> Iterator[list[Example]]:
    """The examples of each gradient step, shortest first, so that neighbours need little padding.
    The last step may have fewer than `train.batch`."""
    numbers = islice(shuffled(len(examples), seed), count_examples(examples, settings))
    while chosen := [examples[number] for number in islice(numbers, settings.train.batch)]:
        chosen.sort(key=lambda example: example.length)
        yield chosen


def shares(
    chosen: Sequence[Example], train: Train, rank: int = 0, world: int = 1
) -> list[tuple[Sequence[Example], float]]:
    """A process's micro-batches of a step, with their weight in the loss.

    All processes get the same number, because they compute in lockstep. One that runs out computes
    an example with weight 0.
    """
    micro = train.micro_batch
    parts: list[Sequence[Example]]
    if train.packing:
        parts = list[Sequence[Example]](packs(chosen, micro * train.max_length, world)[rank::world])
    else:
        starts = range(0, len(chosen), micro * world)
        parts = [chosen[s + rank * micro : s + (rank + 1) * micro] for s in starts]
    return [(part, 1.0) if part else (chosen[:1], 0.0) for part in parts]


# --- micro-batches -------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """A micro-batch as model inputs, in CPU memory.

    Attributes:
        inputs: the model's inputs by name.
        keep: which logits to compute: the last n of each row, or those at these positions.
        labels: the tokens to predict with the first of those logits, int64 (rows, n).
        examples, prompts: what it was made from.
    """

    inputs: dict[str, Any]
    keep: int | Tensor
    labels: Tensor
    examples: Sequence[Example]
    prompts: Sequence[Prompt]

    def to(self, device: torch.device) -> tuple[dict[str, Any], int | Tensor, Tensor]:
        """`inputs`, `keep` and `labels` on a device."""

        def there(value: Any) -> Any:
            return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

        return {k: there(v) for k, v in self.inputs.items()}, there(self.keep), there(self.labels)


def make_batch(model: Any, prompts: Prompts, train: Train, examples: Sequence[Example]) -> Batch:
    """The tensors of a micro-batch, in page-locked memory if there is a GPU."""
    complete = [prompts(example.row.question, example.row.images) for example in examples]
    made = [without_pixels(p) for p in complete] if train.cache_vision else complete
    responses = [example.row.token_ids for example in examples]
    keep: int | Tensor
    if train.packing:
        inputs, starts = lay_out(model, made, responses)
        # The logits at a token predict the next one.
        places = [
            range(s + e.masked - 1, s + e.masked - 1 + e.targets)
            for s, e in zip(starts, examples, strict=True)
        ]
        keep = torch.tensor([place for part in places for place in part])
        labels = torch.tensor([[i for e in examples for i in e.row.token_ids[e.masked :]]])
    else:
        inputs = collate(made, responses, prompts.pad)
        inputs["position_ids"] = positions(model, inputs)
        # With padding on the left all responses end together; only their logits are computed.
        longest = max(map(len, responses))
        labels = torch.tensor(
            [
                [IGNORED] * (longest - e.targets) + list(e.row.token_ids[e.masked :])
                for e in examples
            ]
        )
        keep = longest + 1
    if torch.cuda.is_available():
        inputs = {k: v.pin_memory() if isinstance(v, Tensor) else v for k, v in inputs.items()}
    return Batch(inputs, keep, labels, examples, complete)


def without_pixels(prompt: Prompt) -> Prompt:
    """The prompt without its images' values; their shapes remain."""
    kept = {k: v for k, v in prompt.features.items() if not v.is_floating_point()}
    return replace(prompt, features=kept)


def steps(
    examples: Sequence[Example],
    settings: TrainSettings,
    seed: int,
    make: Callable[[Sequence[Example]], Batch],
    done: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[tuple[list[Example], Iterator[tuple[Batch, float]]]]:
    """The gradient steps after the first `done`: all examples of a step, and this process's
    micro-batches with their weights. Consume the micro-batches before taking the next step."""

    def parts() -> Iterator[tuple[Sequence[Example], float]]:
        for chosen in islice(batches(examples, settings, seed), done, None):
            yield from shares(chosen, settings.train, rank, world)

    ready = in_threads(lambda part: (make(part[0]), part[1]), parts())
    for chosen in islice(batches(examples, settings, seed), done, None):
        yield chosen, islice(ready, len(shares(chosen, settings.train, rank, world)))


def loaders(environment: Mapping[str, str] = os.environ) -> int:
    """Number of threads that prepare micro-batches: SICTL_TRAIN_LOADERS, or one per core that this
    process may use, at most 8.

    Raises:
        RecipeError: if the variable is not a whole number above 0.
    """
    beside = int(environment.get("LOCAL_WORLD_SIZE") or 1)
    text = environment.get(LOADERS) or str(max(1, min(MOST_LOADERS, cores() // beside)))
    if not text.isdecimal() or int(text) < 1:
        raise RecipeError(f"{LOADERS}={text} is not a whole number of 1 or more")
    return int(text)


def in_threads(make: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """`make(item)` for each item, in order, computed by threads some items ahead."""
    threads = loaders()
    with ThreadPoolExecutor(threads, thread_name_prefix="loader") as pool:
        yield from ordered_map(pool, make, items, threads + 1)


# --- the loss ------------------------------------------------------------------------------


class Vision(Protocol):
    """Provides image features (`si.engines.vision.FrozenVision`)."""

    def features(self, batch: Batch) -> dict[str, Any]:
        """Model inputs that replace the batch's images."""
        ...


def summed_loss(
    forward: Callable[..., Any],
    batch: Batch,
    device: torch.device,
    dtype: torch.dtype,
    vision: Vision | None = None,
) -> Tensor:
    """Cross entropy, summed over the response tokens of a micro-batch. `forward`, the model,
    computes in `dtype`; the loss is computed in float32."""
    inputs, keep, labels = batch.to(device)
    if vision:
        inputs |= vision.features(batch)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        logits = forward(**inputs, use_cache=False, logits_to_keep=keep).logits
    return functional.cross_entropy(
        logits[:, : labels.shape[1]].float().flatten(0, 1),
        labels.flatten(),
        ignore_index=IGNORED,
        reduction="sum",
    )
