"""Model families: what each declares is what transformers' own classes have; a family that nobody
has described works as far as it can be asked, and what cannot work is refused by name."""

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from si.config.recipe import Lora
from si.engines.families import FAMILIES, Family, family_of
from si.engines.hf import Prompts, collate, load_model, load_processor
from si.engines.port import PromptSettings
from si.engines.trainer import TransformersTrainer, language_parameters
from si.engines.transformers import TransformersSampler
from si.engines.writing import tensor_names
from si.errors import RecipeError, SiError
from si.records import Request, TrainingRow
from tests.unit import kin, tiny
from tests.unit.settings import sampling, training

GREEDY = sampling(temperature=0.0)
SIZES: dict[str, Any] = {"batch": 8, "micro_batch": 3, "lr": 1e-2, "steps": 2}
TRAIN = training(**SIZES)
ASKED = [
    Request("Compute red plus blue", (tiny.picture(1),), (1,), (), 20),
    Request("Which?", (tiny.picture(2, 5), tiny.picture(3)), (1,), (), 20),
    Request("No picture", (), (1,), (), 20),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A policy of each family, and one of a family that nobody has described."""
    folder = tmp_path_factory.mktemp("kin")
    return {name: kin.build(name, folder / name) for name in (*kin.FAMILIES, kin.OTHER)}


def size_of(picture: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", picture, (200, 30, 90)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("name", kin.FAMILIES)
def test_what_is_declared_is_what_the_classes_have(name: str, made: dict[str, Path]) -> None:
    """Vision modules are all but decoder and head; picture tokens those that names would tell."""
    policy = made[name]
    family, model = family_of(policy), load_model(policy, "float32")
    assert name in family.model_types
    language = {id(parameter) for parameter in language_parameters(model)}
    for weight, parameter in model.named_parameters():
        assert family.is_vision(weight) == (id(parameter) not in language), weight
        assert Family().is_vision(weight) == family.is_vision(weight)
    tokenizer = load_processor(policy).tokenizer
    ids = family.image_token_ids(tokenizer, model.config)
    assert (
        ids == Family().image_token_ids(tokenizer, model.config)
        and model.config.image_token_id in ids
    )
    generation = transformers.GenerationConfig()
    assert family.end_ids(tokenizer, generation) == {tokenizer.convert_tokens_to_ids("<|im_end|>")}


@pytest.mark.parametrize("name", [*kin.FAMILIES, kin.OTHER])
def test_samples_are_those_of_generate(name: str, made: dict[str, Path]) -> None:
    """Greedy responses in a batch, pictures or none, are transformers' own, one by one."""
    policy = made[name]
    sampler = TransformersSampler(policy, policy, GREEDY)
    model, prompts = sampler.model, sampler.prompts
    forbidden = sampler.forbidden.nonzero().flatten().tolist()
    for request, (sampled,) in zip(ASKED, sampler.sample(ASKED), strict=True):
        inputs = collate([prompts(request.question, request.images)], [[]], prompts.pad)
        said = model.generate(
            **inputs, max_new_tokens=20, do_sample=False, suppress_tokens=forbidden
        )
        assert tuple(said[0, inputs["input_ids"].shape[1] :].tolist()) == sampled.token_ids


@pytest.mark.parametrize("name", [*kin.FAMILIES, kin.OTHER])
def test_each_family_trains(name: str, made: dict[str, Path], tmp_path: Path) -> None:
    """The whole model and an adapter learn, leave the vision tower alone, and sample again."""
    policy = made[name]
    rows = [TrainingRow(f"Say {n % 2}", (tiny.picture(n),), (4, n, 5, 9), 0) for n in range(4)]
    rows.append(TrainingRow("Which?", (tiny.picture(2, 5), tiny.picture(3)), (7, 8), 0))
    whole, adapter = tmp_path / "whole", tmp_path / "adapter"
    for out, lora in ((whole, None), (adapter, Lora(r=4, alpha=8).model_dump())):
        out.mkdir()
        settings = training(**SIZES, lora=lora)
        facts = TransformersTrainer().train(rows, policy, policy, out, settings, 0).facts
        assert facts["dropped"] == 0 and facts["losses"][1] < facts["losses"][0]
        (*_, (sampled,)) = TransformersSampler(out, policy, GREEDY).sample(ASKED)
        assert sampled.token_ids
    before, after = load_model(policy, "float32"), load_model(whole, "float32")
    language = {id(parameter) for parameter in language_parameters(after)}
    old = dict(before.named_parameters())
    for weight, parameter in after.named_parameters():
        if id(parameter) not in language:
            assert torch.equal(parameter, old[weight]), weight
    assert not torch.equal(
        after.get_output_embeddings().weight, before.get_output_embeddings().weight
    )


@pytest.mark.parametrize("name", ["qwen2_vl", "internvl"])
def test_tensors_keep_the_names_of_policy_0(
    name: str, made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained weights bear the names in policy 0's files, in either fashion; others are refused."""
    row = TrainingRow("Say", (tiny.picture(1),), (4, 5), 0)
    model = load_model(made[name], "float32")
    other = tmp_path / "other"
    shutil.copytree(made[name], other)
    model.save_pretrained(other, save_original_format=False)
    assert tensor_names(other) != tensor_names(made[name])
    for number, policy in enumerate((made[name], other)):
        out = tmp_path / f"out{number}"
        out.mkdir()
        TransformersTrainer().train([row], policy, policy, out, TRAIN, 0)
        assert tensor_names(out) == tensor_names(policy)
    save = type(model).save_pretrained
    monkeypatch.setattr(
        type(model),
        "save_pretrained",
        lambda self, out: save(self, out, save_original_format=False),
    )
    (tmp_path / "renamed").mkdir()
    with pytest.raises(SiError, match="with other tensor names"):
        TransformersTrainer().train([row], made[name], made[name], tmp_path / "renamed", TRAIN, 0)


@pytest.mark.parametrize("name", kin.FAMILIES)
@pytest.mark.parametrize("tokens", [8, 18, 30])
def test_pictures_take_no_more_tokens_than_asked(
    name: str, tokens: int, made: dict[str, Path]
) -> None:
    """image_tokens bounds what a large picture costs in a prompt; without it, it costs more."""
    large = (size_of((400, 300)),)
    counts = []
    for limit in (tokens, None):
        prompts = Prompts.open(made[name], PromptSettings(image_tokens=limit))
        counts.append(len(prompts("Hi", large).ids) - len(prompts("Hi", ()).ids))
    # What frames it and the template's own marks come on top of a Qwen picture's tokens.
    assert 0 < counts[0] <= tokens + 2 and (counts[0] < counts[1] or counts[1] <= tokens)


def test_a_limit_that_leaves_nothing_is_refused(made: dict[str, Path]) -> None:
    """Fewer tokens than a tile has are an error by the setting's name; so is any limit for a family
    that nobody has described."""
    for name, tokens in (("internvl", 5), (kin.OTHER, 500)):
        with pytest.raises(RecipeError, match=r"sampling.image_tokens"):
            Prompts.open(made[name], PromptSettings(image_tokens=tokens))


@pytest.mark.parametrize("name", [*kin.FAMILIES, kin.OTHER])
def test_text_that_would_be_a_picture_is_refused(name: str, made: dict[str, Path]) -> None:
    """A question that holds a picture's token stops by name; a picture too few would crash."""
    prompts = Prompts.open(made[name], PromptSettings())
    token = prompts.tokenizer.convert_ids_to_tokens(
        load_model(made[name], "float32").config.image_token_id
    )
    with pytest.raises(RecipeError, match="represents an image"):
        prompts(f"What is {token}?", (tiny.picture(1),))


def config(folder: Path, **fields: object) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


def test_code_of_a_checkpoint_is_refused(tmp_path: Path) -> None:
    """InternVL's first checkpoints are refused with the way to converted ones."""
    folder = config(
        tmp_path / "InternVL2_5-4B",
        model_type="internvl_chat",
        auto_map={"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"},
    )
    with pytest.raises(RecipeError, match="with its own code") as raised:
        family_of(folder)
    assert "-hf" in " ".join(raised.value.ways_out)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_type": "nobody_knows"}, "does not support models of type 'nobody_knows'"),
        ({"model_type": "gpt2"}, "is not a vision-language model"),
        ({}, "is not a Hugging Face checkpoint"),
    ],
)
def test_what_cannot_be_loaded_is_named(fields: dict, words: str, tmp_path: Path) -> None:
    """A type that transformers does not know, one without pictures, and none at all."""
    with pytest.raises(RecipeError, match=words):
        load_model(config(tmp_path / "model", **fields), "float32")


def test_a_processor_without_a_template_is_named(made: dict[str, Path], tmp_path: Path) -> None:
    """A base model that has no chat template is no policy that could be asked."""
    shutil.copytree(made["internvl"], tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink()
    with pytest.raises(RecipeError, match="has no chat template"):
        load_processor(tmp_path / "base")


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("<IMG_CONTEXT>", "<image>", "has no place for an image"),
        ("<IMG_CONTEXT>", "<IMG_CONTEXT><IMG_CONTEXT>", "has no place for an image"),
        ("{% for m", "{{ raise_exception('no') }}{% for m", "failed on a question"),
    ],
)
def test_a_template_of_another_age_is_named(
    before: str, after: str, words: str, made: dict[str, Path], tmp_path: Path
) -> None:
    """A chat template that marks pictures otherwise than the processor reads, or refuses."""
    folder = tmp_path / "model"
    shutil.copytree(made["internvl"], folder)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace(before, after))
    with pytest.raises(RecipeError, match=words):
        Prompts.open(folder, PromptSettings())


MINE = """
from si.engines.families import Family

class Mine(Family):
    name = "mine"
    image_tokens = ("red",)

class Stranger:
    pass
"""


def test_a_family_of_ones_own(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is taken from where the recipe says, before the model's own; a stranger is refused."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    assert family_of(made["qwen3_vl"], "mine:Mine").name == "mine"
    prompts = Prompts.open(made["qwen3_vl"], PromptSettings(family="mine:Mine"))
    with pytest.raises(RecipeError, match="contains red"):
        prompts("red?", ())
    with pytest.raises(RecipeError, match="does not derive from Family"):
        family_of(made["qwen3_vl"], "mine:Stranger")
    with pytest.raises(RecipeError, match="cannot be imported"):
        family_of(made["qwen3_vl"], "mine:Nobody")
    sys.modules.pop("mine")


def test_each_type_has_one_family() -> None:
    """No model_type is claimed by two families, or both claimed and refused."""
    kinds = [kind for family in FAMILIES for kind in (*family.model_types, *family.foreign_types)]
    assert len(kinds) == len(set(kinds)) and family_of.__module__ == "si.engines.families"
