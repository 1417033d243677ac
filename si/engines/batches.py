"""What a training computes, in which order, made ready ahead of the model.

Rows become examples, examples the batches of gradient steps, a batch one process's micro-batches.
Threads decode pictures and lay out the tensors of the next micro-batches while the model computes
the present one. What is made does not depend on how many threads make it.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
    """A training row, how many of its leading response ids stay out of the loss, and how many
    tokens it has with its prompt, how many values its pictures. The prompt itself is made when it
    is needed: pictures of a whole data set may not fit into memory."""

    row: TrainingRow
    masked: int
    length: int
    pixels: int = 0

    @property
    def targets(self) -> int:
        return len(self.row.token_ids) - self.masked

    @property
    def lengths(self) -> Lengths:
        return Lengths(self.length, self.targets, self.pixels)


Query = tuple[str, tuple[bytes, ...]]  # a question and its pictures


def measure(prompts: Prompts, queries: Sequence[Query]) -> list[tuple[int, int]]:
    """The tokens of each query's prompt, and the values of its pictures."""

    def size(query: Query) -> tuple[int, int]:
        prompt = prompts(*query)
        values = (t.numel() for t in prompt.features.values() if t.is_floating_point())
        return len(prompt.ids), sum(values)

    # The first one alone: it sets the tokenizer up, which two threads must not do at once.
    return [*map(size, queries[:1]), *ahead(size, queries[1:])]


def make_examples(
    rows: Sequence[TrainingRow],
    prompts: Prompts,
    train: Train,
    measure: Callable[[Prompts, Sequence[Query]], list[tuple[int, int]]] = measure,
) -> list[Example]:
    """Rows as examples, without those that are too long: cutting one would cut what its
    pictures' tokens stand for, or its answer."""
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
    """Example numbers without end: every epoch all of them, in an order of its own."""
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
    """The examples of each gradient step, shortest first: neighbours of one length need little
    padding. The last step may have fewer than `batch`."""
    numbers = islice(shuffled(len(examples), seed), count_examples(examples, settings))
    while chosen := [examples[number] for number in islice(numbers, settings.train.batch)]:
        chosen.sort(key=lambda example: example.length)
        yield chosen


def shares(
    chosen: Sequence[Example], train: Train, rank: int = 0, world: int = 1
) -> list[tuple[Sequence[Example], float]]:
    """A process's micro-batches of a step, with their weight in the loss.

    Every process gets as many, since all compute in step; one that runs out computes an
    example for nothing.
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
    """A micro-batch as the model takes it, in the machine's memory.

    Attributes:
        inputs: of the model, by name.
        keep: which logits to compute: the last so many of each row, or those at these places.
        labels: the tokens that the first of those logits are to foretell, int64 (rows, n).
        examples, prompts: what it was made of.
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
    """The tensors of a micro-batch; in page-locked memory if there is a GPU."""
    whole = [prompts(example.row.question, example.row.images) for example in examples]
    made = [without_pixels(p) for p in whole] if train.cache_vision else whole
    responses = [example.row.token_ids for example in examples]
    keep: int | Tensor
    if train.packing:
        inputs, starts = lay_out(model, made, responses)
        # The logits at a token foretell the next one.
        places = [
            range(s + e.masked - 1, s + e.masked - 1 + e.targets)
            for s, e in zip(starts, examples, strict=True)
        ]
        keep = torch.tensor([place for part in places for place in part])
        labels = torch.tensor([[i for e in examples for i in e.row.token_ids[e.masked :]]])
    else:
        inputs = collate(made, responses, prompts.pad)
        inputs["position_ids"] = positions(model, inputs)
        # Padded on the left, all responses end at the end; only their logits are computed.
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
    return Batch(inputs, keep, labels, examples, whole)


def without_pixels(prompt: Prompt) -> Prompt:
    """The prompt with the shapes of its pictures alone."""
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
    """The gradient steps after the first `done`: all of a step's examples, and this process's
    micro-batches of it with their weights. The micro-batches have to be taken before the next
    step."""

    def parts() -> Iterator[tuple[Sequence[Example], float]]:
        for chosen in islice(batches(examples, settings, seed), done, None):
            yield from shares(chosen, settings.train, rank, world)

    ready = ahead(lambda part: (make(part[0]), part[1]), parts())
    for chosen in islice(batches(examples, settings, seed), done, None):
        yield chosen, islice(ready, len(shares(chosen, settings.train, rank, world)))


def loaders(environment: Mapping[str, str] = os.environ) -> int:
    """How many threads make micro-batches: one for each core that is this process's, 8 at most,
    or as many as the place says.

    Raises:
        RecipeError: if that is no number.
    """
    beside = int(environment.get("LOCAL_WORLD_SIZE") or 1)
    text = environment.get(LOADERS) or str(max(1, min(MOST_LOADERS, cores() // beside)))
    if not text.isdecimal() or int(text) < 1:
        raise RecipeError(f"{LOADERS}={text} is no number of 1 or more")
    return int(text)


def ahead(make: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """What `make` makes of each item, in order, by threads that are some items ahead."""
    threads = loaders()
    waiting: deque[Future[B]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="loader") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(make, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


# --- the loss ------------------------------------------------------------------------------


class Vision(Protocol):
    """Knows pictures' features."""

    def features(self, batch: Batch) -> dict[str, Any]:
        """Model inputs in the place of the batch's pictures."""
        ...


def summed_loss(
    forward: Callable[..., Any],
    batch: Batch,
    device: torch.device,
    dtype: torch.dtype,
    vision: Vision | None = None,
) -> Tensor:
    """Cross entropy summed over the response tokens of a micro-batch; `forward`, the model,
    computes in `dtype`, the loss in float32."""
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
