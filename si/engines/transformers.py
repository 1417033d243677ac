"""A sampler on transformers whose samples are bit-for-bit reproducible."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from si.config.recipe import Sampling
from si.engines.families import AUTO
from si.engines.hf import (
    Prompts,
    collate,
    decode,
    device,
    finds_positions,
    forbidden_ids,
    is_adapter,
    load_model,
    place,
)
from si.engines.port import Sampler, prompt_settings
from si.records import Request, Sampled

# Samples of a request that are computed together. With K = 16 the first eight are then computed
# exactly as with K = 8, so that a comparison of the two is paired.
BLOCK = 8
# Ended sequences leave the batch once fewer than this share is still running: leaving copies the
# cache, which is too slow for every step.
STILL_RUNNING = 0.75


# --- randomness ----------------------------------------------------------------------------


class GumbelNoise:
    """Standard Gumbel noise, a row of `vocab` numbers per sequence and step.

    The arg max of logits plus Gumbel noise is a sample from their softmax (Gumbel-max trick). Each
    row comes from its own Philox generator, whose raw bits numpy guarantees to keep. The same seed
    gives the same rows whatever the other seeds are.
    """

    def __init__(self, seeds: Sequence[int], vocab: int):
        self.sources = [np.random.Philox(key=seed) for seed in seeds]
        self.vocab = vocab
        self._ahead: list[Tensor] = []

    def next(self) -> Tensor:
        """The next step's noise, float32 (sequences, vocab)."""
        if not self._ahead:
            self._ahead = list(self._draw().unbind(1))[::-1]
        return self._ahead.pop()

    def keep(self, places: Tensor) -> None:
        """Keep only the sequences at these places."""
        self.sources = [self.sources[place] for place in places.tolist()]
        self._ahead = [rows[places] for rows in self._ahead]

    def _draw(self) -> Tensor:
        width = -(-self.vocab // 2)  # a raw number is 64 bits: two values
        steps = max(1, min(8, (1 << 24) // (len(self.sources) * self.vocab)))
        bits = np.stack([source.random_raw(steps * width) for source in self.sources])
        # In (0, 1), finest near 0, where the largest noise comes from. Rounding never yields 1.
        uniform = (bits.view(np.uint32).astype(np.float32) + np.float32(0.5)) * np.float32(2**-32)
        shaped = torch.from_numpy(uniform).view(len(self.sources), steps, 2 * width)
        uniform_ = shaped[..., : self.vocab].clamp(max=1 - 2**-24)
        return -torch.log(-torch.log1p(-uniform_))


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Logits, with tokens outside the smallest set of probability >= `top_p` at minus infinity."""
    ordered, order = logits.softmax(-1).sort(-1, descending=True)
    outside = ordered.cumsum(-1) - ordered >= top_p
    return logits.masked_fill(outside.scatter(-1, order, outside), -torch.inf)


# --- sampler -------------------------------------------------------------------------------


class _RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's keys and values of selected sequences, with room for further tokens.

    transformers' own layer copies itself at every step, which takes longer than the arithmetic of
    a small model.
    """

    def __init__(self, keys: Tensor, values: Tensor, rows: Tensor, room: int):
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_initialized = True
        self.dtype, self.device = keys.dtype, keys.device
        self._store: list[Tensor] = []
        for filled in (keys, values):  # (requests, heads, length, width)
            _, heads, length, width = filled.shape
            wide = filled.new_empty(len(rows), heads, length + room, width)
            wide[:, :, :length] = filled[rows]
            self._store.append(wide)
        self._show(keys.shape[2])

    def _show(self, length: int) -> None:
        self._length = length
        self.keys, self.values = (tensor[:, :, :length] for tensor in self._store)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        start, stop = self._length, self._length + key_states.shape[2]
        for tensor, new in zip(self._store, (key_states, value_states), strict=True):
            tensor[:, :, start:stop] = new
        self._show(stop)
        return self._store[0][:, :, :stop], self._store[1][:, :, :stop]

    def batch_select_indices(self, indices: Tensor) -> None:
        self._store = [tensor[indices] for tensor in self._store]
        self._show(self._length)


def _expand(cache: Any, rows: Tensor, room: int) -> Any:
    """A copy of the cache with its sequences `rows`, and room for `room` more tokens."""

    def expand(layer: Any) -> Any:
        if type(layer) is DynamicLayer:
            filled: Any = layer
            return _RoomyLayer(filled.keys, filled.values, rows, room)
        other = copy.copy(layer)  # sliding windows and others keep their class
        other.batch_select_indices(rows)
        return other

    wide = copy.copy(cache)
    wide.layers = [expand(layer) for layer in cache.layers]
    return wide


@dataclass
class _Sequence:
    """A continuation and its state."""

    limit: int
    ids: list[int] = field(default_factory=list)
    reason: str = ""
    logprob: float = 0.0

    def result(self) -> Sampled:
        return Sampled(tuple(self.ids), self.reason, self.logprob)


class TransformersSampler(Sampler):
    """Samples with transformers' classes, for any model that answers questions about images."""

    def __init__(self, policy: Path, base: Path, settings: Sampling, family: str = AUTO):
        where = device()
        if where.type == "cpu":
            # Workers are processes. And results must not depend on the number of threads.
            torch.set_num_threads(1)
        folder = base if is_adapter(policy) else policy
        model = load_model(folder, settings.dtype)
        if is_adapter(policy):
            from peft import PeftModel

            # The adapter stays unmerged, so that exactly what was trained is sampled.
            model = PeftModel.from_pretrained(model, policy).get_base_model()
        self.model = model.to(where).eval()
        self.prompts = Prompts.open(folder, prompt_settings(settings, family))
        self.tokenizer = self.prompts.tokenizer
        self.temperature = settings.temperature
        self.top_p = settings.top_p
        self.batch = settings.batch
        self.longest = self.model.config.get_text_config().max_position_embeddings
        generation = self.model.generation_config
        self.ends = self.prompts.family.end_ids(self.tokenizer, generation)
        mask = torch.zeros(self.model.get_output_embeddings().out_features, dtype=torch.bool)
        mask[forbidden_ids(self.prompts.family, self.tokenizer, self.model.config, generation)] = (
            True
        )
        self.forbidden = mask.to(where)

    def sample(self, requests: Sequence[Request]) -> Iterator[list[Sampled]]:
        """For each request in turn, one continuation per seed.

        `logprob` is the sum over the continuation's tokens of the log-softmax of the model's own
        logits: at temperature 1, with all tokens allowed, without nucleus. A request whose prompt,
        prefix and token limit together exceed the model's context length gets samples with finish
        reason "dropped".
        """
        batch: list[Request] = []
        sequences = 0
        for request in requests:
            width = min(len(request.seeds), BLOCK)
            if batch and sequences + width > self.batch:
                yield from self._batch(batch)
                batch, sequences = [], 0
            batch.append(request)
            sequences += width
        if batch:
            yield from self._batch(batch)

    @torch.inference_mode()
    def _batch(self, requests: Sequence[Request]) -> list[list[Sampled]]:
        prompts = [self.prompts(request.question, request.images) for request in requests]
        fits = [
            i
            for i, (p, r) in enumerate(zip(prompts, requests, strict=True))
            if len(p.ids) + len(r.prefix_ids) + r.max_new_tokens <= self.longest
        ]
        results = [[Sampled((), "dropped", 0.0)] * len(r.seeds) for r in requests]
        if not fits:
            return results
        # Prompt and prefix are computed once, whatever the number of samples.
        batch = collate(
            [prompts[i] for i in fits],
            [requests[i].prefix_ids for i in fits],
            self.prompts.pad,
        )
        inputs = place(self.model, batch)
        output = self.model(**inputs, use_cache=True, logits_to_keep=1)
        mask = inputs["attention_mask"]
        positions = mask.sum(1, keepdim=True)
        if finds_positions(self.model, batch):
            positions = positions + self.model.model.rope_deltas
        for first in range(0, max(len(requests[i].seeds) for i in fits), BLOCK):
            block = [
                (row, i, j)
                for row, i in enumerate(fits)
                for j in range(first, min(first + BLOCK, len(requests[i].seeds)))
            ]
            rows = torch.tensor([row for row, _, _ in block], device=mask.device)
            sequences = [_Sequence(requests[i].max_new_tokens) for _, i, _ in block]
            room = max(sequence.limit for sequence in sequences)
            self._continue(
                sequences,
                GumbelNoise([requests[i].seeds[j] for _, i, j in block], len(self.forbidden)),
                _expand(output.past_key_values, rows, room),
                torch.cat([mask[rows], mask.new_ones(len(rows), room)], 1),
                positions[rows],
                output.logits[:, -1][rows],
            )
            for (_, i, j), sequence in zip(block, sequences, strict=True):
                results[i][j] = sequence.result()
        return results

    def _continue(
        self,
        sequences: list[_Sequence],
        noise: GumbelNoise,
        cache: Any,
        mask: Tensor,
        positions: Tensor,
        logits: Tensor,
    ) -> None:
        """Sample all sequences to their ends, one token per sequence and step.

        Shapes: mask (sequences, prompt + room); positions (sequences, 1), of the next token;
        logits (sequences, vocab).
        """
        length = cache.get_seq_length()
        while True:
            tokens, logprobs = self._choose(logits, noise)
            for sequence, token, logprob in zip(
                sequences, tokens.tolist(), logprobs.tolist(), strict=True
            ):
                if sequence.reason:
                    continue  # ended, but still in the batch
                sequence.ids.append(token)
                sequence.logprob += logprob
                if token in self.ends:
                    sequence.reason = "stop"
                elif len(sequence.ids) == sequence.limit:
                    sequence.reason = "length"
            running = [i for i, sequence in enumerate(sequences) if not sequence.reason]
            if not running:
                return
            if len(running) < STILL_RUNNING * len(sequences):
                keep = torch.tensor(running, device=mask.device)
                sequences = [sequences[i] for i in running]
                cache.batch_select_indices(keep)
                noise.keep(keep.cpu())
                tokens, mask, positions = tokens[keep], mask[keep], positions[keep]
            length += 1
            output = self.model(
                input_ids=tokens[:, None],
                attention_mask=mask[:, :length],
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
            logits = output.logits[:, -1]
            positions = positions + 1

    def _choose(self, logits: Tensor, noise: GumbelNoise) -> tuple[Tensor, Tensor]:
        """The next token of each sequence and its log-probability."""
        logits = logits.float()
        scores = logits.masked_fill(self.forbidden, -torch.inf)
        if self.temperature > 0:
            scores = scores / self.temperature
            if self.top_p < 1:
                scores = nucleus(scores, self.top_p)
            scores = scores + noise.next().to(scores.device)
        tokens = scores.argmax(-1)
        return tokens, logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]

    def decode(self, token_ids: Sequence[int]) -> tuple[str, list[int]]:
        """The ids as text without special tokens; and for each token, how many characters the ids
        up to and including it cover. A character of several tokens counts with its last one."""
        return decode(self.tokenizer, token_ids)
