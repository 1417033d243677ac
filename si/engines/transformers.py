"""Policies as Hugging Face folders: loading, prompts, and a sampler reproducible bit for bit.

It is reproducible because of two rules. Each sequence draws from a
generator of its own, keyed by its seed, so its neighbours' seeds do not matter.
And batches are composed from the request list alone (`sampling.batch` sequences, at
most eight of a request at a time), never from the number of workers, since
rounding depends on what is computed together.
"""

import copy
import io
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers.decoders import DecodeStream
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from si.engines.families import AUTO, CONFIG, Family, family_of, read_config
from si.errors import RecipeError, SiError
from si.records import Request, Sampled

# Samples of a request that are computed together. K = 16 then computes its first eight exactly
# as K = 8 does, which makes "what does doubling K buy?" a paired question.
BLOCK = 8
# Sequences that have ended are dropped from a batch once fewer than this share goes on;
# dropping copies the cache, so not at every step.
GOING_ON = 0.75
PROMPT_CACHE_BYTES = 1 << 29
ADAPTER_CONFIG = "adapter_config.json"


def is_adapter(policy: Path) -> bool:
    """Whether the folder holds a PEFT adapter rather than a whole model."""
    return (policy / ADAPTER_CONFIG).exists()


def device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_model(folder: Path, dtype: str, nothing_else: bool = False) -> Any:
    """The model of an HF folder, on the CPU, in `dtype` ("float32", "bfloat16").

    Raises:
        SiError: if a weight that the model has is missing, which transformers would fill with
            random numbers; with `nothing_else`, also if there are others.
        RecipeError: if transformers has no class for it that answers about images.
    """
    import transformers

    quiet: Any = transformers.logging.disable_progress_bar
    quiet()
    auto: Any = transformers.AutoModelForImageTextToText
    config = load_config(folder)
    if type(config) not in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise RecipeError(
            f"{folder.name} is no model that answers about images",
            f"transformers {transformers.__version__} has none of model_type {config.model_type}",
            "Name a vision-language model; its config.json says what it is.",
        )
    model, loading = auto.from_pretrained(
        folder,
        dtype=getattr(torch, dtype),
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    wrong = [f"{name}: missing" for name in sorted(loading["missing_keys"])]
    wrong += [f"{entry}: other shape" for entry in sorted(map(str, loading["mismatched_keys"]))]
    if nothing_else:
        wrong += [f"{name}: unknown" for name in sorted(loading["unexpected_keys"])]
    if wrong:
        raise SiError(
            f"{len(wrong)} weights in {folder.name} are not those of its model",
            "\n".join(wrong[:5]),
            "Was it written by another version of transformers, or under other tensor names?",
        )
    return model


def load_config(folder: Path) -> Any:
    """The model's config of an HF folder.

    Raises:
        RecipeError: if transformers does not know such models. Code of a checkpoint is never run.
    """
    import transformers

    auto: Any = transformers.AutoConfig
    kind = read_config(folder)["model_type"]
    if kind not in transformers.CONFIG_MAPPING:
        raise RecipeError(
            f"transformers {transformers.__version__} does not know models of type {kind!r}",
            f"{folder / CONFIG}; code that a checkpoint brings along is never run",
            "Name a checkpoint of transformers' own classes, converted if need be (often `-hf`).",
        )
    return auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def load_processor(folder: Path) -> Any:
    """The processor (tokenizer, image processor, chat template) of an HF folder.

    Raises:
        RecipeError: if one of the three is missing.
    """
    import transformers

    auto: Any = transformers.AutoProcessor
    processor = auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    parts = ("tokenizer", "image_processor", "chat_template")
    missing = [part for part in parts if not getattr(processor, part, None)]
    if missing:
        raise RecipeError(
            f"{folder.name} has no {' and no '.join(missing)}".replace("_", " "),
            f"its processor is a {type(processor).__name__}",
            "Name an instruction-tuned vision-language model, with its processor's files.",
        )
    return processor


# --- prompts -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prompt:
    """A query as the model reads it.

    Attributes:
        ids: token ids up to where the response begins, image tokens included.
        kinds: further values per token by name (`mm_token_type_ids`); 0 for response tokens.
        features: the pictures' tensors by name; a batch concatenates them.
    """

    ids: list[int]
    kinds: dict[str, list[int]]
    features: dict[str, Tensor]


def pictures(images: Sequence[bytes]) -> list[Any]:
    """Encoded pictures as PIL images in RGB."""
    from PIL import Image

    return [Image.open(io.BytesIO(data)).convert("RGB") for data in images]


def conversation(question: str, images: Sequence[Any], system: str) -> list[dict[str, Any]]:
    """The turns before the response, as chat templates take them."""
    content: list[dict[str, Any]] = [{"type": "image", "image": each} for each in images]
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]
    if system:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    return messages


def forbidden_ids(family: Family, tokenizer: Any, config: Any, generation: Any) -> list[int]:
    """Tokens that stand for pictures, those that the model's generation config suppresses, and
    numbers that are no token: none of them is ever sampled."""
    vocab = config.get_text_config().vocab_size
    ids = family.picture_ids(tokenizer, config) | set(generation.suppress_tokens or ())
    ids |= set(range(len(tokenizer), vocab))
    return sorted(number for number in ids if number < vocab)


class Prompts:
    """Makes prompts with the processor's own chat template, once for each distinct query (as
    long as `PROMPT_CACHE_BYTES` hold them).

    Attributes:
        limits: what the processor was told of the pictures' size, as vLLM's `mm_processor_kwargs`.
    """

    def __init__(self, processor: Any, system: str = "", family: Family | None = None):
        self.processor = processor
        self.system = system
        self.family = family or Family()
        self.limits: dict[str, Any] = {}
        self.tokenizer = tokenizer = processor.tokenizer
        self.pad: int = tokenizer.eos_token_id
        if tokenizer.pad_token_id is not None:
            self.pad = tokenizer.pad_token_id
        self._made: dict[tuple[str, tuple[bytes, ...]], Future[Prompt]] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    @classmethod
    def open(cls, folder: Path, settings: dict[str, Any]) -> "Prompts":
        """Those of the model in a folder, as `settings` say: `system_prompt`, `image_tokens` (the
        most that a picture takes) and `family`, each if it is there."""
        family = family_of(folder, settings.get("family", AUTO))
        prompts = cls(load_processor(folder), settings.get("system_prompt", ""), family)
        prompts.check_template(folder.name)
        if settings.get("image_tokens"):
            prompts.limits = family.limit_pictures(prompts.processor, settings["image_tokens"])
        return prompts

    def check_template(self, name: str) -> None:
        """Refuse a chat template that does not leave one place for each picture: some conversions
        have one that is older than transformers' processor.

        Raises:
            RecipeError: if it does not, or it takes no system turn where there is one.
        """
        from jinja2 import TemplateError
        from PIL import Image

        turns = conversation("Question", [Image.new("RGB", (28, 28))], self.system)
        try:
            text = self.processor.apply_chat_template(
                turns, add_generation_prompt=True, tokenize=False
            )
        except TemplateError as error:
            raise RecipeError(
                f"The chat template of {name} does not take a question about a picture",
                str(error),
                "Is it the system turn? Then leave sampling.system_prompt empty.",
            ) from error
        mark = getattr(self.processor, "image_token", None)
        if mark and text.count(mark) != 1:
            raise RecipeError(
                f"The chat template of {name} does not leave a place for a picture",
                f"expected {mark} once, got {text[:200]!r}",
                "Take chat_template.jinja from a newer conversion of the model.",
            )

    def turns(self, question: str, images: Sequence[Any]) -> list[dict[str, Any]]:
        """The turns before the response; the family refuses text that would stand for pictures."""
        self.family.check(question, self.tokenizer)
        return conversation(question, images, self.system)

    def __call__(self, question: str, images: tuple[bytes, ...]) -> Prompt:
        """The prompt for a question about encoded pictures (PNG or JPEG). Threads that ask for one
        at the same time share it."""
        key = (question, images)
        with self._lock:
            found = self._made.get(key)
            mine = found or self._made.setdefault(key, Future())
        if found:
            return found.result()
        try:
            prompt = self._make(question, images)
        except BaseException as error:
            mine.set_exception(error)
            raise
        mine.set_result(prompt)
        with self._lock:
            self._bytes += sum(tensor.nbytes for tensor in prompt.features.values())
            if self._bytes > PROMPT_CACHE_BYTES:
                self._made, self._bytes = {key: mine}, 0
        return prompt

    def _make(self, question: str, images: tuple[bytes, ...]) -> Prompt:
        made = self.processor.apply_chat_template(
            self.turns(question, pictures(images)),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        made = dict(made)
        ids = made.pop("input_ids")
        del made["attention_mask"]
        kinds = {k: v[0].tolist() for k, v in made.items() if v.shape == ids.shape}
        features = {k: v for k, v in made.items() if k not in kinds}
        return Prompt(ids[0].tolist(), kinds, features)


def collate(
    prompts: Sequence[Prompt], responses: Sequence[Sequence[int]], pad: int
) -> dict[str, Tensor]:
    """Model inputs for prompts and the responses begun, padded on the left.

    Returns:
        `input_ids`, `attention_mask` and the prompts' kinds, int64 (sequences, longest);
        the pictures' features, concatenated.
    """
    width = max(len(p.ids) + len(r) for p, r in zip(prompts, responses, strict=True))

    def padded(rows: list[list[int]], fill: int) -> Tensor:
        return torch.tensor([[fill] * (width - len(row)) + row for row in rows])

    both = list(zip(prompts, responses, strict=True))
    batch = {
        "input_ids": padded([[*p.ids, *r] for p, r in both], pad),
        "attention_mask": padded([[1] * (len(p.ids) + len(r)) for p, r in both], 0),
    }
    for name in sorted({name for p in prompts for name in p.kinds}):
        rows = [[*p.kinds.get(name, [0] * len(p.ids)), *([0] * len(r))] for p, r in both]
        batch[name] = padded(rows, 0)
    for name in sorted({name for p in prompts for name in p.features}):
        batch[name] = torch.cat([p.features[name] for p in prompts if name in p.features])
    return batch


def place(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch on the model's device, with positions where the model would not find them.

    Models with positions in several dimensions (Qwen2-VL) work them out from the
    pictures' grids; everything else counts along the attention mask.
    """
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    if not finds_positions(model, batch):
        batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return batch


def positions(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The positions that the model would find for a batch, int64 (sequences, longest), or
    (3, sequences, longest) where it has three dimensions and there are pictures."""
    mask = batch["attention_mask"]
    if not finds_positions(model, batch):
        return (mask.cumsum(1) - 1).clamp(min=0)
    known = {name: batch[name] for name in ("image_grid_thw", "mm_token_type_ids")}
    found: Tensor = model.model.get_rope_index(batch["input_ids"], attention_mask=mask, **known)[0]
    return found


def finds_positions(model: Any, batch: dict[str, Tensor]) -> bool:
    """Whether the model computes the positions of this batch itself."""
    return hasattr(model.model, "get_rope_index") and "image_grid_thw" in batch


# --- randomness ----------------------------------------------------------------------------


class GumbelNoise:
    """Standard Gumbel noise, a row of `vocab` numbers per sequence and step.

    The arg max of logits + Gumbel noise is a draw from their softmax. Each row comes
    from its own Philox generator, whose raw bits numpy promises to keep; the same
    seed gives the same rows whatever the other seeds are.
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
        """Go on with the sequences at these places only."""
        self.sources = [self.sources[place] for place in places.tolist()]
        self._ahead = [rows[places] for rows in self._ahead]

    def _draw(self) -> Tensor:
        width = -(-self.vocab // 2)  # a raw number is 64 bits: two values
        steps = max(1, min(8, (1 << 24) // (len(self.sources) * self.vocab)))
        bits = np.stack([source.random_raw(steps * width) for source in self.sources])
        # In (0, 1), finest near 0, where the largest noise comes from; never 1 after rounding.
        uniform = (bits.view(np.uint32).astype(np.float32) + np.float32(0.5)) * np.float32(2**-32)
        shaped = torch.from_numpy(uniform).view(len(self.sources), steps, 2 * width)
        uniform_ = shaped[..., : self.vocab].clamp(max=1 - 2**-24)
        return -torch.log(-torch.log1p(-uniform_))


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Logits with everything outside the smallest set of mass >= `top_p` at minus infinity."""
    ordered, order = logits.softmax(-1).sort(-1, descending=True)
    outside = ordered.cumsum(-1) - ordered >= top_p
    return logits.masked_fill(outside.scatter(-1, order, outside), -torch.inf)


# --- sampler -------------------------------------------------------------------------------


class _RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's keys and values of chosen sequences, with room for tokens to come.

    transformers' own layer copies itself at every step, which takes longer than a
    small model's arithmetic.
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
    """A copy of a filled cache: its sequences `rows`, ready for `room` more tokens."""

    def expand(layer: Any) -> Any:
        if type(layer) is DynamicLayer:
            filled: Any = layer
            return _RoomyLayer(filled.keys, filled.values, rows, room)
        other = copy.copy(layer)  # sliding windows and the like keep their own class
        other.batch_select_indices(rows)
        return other

    wide = copy.copy(cache)
    wide.layers = [expand(layer) for layer in cache.layers]
    return wide


@dataclass
class _Sequence:
    """A continuation in the making."""

    limit: int
    ids: list[int] = field(default_factory=list)
    reason: str = ""
    logprob: float = 0.0

    def result(self) -> Sampled:
        return Sampled(tuple(self.ids), self.reason, self.logprob)


class TransformersSampler:
    """`ports.Sampler` on transformers' classes, for any model that answers about images.

    Args:
        policy: an HF folder, or a PEFT adapter folder.
        base: policy 0; read only if `policy` is an adapter.
        settings: the recipe's `sampling` section.
    """

    def __init__(self, policy: Path, base: Path, settings: dict[str, Any]):
        where = device()
        if where.type == "cpu":
            # Workers are processes; and the number of threads must not change a bit.
            torch.set_num_threads(1)
        folder = base if is_adapter(policy) else policy
        model = load_model(folder, settings["dtype"])
        if is_adapter(policy):
            from peft import PeftModel

            # The adapter's layers are put into the model itself; it stays unmerged so
            # that what samples is what was trained.
            model = PeftModel.from_pretrained(model, policy).get_base_model()
        self.model = model.to(where).eval()
        self.prompts = Prompts.open(folder, settings)
        self.tokenizer = self.prompts.tokenizer
        self.temperature = float(settings["temperature"])
        self.top_p = float(settings["top_p"])
        self.batch = int(settings["batch"])
        self.longest = self.model.config.get_text_config().max_position_embeddings
        generation = self.model.generation_config
        family = self.prompts.family
        self.ends = family.end_ids(self.tokenizer, generation)
        mask = torch.zeros(self.model.get_output_embeddings().out_features, dtype=torch.bool)
        mask[forbidden_ids(family, self.tokenizer, self.model.config, generation)] = True
        self.forbidden = mask.to(where)

    def sample(self, requests: Sequence[Request]) -> Iterator[list[Sampled]]:
        """For each request in turn, one continuation per seed.

        `logprob` is the sum, over the continuation's tokens, of the log-softmax of the
        model's own logits: temperature 1, nothing forbidden, no nucleus. A request whose
        prompt, prefix and token limit together exceed the model's longest sequence gets
        samples with finish reason "dropped".
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
        """Sample all sequences to their ends, one token of each at a time.

        Shapes: mask (sequences, prompt + room), positions (sequences, 1) of the token to
        come, logits (sequences, vocab).
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
            going = [i for i, sequence in enumerate(sequences) if not sequence.reason]
            if not going:
                return
            if len(going) < GOING_ON * len(sequences):
                keep = torch.tensor(going, device=mask.device)
                sequences = [sequences[i] for i in going]
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
        """A token for each sequence and its log-probability."""
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
        """The ids as text without special tokens, and the characters covered by each token.

        A character made of several tokens counts once its last one is there.
        """
        return decode(self.tokenizer, token_ids)


def decode(tokenizer: Any, token_ids: Sequence[int]) -> tuple[str, list[int]]:
    """As `TransformersSampler.decode`, for a fast tokenizer."""
    whole: str = tokenizer.decode(list(token_ids), skip_special_tokens=True)
    stream = DecodeStream(skip_special_tokens=True)
    text, ends = "", []
    try:
        for token in token_ids:
            text += stream.step(tokenizer.backend_tokenizer, token) or ""
            ends.append(len(text))
    except Exception:  # noqa: BLE001  (the stream's own type; it gives up on odd bytes)
        ends = []
    if len(ends) == len(token_ids) and whole.startswith(text):
        return whole, ends
    # Bytes that are no text: compare prefix by prefix, slower but always right.
    ends = []
    for stop in range(1, len(token_ids) + 1):
        part = tokenizer.decode(list(token_ids[:stop]), skip_special_tokens=True).rstrip("\ufffd")
        ends.append(len(part) if whole.startswith(part) else (ends[-1] if ends else 0))
    return whole, ends
