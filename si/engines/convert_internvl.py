"""Converts OpenGVLab's original InternVL checkpoints (`model_type: internvl_chat`) to transformers.

Such checkpoints contain code, which is not run. Weights are renamed, one file at a time; config,
tokenizer, processor and chat template are created. Only checkpoints with a Qwen2 decoder (InternVL
2.5 1B and 4B, for example) can be converted; others have InternLM2.

    python -m si.engines.convert_internvl FOLDER OUT
"""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from si.engines.families import read_config
from si.errors import RecipeError

# The template of -hf checkpoints: images first, each on its own line, and no system turn.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<IMG_CONTEXT>\n"
    "{% elif part['type'] == 'video' %}<video>\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Original names -> transformers' names.
_LAYER, LAYER = r"vision_model\.encoder\.layers\.(\d+)\.", r"vision_tower.encoder.layer.\1."
_IN, IN = r"vision_model\.embeddings\.", "vision_tower.embeddings."
NAMES = (
    (_IN + r"class_embedding", IN + "cls_token"),
    (_IN + r"position_embedding", IN + "position_embeddings"),
    (_IN + r"patch_embedding\.(.+)", IN + r"patch_embeddings.projection.\1"),
    (_LAYER + r"ls(\d)", LAYER + r"lambda_\2"),
    (_LAYER + r"norm1\.(.+)", LAYER + r"layernorm_before.\2"),
    (_LAYER + r"norm2\.(.+)", LAYER + r"layernorm_after.\2"),
    (_LAYER + r"attn\.proj\.(.+)", LAYER + r"attention.projection_layer.\2"),
    (_LAYER + r"attn\.((?:qkv|q_norm|k_norm)\..+)", LAYER + r"attention.\2"),
    (_LAYER + r"(mlp\..+)", LAYER + r"\2"),
    (r"mlp1\.0\.(.+)", r"multi_modal_projector.layer_norm.\1"),
    (r"mlp1\.1\.(.+)", r"multi_modal_projector.linear_1.\1"),
    (r"mlp1\.3\.(.+)", r"multi_modal_projector.linear_2.\1"),
    (r"language_model\.model\.(.+)", r"language_model.\1"),
)
TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}


def convert(folder: Path, out: Path) -> Path:
    """Write the checkpoint in `folder` to `out` as transformers' InternVL; returns `out`.

    Raises:
        RecipeError: if it cannot be converted, or a weight is missing or unknown.
    """
    import transformers

    original = check(folder, folder.name)
    out.mkdir(parents=True, exist_ok=True)
    named = json.loads((folder / "tokenizer_config.json").read_bytes())["tokenizer_class"]
    tokenizer = getattr(transformers, named).from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, **TOKENS
    )
    config = _config(original, tokenizer)
    written = _write_weights(folder, out)
    _compare(config, written)
    config.save_pretrained(out)
    _processor(original, config, tokenizer).save_pretrained(out)
    ends = [tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.pad_token_id]
    generation: Any = transformers.GenerationConfig
    generation(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id).save_pretrained(out)
    for terms in folder.glob("LICENSE*"):
        shutil.copyfile(terms, out / terms.name)
    return out


def check(folder: Path, name: str) -> dict[str, Any]:
    """The config of the checkpoint in a folder.

    Raises:
        RecipeError: if it cannot be converted.
    """
    original: dict[str, Any] = read_config(folder, foreign=True)
    wanted = {
        "model_type": (original["model_type"], "internvl_chat"),
        "llm_config.model_type": (original.get("llm_config", {}).get("model_type"), "qwen2"),
        "ps_version": (original.get("ps_version"), "v2"),
        "select_layer": (original.get("select_layer"), -1),
    }
    for setting, (got, expected) in wanted.items():
        if got != expected:
            raise RecipeError(
                f"{name} cannot be converted: {setting} is {got!r}",
                f"expected {expected!r}",
                "Name a converted checkpoint; its name ends in -hf.",
            )
    return original


def _config(original: dict[str, Any], tokenizer: Any) -> Any:
    import transformers

    text, vision = original["llm_config"], original["vision_config"]
    rope = {"rope_type": "default", **(text.get("rope_scaling") or {})}
    rope["rope_theta"] = text.get("rope_theta", 1e4)
    side, patch = original.get("force_image_size") or vision["image_size"], vision["patch_size"]
    ratio = original["downsample_ratio"]
    dropout = vision.get("attention_dropout", 0.0)
    configs: Any = transformers.InternVLConfig
    return configs(
        text_config={
            "model_type": "qwen2",
            "rope_parameters": rope,
            "bos_token_id": None,
            "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
            "pad_token_id": tokenizer.pad_token_id,
            **{
                name: text[name]
                for name in (
                    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
                    *("num_attention_heads", "num_key_value_heads", "max_position_embeddings"),
                    *("hidden_act", "rms_norm_eps", "tie_word_embeddings"),
                )
                if name in text
            },
        },
        vision_config={
            "image_size": [side, side],
            "patch_size": [patch, patch],
            "attention_bias": vision.get("qkv_bias", False),
            "use_qk_norm": vision.get("qk_normalization", False),
            "attention_dropout": dropout,
            "projection_dropout": dropout,
            "layer_norm_eps": vision.get("layer_norm_eps", 1e-6),
            "norm_type": vision.get("norm_type", "layer_norm"),
            **{
                name: vision[name]
                for name in (
                    *("hidden_size", "intermediate_size", "num_hidden_layers"),
                    *("num_attention_heads", "hidden_act"),
                )
            },
        },
        image_token_id=tokenizer.convert_tokens_to_ids(TOKENS["context_image_token"]),
        image_seq_length=int((side // patch) ** 2 * ratio**2),
        downsample_ratio=ratio,
        tie_word_embeddings=text.get("tie_word_embeddings", False),
        dtype=original.get("torch_dtype") or original.get("dtype") or "bfloat16",
        architectures=["InternVLForConditionalGeneration"],
    )


def _processor(original: dict[str, Any], config: Any, tokenizer: Any) -> Any:
    import transformers

    side = config.vision_config.image_size[0]
    size = {"height": side, "width": side}
    means = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    tokenizer.chat_template = TEMPLATE
    made: Any = transformers.InternVLProcessor
    images: Any = transformers.GotOcr2ImageProcessor
    videos: Any = transformers.InternVLVideoProcessor
    return made(
        image_processor=images(
            size=size,
            crop_to_patches=original.get("dynamic_image_size", True),
            min_patches=original.get("min_dynamic_patch", 1),
            max_patches=original.get("max_dynamic_patch", 12),
            **means,
        ),
        tokenizer=tokenizer,
        video_processor=videos(size=size, **means),
        image_seq_length=config.image_seq_length,
        chat_template=TEMPLATE,
    )


def _write_weights(folder: Path, out: Path) -> dict[str, list[int]]:
    """Write the weights with their new names, file by file; returns names and shapes."""
    shapes: dict[str, list[int]] = {}
    where: dict[str, str] = {}
    size = 0
    for path in sorted(folder.glob("*.safetensors")):
        tensors: dict[str, Tensor] = {}
        with safe_open(path, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                tensors |= dict(_renamed(name, opened.get_tensor(name)))
        save_file(tensors, out / path.name, {"format": "pt"})
        shapes |= {name: list(tensor.shape) for name, tensor in tensors.items()}
        where |= dict.fromkeys(tensors, path.name)
        size += sum(tensor.nbytes for tensor in tensors.values())
    if len(set(where.values())) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(where.items()))}
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return shapes


def _renamed(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A weight with its new name. The vision tower's QKV matrix is split in three."""
    if name == "language_model.lm_head.weight":
        yield "lm_head.weight", tensor
        return
    for pattern, new in NAMES:
        found = re.fullmatch(pattern, name)
        if found:
            renamed = f"model.{found.expand(new)}"
            if ".qkv." not in renamed:
                yield renamed, tensor
                return
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                yield renamed.replace(".qkv.", f".{part}_proj."), piece.contiguous()
            return
    raise RecipeError(f"The checkpoint cannot be converted: unknown weight {name}")


def _compare(config: Any, written: dict[str, list[int]]) -> None:
    """Compare names and shapes with those of the model that the config describes.

    Raises:
        RecipeError: naming the first that differ.
    """
    import transformers

    with torch.device("meta"):
        model: Any = transformers.InternVLForConditionalGeneration(config)
    wanted = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        wanted.pop("lm_head.weight", None)
        written = {name: shape for name, shape in written.items() if name != "lm_head.weight"}
    wrong = sorted(
        name for name in wanted.keys() | written.keys() if wanted.get(name) != written.get(name)
    )
    if wrong:
        raise RecipeError(
            f"{len(wrong)} weights do not match the model in config.json",
            "\n".join(f"{n}: {written.get(n)}, expected {wanted.get(n)}" for n in wrong[:5]),
        )


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
