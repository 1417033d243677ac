"""The architecture of the embedded policy: tokenizer, processor, model, and tensors for puzzles."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from si.embedded import families
from si.embedded.drawing import COLOURS, Puzzle

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

# transformers' models and processors have no useful types.
Model = Any
Processor = Any

# Numbers are split into groups of two digits from the right, so that 0..99 are one token each,
# including sign and leading space. `Answer:` is one token too.
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
    """The settings of architecture and training."""

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

    There are no merges: a word is either in the vocabulary or spelled in bytes, so that any text
    can be encoded and decoded without loss.
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
    """The tokenizer with Qwen2-VL's image processor, for images of 84 x 84 pixels and more."""
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
    """A new model with random weights from torch's global generator."""
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
            # Sections for time, row and column, which sum to half a head's width.
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
        # An image token in a response would refer to an image that does not exist.
        suppress_tokens=[ids[t] for t in (VISION_START, VISION_END, IMAGE, VIDEO, START, PAD)],
    )
    return model


class Codec:
    """Turns puzzles into tensors with the processor's code, many puzzles at once."""

    def __init__(self, processor: Processor):
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.end = self.tokenizer.convert_tokens_to_ids(END)
        self.pad = self.tokenizer.convert_tokens_to_ids(PAD)
        self.image = self.tokenizer.convert_tokens_to_ids(IMAGE)

    def pixels(self, puzzles: Sequence[Puzzle]) -> torch.Tensor:
        """Patches of the images, (puzzles, 36, 1176) float32."""
        out = []
        for i in range(0, len(puzzles), 256):
            images = [torch.from_numpy(p.image.transpose(2, 0, 1)) for p in puzzles[i : i + 256]]
            out.append(self.processor.image_processor(images, return_tensors="pt").pixel_values)
        return torch.cat(out).view(len(puzzles), 36, -1)

    def prompt(self, question: str) -> list[int]:
        """Token ids of the user's turn with an 84 x 84 image, up to the start of the answer."""
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        return list(self.tokenizer(text.replace(IMAGE, IMAGE * 9)).input_ids)

    def response(self, text: str) -> list[int]:
        """Token ids of a response, including its end."""
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
