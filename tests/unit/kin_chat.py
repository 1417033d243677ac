"""A tiny InternVL as OpenGVLab first published it, made from one of transformers' classes: other
names, one matrix for query, key and value, another config, a tokenizer that names no tokens."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from si.engines.hf import load_model
from tests.unit import kin

# transformers' names -> theirs.
NAMES = (
    ("model.vision_tower.embeddings.cls_token", "vision_model.embeddings.class_embedding"),
    (
        "model.vision_tower.embeddings.position_embeddings",
        "vision_model.embeddings.position_embedding",
    ),
    (
        "model.vision_tower.embeddings.patch_embeddings.projection",
        "vision_model.embeddings.patch_embedding",
    ),
    ("model.vision_tower.encoder.layer", "vision_model.encoder.layers"),
    ("attention.projection_layer", "attn.proj"),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("lambda_", "ls"),
    ("model.multi_modal_projector.layer_norm", "mlp1.0"),
    ("model.multi_modal_projector.linear_1", "mlp1.1"),
    ("model.multi_modal_projector.linear_2", "mlp1.3"),
    ("model.language_model", "language_model.model"),
    ("lm_head", "language_model.lm_head"),
)


def build(folder: Path, scratch: Path) -> tuple[Path, Path]:
    """Write the checkpoint to `folder`, in two files; its twin in transformers' names is made in
    `scratch`. Both are returned."""
    twin = kin.build("internvl", scratch)
    model = load_model(twin, "float32")
    with torch.no_grad():  # ones and zeros would hide what is mixed up
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(twin)
    weights: dict[str, torch.Tensor] = {}
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in model.state_dict().items():
        for new, old in NAMES:
            name = name.replace(new, old)
        if match := re.fullmatch(r"(vision_model.+)\.attention\.([qkv])_proj\.(\w+)", name):
            parts.setdefault(f"{match[1]}.attn.qkv.{match[3]}", {})[match[2]] = tensor
        else:
            weights[name] = tensor.contiguous()
    weights |= {name: torch.cat([found[c] for c in "qkv"]) for name, found in parts.items()}
    folder.mkdir()
    names = sorted(weights)
    for number, chosen in enumerate((names[::2], names[1::2]), 1):
        path = folder / f"model-{number:05d}-of-00002.safetensors"
        save_file({name: weights[name] for name in chosen}, path, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_config(model.config), indent=2))
    kin.tokenizer(["<img>", "</img>", "<IMG_CONTEXT>"]).save_pretrained(folder)
    return folder, twin


def _config(ours: Any) -> dict[str, Any]:
    text, vision = ours.text_config, ours.vision_config
    return {
        "model_type": "internvl_chat",
        "architectures": ["InternVLChatModel"],
        "auto_map": {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"},
        "downsample_ratio": ours.downsample_ratio,
        "dynamic_image_size": True,
        "force_image_size": vision.image_size[0],
        "max_dynamic_patch": 4,
        "min_dynamic_patch": 1,
        "pad2square": False,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "internvl2_5",
        "torch_dtype": "float32",
        "use_thumbnail": True,
        "llm_config": {
            "model_type": "qwen2",
            "architectures": ["Qwen2ForCausalLM"],
            "vocab_size": text.vocab_size,
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.num_hidden_layers,
            "num_attention_heads": text.num_attention_heads,
            "num_key_value_heads": text.num_key_value_heads,
            "max_position_embeddings": text.max_position_embeddings,
            "rms_norm_eps": text.rms_norm_eps,
            "rope_theta": text.rope_parameters["rope_theta"],
            "tie_word_embeddings": False,
            "hidden_act": "silu",
        },
        "vision_config": {
            "model_type": "intern_vit_6b",
            "hidden_size": vision.hidden_size,
            "intermediate_size": vision.intermediate_size,
            "num_hidden_layers": vision.num_hidden_layers,
            "num_attention_heads": vision.num_attention_heads,
            "image_size": vision.image_size[0],
            "patch_size": vision.patch_size[0],
            "hidden_act": "gelu",
            "layer_norm_eps": vision.layer_norm_eps,
            "norm_type": "layer_norm",
            "qk_normalization": False,
            "qkv_bias": vision.attention_bias,
            "initializer_factor": 1.0,
            "dropout": 0.0,
            "attention_dropout": 0.0,
        },
    }
