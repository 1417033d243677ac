"""InternVL as OpenGVLab first published it becomes transformers' own classes, weight by weight."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from si.config.recipe import Recipe
from si.engines.convert_internvl import convert
from si.engines.hf import Prompts, load_model, load_processor
from si.engines.port import PromptSettings
from si.engines.transformers import TransformersSampler
from si.errors import RecipeError
from si.records import Request
from tests.unit import kin_chat, tiny


@pytest.fixture
def chat(tmp_path: Path) -> tuple[Path, Path]:
    """A tiny checkpoint in that layout, and its twin."""
    return kin_chat.build(tmp_path / "chat", tmp_path / "twin")


def test_every_weight_finds_its_place(chat: tuple[Path, Path], tmp_path: Path) -> None:
    """The converted model has its twin's weights, shapes and sizes, bit for bit, and samples."""
    folder, twin = chat
    out = convert(folder, tmp_path / "out")
    ours, theirs = load_model(out, "float32", nothing_else=True), load_model(twin, "float32")
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name
    tokenizer = load_processor(out).tokenizer
    assert tokenizer.convert_ids_to_tokens(ours.config.image_token_id) == "<IMG_CONTEXT>"
    prompt = Prompts.open(out, PromptSettings())("What?", (tiny.picture(1, 5),))
    tiles = len(prompt.features["pixel_values"])
    assert tiles > 1 and prompt.ids.count(ours.config.image_token_id) == 4 * tiles
    ((sampled,),) = TransformersSampler(out, out, Recipe().sampling).sample(
        [Request("What?", (tiny.picture(1, 5),), (1,), (), 8)]
    )
    assert sampled.token_ids


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("kind", ["decoder", "shuffle", "strange", "missing", "shape"])
def test_what_does_not_fit_is_named(kind: str, chat: tuple[Path, Path], tmp_path: Path) -> None:
    """Another decoder, another arrangement, a weight too many, too few or of another shape."""
    folder, _ = chat
    file = folder / "model-00001-of-00002.safetensors"
    weights = load_file(file)
    first = next(name for name in weights if name.startswith("language_model.model.layers"))
    if kind == "decoder":
        change(folder / "config.json", llm_config={"model_type": "internlm2"})
    elif kind == "shuffle":
        change(folder / "config.json", ps_version="v1")
    elif kind == "strange":
        weights["vision_model.head.weight"] = torch.ones(2)
    elif kind == "missing":
        del weights[first]
    else:
        weights[first] = torch.ones(7)
    save_file(weights, file, {"format": "pt"})
    words = {
        "decoder": "llm_config.model_type is 'internlm2'",
        "shuffle": "ps_version is 'v1'",
        "strange": "unknown weight vision_model.head.weight",
    }
    with pytest.raises(RecipeError, match=words.get(kind, "1 weights do not match the model")):
        convert(folder, tmp_path / "out")
