"""A tiny Qwen2-VL with random weights and a byte-level tokenizer, made in a second, and pictures
for it: what tests of sampling and training need of a policy, at no size at all."""

import functools
import io
import random
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

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
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def processor(cells: int = 64) -> Qwen2VLProcessor:
    """One token a byte and a few words, so that other alphabets' letters are several tokens; a
    picture has `cells` tokens at most."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["red", "blue", "Ġplus", "Ġred", "Ġblue", "Answer", "user", "assistant"]
    vocab = {piece: i for i, piece in enumerate([*alphabet, *words])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens=[START, VISION_START, VISION_END, IMAGE, VIDEO],
        clean_up_tokenization_spaces=False,
    )
    pixels = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * cells}
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=pixels),
        tokenizer=fast,
        video_processor=Qwen2VLVideoProcessor(size=pixels),
        chat_template=TEMPLATE,
    )


def build(
    folder: Path,
    hidden: int = 32,
    layers: int = 2,
    seed: int = 0,
    spread: float = 0.3,
    positions: int = 256,
    text: dict[str, Any] | None = None,
    vision: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    cells: int = 64,
) -> Path:
    """Write the policy to `folder`. `spread` is the weights' deviation: the larger, the less
    uniform what it says; `positions` is the longest sequence it takes; `text` and `vision` are
    more of the two parts' configuration; `cells` as of `processor`."""
    torch.manual_seed(seed)
    made = processor(cells)
    ids = {token: made.tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(made.tokenizer),
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": hidden // 16,
            "num_key_value_heads": hidden // 16,
            "max_position_embeddings": positions,
            "initializer_range": spread,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [4, 2, 2],
            },
            "eos_token_id": ids[END],
            "pad_token_id": ids[PAD],
            **(text or {}),
        },
        vision_config={
            "depth": 1,
            "embed_dim": 32,
            "hidden_size": hidden,
            "num_heads": 2,
            "mlp_ratio": 2,
            "initializer_range": spread,
            **(vision or {}),
        },
        image_token_id=ids[IMAGE],
        video_token_id=ids[VIDEO],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
        tie_word_embeddings=(text or {}).get("tie_word_embeddings", True),
    )
    model = Qwen2VLForConditionalGeneration._from_config(config, dtype=dtype)
    model.generation_config = GenerationConfig(eos_token_id=ids[END], pad_token_id=ids[PAD])
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


@functools.cache
def picture(seed: int, cells: int = 3) -> bytes:
    """A PNG of `cells` x `cells` coloured squares of 28 pixels; nine cells are nine tokens."""
    rng = random.Random(seed)
    image = Image.new("RGB", (cells, cells))
    image.putdata([tuple(rng.randrange(256) for _ in range(3)) for _ in range(cells * cells)])
    file = io.BytesIO()
    image.resize((28 * cells, 28 * cells), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()
