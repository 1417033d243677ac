"""Tiny models of every family, made from their configs with random weights and tokenizers made on
the spot: the real classes at no size at all."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast

WORDS = ("Step", "Answer", "red", "blue", "Ġplus", "Ġred", "Ġblue", "user", "assistant")
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}MARK"
    "{% else %}{{ p['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PIXELS = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 64}
FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl")
OTHER = "llava"  # of a family that nobody has described


def tokenizer(special: list[str], **named: str) -> PreTrainedTokenizerFast:
    """A token a byte and a few words; `named` tokens become attributes (`start_image_token`)."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: i for i, piece in enumerate([*alphabet, *WORDS])}
    bare = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bare,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens=["<|im_start|>", *special],
        clean_up_tokenization_spaces=False,
        **named,
    )


def text_config(vocab: int, ends: int, pads: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "tie_word_embeddings": False,
        "eos_token_id": ends,
        "pad_token_id": pads,
        "bos_token_id": None,
    }


def build(family: str, folder: Path) -> Path:
    """Write a policy of that family (`FAMILIES`, or `OTHER`) to `folder`."""
    torch.manual_seed(0)
    model, processor = {"internvl": _internvl, OTHER: _llava}.get(family, _qwen)(family)
    ids = processor.tokenizer
    model.generation_config = GenerationConfig(
        eos_token_id=ids.eos_token_id, pad_token_id=ids.pad_token_id
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _qwen(family: str) -> tuple[Any, Any]:
    """Qwen2-VL, Qwen2.5-VL (windows in its vision tower), Qwen3-VL (features at several depths)."""
    tokens = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    fast = tokenizer(list(tokens))
    start, end, image, video = fast.convert_tokens_to_ids(list(tokens))
    text = text_config(len(fast), fast.eos_token_id, fast.pad_token_id)
    text["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": 1e4,
        "mrope_section": [8, 4, 4],
    }
    vision: dict[str, Any] = {"depth": 2, "hidden_size": 32, "num_heads": 2}
    vision |= {"initializer_range": 0.3, "patch_size": 14}
    if family == "qwen2_vl":
        name = "Qwen2VL"
        vision |= {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
    elif family == "qwen2_5_vl":
        name = "Qwen2_5_VL"
        vision |= {"fullatt_block_indexes": [1], "window_size": 56}
    else:
        name = "Qwen3VL"
        vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
        text["rope_parameters"]["mrope_interleaved"] = True
    if family != "qwen2_vl":
        vision |= {"intermediate_size": 64, "out_hidden_size": 64}
    videos = "Qwen3VL" if family == "qwen3_vl" else "Qwen2VL"
    config = getattr(transformers, f"{name}Config")(
        text_config=text,
        vision_config=vision,
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=False,
    )
    made = getattr(transformers, f"{name}Processor")(
        image_processor=transformers.Qwen2VLImageProcessor(size=dict(PIXELS)),
        tokenizer=fast,
        video_processor=getattr(transformers, f"{videos}VideoProcessor")(size=dict(PIXELS)),
        chat_template=CHAT.replace("MARK", "<|vision_start|><|image_pad|><|vision_end|>"),
    )
    return getattr(transformers, f"{name}ForConditionalGeneration")(config), made


def _internvl(_: str) -> tuple[Any, Any]:
    """InternVL: tiles of 56 pixels, four tokens each; a Qwen2 decoder."""
    fast = tokenizer(
        ["<img>", "</img>", "<IMG_CONTEXT>", "<video>"],
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    config = transformers.InternVLConfig(
        text_config=text_config(len(fast), fast.eos_token_id, fast.pad_token_id)
        | {"model_type": "qwen2", "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": [56, 56],
            "patch_size": [14, 14],
            "initializer_range": 0.3,
        },
        image_token_id=fast.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    size = {"height": 56, "width": 56}
    made = transformers.InternVLProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(
            size=size, crop_to_patches=True, min_patches=1, max_patches=4
        ),
        tokenizer=fast,
        video_processor=transformers.InternVLVideoProcessor(size=size),
        image_seq_length=4,
        chat_template=CHAT.replace("MARK", "<IMG_CONTEXT>\n"),
    )
    return transformers.InternVLForConditionalGeneration(config), made


def _llava(_: str) -> tuple[Any, Any]:
    """LLaVA: a CLIP tower, pictures of one size, a Llama decoder."""
    fast = tokenizer(["<image>"])
    config = transformers.LlavaConfig(
        text_config=text_config(len(fast), fast.eos_token_id, fast.pad_token_id)
        | {"model_type": "llama"},
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 14,
        },
        image_token_id=fast.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
        tie_word_embeddings=False,
    )
    made = transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(
            size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}
        ),
        tokenizer=fast,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT.replace("MARK", "<image>\n"),
    )
    return transformers.LlavaForConditionalGeneration(config), made
