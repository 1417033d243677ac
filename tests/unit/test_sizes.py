"""How many weights models have: the table of known ones against transformers' own models."""

from typing import Any

import pytest

from si.engines import sizes
from si.errors import RecipeError
from si.machine import packages

QWEN_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
}
QWEN_3B = {
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
}
QWEN_2B = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
}
INTERN_VIT = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "image_size": [448, 448],
    "patch_size": [14, 14],
}


def qwen2(text: dict[str, Any], tied: bool) -> dict[str, Any]:
    tower = {"embed_dim": 1280, "depth": 32, "mlp_ratio": 4, "hidden_size": text["hidden_size"]}
    return {
        "model_type": "qwen2_vl",
        "text_config": {"model_type": "qwen2_vl_text", **text},
        "vision_config": {"model_type": "qwen2_vl", **tower},
        "tie_word_embeddings": tied,
    }


def qwen25(text: dict[str, Any], tied: bool) -> dict[str, Any]:
    tower = {"hidden_size": 1280, "depth": 32, "intermediate_size": 3420}
    return {
        "model_type": "qwen2_5_vl",
        "text_config": {"model_type": "qwen2_5_vl_text", **text},
        "vision_config": {**tower, "out_hidden_size": text["hidden_size"]},
        "tie_word_embeddings": tied,
    }


# What matters of the published config.json of these models (huggingface.co/OWNER/NAME).
CONFIGS = {
    "Qwen/Qwen2-VL-2B-Instruct": qwen2(QWEN_2B, True),
    "Qwen/Qwen2-VL-7B-Instruct": qwen2(QWEN_7B, False),
    "Qwen/Qwen2.5-VL-3B-Instruct": qwen25(QWEN_3B, True),
    "Qwen/Qwen2.5-VL-7B-Instruct": qwen25(QWEN_7B, False),
    "OpenGVLab/InternVL2_5-4B-MPO-hf": {
        "model_type": "internvl",
        "text_config": {"model_type": "qwen2", **QWEN_3B, "vocab_size": 151674},
        "vision_config": {"model_type": "internvl_vision", **INTERN_VIT},
        "downsample_ratio": 0.5,
        "tie_word_embeddings": False,
    },
}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_table_is_what_transformers_builds() -> None:
    """Every known model's numbers are those of transformers' model on the meta device."""
    counted = {name: sizes.count(config) for name, config in CONFIGS.items()}
    assert {name: sizes.known(name) for name in CONFIGS} == counted
    assert len(CONFIGS) == len(sizes.KNOWN)


def test_known_models_need_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The light install knows the table's models by name, of any revision; another one's config
    is refused with the command that installs what counts it."""
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    size = sizes.size_of("Qwen/Qwen2-VL-7B-Instruct@main", {"model_type": "qwen2_vl"})
    assert size is not None and 8.2e9 < size.weights < 8.4e9
    assert sizes.size_of("OpenGVLab/InternVL2.5-4B", None) == sizes.KNOWN["internvl2_5-4b"]
    for name in ("meta-llama/Llama-3.2-11B-Vision", "Qwen/Qwen2-VL-72B-Instruct"):
        assert sizes.size_of(name, None) is None
    with pytest.raises(RecipeError, match="Counting a model's weights needs accelerate, ") as error:
        sizes.size_of("somebody/else", {"model_type": "qwen2_vl"})
    assert error.value.ways_out[0].startswith("Install: ")


def test_what_transformers_does_not_know_has_no_size() -> None:
    """A config of no vision-language model of transformers has no size."""
    assert sizes.count({"model_type": "bert", "hidden_size": 8}) is None
    assert sizes.count({"model_type": "scripted"}) is None
