"""Policies in Hugging Face folders: loading, prompts, batches of prompts, decoding."""

import io
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers.decoders import DecodeStream
from torch import Tensor

from si.engines.families import CONFIG, Family, family_of, read_config
from si.engines.port import PromptSettings
from si.errors import RecipeError, SiError

ADAPTER_CONFIG = "adapter_config.json"
PROMPT_CACHE_BYTES = 1 << 29


def is_adapter(policy: Path) -> bool:
    """Whether the folder contains a PEFT adapter rather than a complete model."""
    return (policy / ADAPTER_CONFIG).exists()


def device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_model(folder: Path, dtype: str, nothing_else: bool = False) -> Any:
    """The model in a Hugging Face folder, on the CPU, in `dtype` ("float32", "bfloat16").

    Raises:
        SiError: if a weight is missing, which transformers would fill with random numbers; with
            `nothing_else`, also if there are unknown weights.
        RecipeError: if transformers has no image-text-to-text class for it.
    """
    import transformers

    quiet: Any = transformers.logging.disable_progress_bar
    quiet()
    auto: Any = transformers.AutoModelForImageTextToText
    config = load_config(folder)
    if type(config) not in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise RecipeError(
            f"{folder.name} is not a vision-language model",
            f"transformers {transformers.__version__} has no image-text-to-text class for "
            f"model_type {config.model_type}",
            "Name a vision-language model; config.json has the model type.",
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
            f"{len(wrong)} weights in {folder.name} do not match its model",
            "\n".join(wrong[:5]),
            "Was it written by another version of transformers, or with other tensor names?",
        )
    return model


def load_config(folder: Path) -> Any:
    """The model's config in a Hugging Face folder.

    Raises:
        RecipeError: if transformers does not support the model. Code in a checkpoint is never run.
    """
    import transformers

    auto: Any = transformers.AutoConfig
    kind = read_config(folder)["model_type"]
    if kind not in transformers.CONFIG_MAPPING:
        raise RecipeError(
            f"transformers {transformers.__version__} does not support models of type {kind!r}",
            f"{folder / CONFIG}; code in a checkpoint is never run",
            "Name a checkpoint for transformers' own classes; converted ones often end in `-hf`.",
        )
    return auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def load_processor(folder: Path) -> Any:
    """The processor (tokenizer, image processor, chat template) in a Hugging Face folder.

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
            "Name an instruction-tuned vision-language model with its processor's files.",
        )
    return processor


# --- prompts -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prompt:
    """A query in the form that the model reads.

    Attributes:
        ids: token ids up to the start of the response, including image tokens.
        kinds: further values per token, by name (`mm_token_type_ids`); 0 for response tokens.
        features: the images' tensors by name; a batch concatenates them.
    """

    ids: list[int]
    kinds: dict[str, list[int]]
    features: dict[str, Tensor]


def decode_images(encoded: Sequence[bytes]) -> list[Any]:
    """Encoded images (PNG, JPEG) as PIL images in RGB."""
    from PIL import Image

    return [Image.open(io.BytesIO(data)).convert("RGB") for data in encoded]


def conversation(question: str, images: Sequence[Any], system: str) -> list[dict[str, Any]]:
    """The turns before the response, in the form that chat templates expect."""
    content: list[dict[str, Any]] = [{"type": "image", "image": each} for each in images]
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]
    if system:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    return messages


def forbidden_ids(family: Family, tokenizer: Any, config: Any, generation: Any) -> list[int]:
    """Ids that are never sampled: tokens that represent images, tokens that the generation config
    suppresses, and ids without a token."""
    vocab = config.get_text_config().vocab_size
    ids = family.image_token_ids(tokenizer, config) | set(generation.suppress_tokens or ())
    ids |= set(range(len(tokenizer), vocab))
    return sorted(number for number in ids if number < vocab)


class Prompts:
    """Makes prompts with the processor's chat template. Each distinct query is rendered once, as
    long as the cache (`PROMPT_CACHE_BYTES`) holds it.

    Attributes:
        limits: the processor's limits on image size, as vLLM's `mm_processor_kwargs`.
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
    def open(cls, folder: Path, settings: PromptSettings) -> "Prompts":
        """The prompts of the model in a folder."""
        family = family_of(folder, settings.family)
        prompts = cls(load_processor(folder), settings.system_prompt, family)
        prompts.check_template(folder.name)
        if settings.image_tokens:
            prompts.limits = family.limit_image_tokens(prompts.processor, settings.image_tokens)
        return prompts

    def check_template(self, name: str) -> None:
        """Refuse a chat template without exactly one place per image: in some conversions it is
        older than transformers' processor.

        Raises:
            RecipeError: if it has none, or does not support the system turn that is configured.
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
                f"The chat template of {name} failed on a question about an image",
                str(error),
                "If it does not support system turns, leave sampling.system_prompt empty.",
            ) from error
        mark = getattr(self.processor, "image_token", None)
        if mark and text.count(mark) != 1:
            raise RecipeError(
                f"The chat template of {name} has no place for an image",
                f"expected {mark} once, got {text[:200]!r}",
                "Copy chat_template.jinja from a newer conversion of the model.",
            )

    def turns(self, question: str, images: Sequence[Any]) -> list[dict[str, Any]]:
        """The turns before the response.

        Raises:
            RecipeError: if the question contains image tokens.
        """
        self.family.check(question, self.tokenizer)
        return conversation(question, images, self.system)

    def __call__(self, question: str, images: tuple[bytes, ...]) -> Prompt:
        """The prompt for a question about encoded images (PNG or JPEG). Threads that need the same
        one at the same time share it."""
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
            self.turns(question, decode_images(images)),
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
    """Model inputs for prompts with their responses so far, padded on the left.

    Returns:
        `input_ids`, `attention_mask` and the prompts' kinds, int64 (sequences, longest);
        the images' features, concatenated.
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
    """The batch on the model's device, with positions unless the model computes them.

    Models with multi-dimensional positions (Qwen2-VL) compute them from the images' grids; for
    others, positions count along the attention mask.
    """
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    if not finds_positions(model, batch):
        batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return batch


def positions(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The positions that the model uses for a batch: int64 (sequences, longest), or
    (3, sequences, longest) for three-dimensional positions with images."""
    mask = batch["attention_mask"]
    if not finds_positions(model, batch):
        return (mask.cumsum(1) - 1).clamp(min=0)
    known = {name: batch[name] for name in ("image_grid_thw", "mm_token_type_ids")}
    found: Tensor = model.model.get_rope_index(batch["input_ids"], attention_mask=mask, **known)[0]
    return found


def finds_positions(model: Any, batch: dict[str, Tensor]) -> bool:
    """Whether the model computes the positions of this batch itself."""
    return hasattr(model.model, "get_rope_index") and "image_grid_thw" in batch


def decode(tokenizer: Any, token_ids: Sequence[int]) -> tuple[str, list[int]]:
    """As `TransformersSampler.decode`, for a fast tokenizer."""
    whole: str = tokenizer.decode(list(token_ids), skip_special_tokens=True)
    stream = DecodeStream(skip_special_tokens=True)
    text, ends = "", []
    try:
        for token in token_ids:
            text += stream.step(tokenizer.backend_tokenizer, token) or ""
            ends.append(len(text))
    except Exception:  # noqa: BLE001  (the stream's own type, raised on invalid bytes)
        ends = []
    if len(ends) == len(token_ids) and whole.startswith(text):
        return whole, ends
    # Invalid UTF-8: compare prefix by prefix, which is slower but always correct.
    ends = []
    for stop in range(1, len(token_ids) + 1):
        part = tokenizer.decode(list(token_ids[:stop]), skip_special_tokens=True).rstrip("\ufffd")
        ends.append(len(part) if whole.startswith(part) else (ends[-1] if ends else 0))
    return whole, ends
