"""The recipe: what is computed. Every setting that a stage reads is part of the stage's key."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from si.config.section import LATER, Positive, Section, unknown
from si.plugins import is_custom, label

RESAMPLING = ("ar", "gr")
RESHAPING = ("tc", "rp")
STRATEGIES = ("vanilla", "tc", "rp", "ar", "gr", "ar+tc", "ar+rp", "gr+tc", "gr+rp")
NAME = 20  # characters of a recipe's name, at most


AnswerKind: TypeAlias = Literal[
    "choice",
    "choices",
    "number",
    "expression",
    "set",
    "interval",
    "tuple",
    "equation",
    "boolean",
    "text",
]


class Data(Section):
    """The data set."""

    source: str = "synth:embedded"
    """`synth:puzzles` or `synth:embedded`, the address of a data set in the store
    (`data/<name>-<digest12>`), or `hub:owner/name[@revision]`: a data set of the Hugging Face hub,
    imported on first use."""
    map: Annotated[str, LATER] = ""
    """For a `hub:` source: which column holds which field, as in `data import --map`."""
    split: Annotated[str, LATER] = ""
    """For a `hub:` source: which rows are train, dev and test, as in `data import --split`."""
    answer_kind: Annotated[AnswerKind | None, LATER] = None
    """For a `hub:` source: kind of answers; by default inferred for each row."""
    skip_bad: Annotated[bool, LATER] = False
    """For a `hub:` source: skip unusable rows instead of refusing the data set."""
    schedule: Literal["fixed", "fresh"] = "fresh"
    """`fixed`: the same queries in every iteration; `fresh`: a disjoint slice for each."""
    slice_size: Positive = 200
    """Queries per iteration with `schedule: fresh`."""


class Model(Section):
    """Policy 0, the model to improve."""

    source: str = "embedded"
    """Policy 0: `embedded`, a folder with a Hugging Face checkpoint, `owner/name[@revision]` on the
    hub, or the address of a policy in the store (`policies/<name>-<digest12>`)."""
    family: Annotated[str, LATER] = "auto"
    """Model family: `auto` reads it from config.json; `package.module:Class` names a custom one."""

    @field_validator("family")
    @classmethod
    def _known_family(cls, value: str) -> str:
        if value != "auto" and not is_custom(value):
            raise ValueError(f"expected auto or package.module:Class, got {value!r}")
        return value


class Sampling(Section):
    """How responses are sampled."""

    engine: str = "transformers"
    """`transformers`, `vllm`, or `package.module:Class` of a custom sampler."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the weights while sampling."""
    temperature: float = Field(1.0, ge=0)
    """Sampling temperature; 0 is greedy decoding."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus sampling: probability mass to sample from; 1 for the full distribution."""
    max_new_tokens: Positive = 64
    """Maximum number of tokens in a response, including a guided prefix."""
    batch: Positive = 512
    """Sequences per batch of the transformers engine. It is part of the recipe because rounding
    depends on it."""
    system_prompt: str = ""
    """System prompt before the question; empty for none."""
    prompt_template: Annotated[str, LATER] = "{question}"
    """Template of the user's turn; `{question}` is replaced by the question."""
    image_tokens: Annotated[Positive | None, LATER] = None
    """Maximum number of tokens per image; larger images are shrunk. By default the limit of the
    checkpoint's processor."""

    @field_validator("prompt_template")
    @classmethod
    def _holds_question(cls, value: str) -> str:
        if value.count("{question}") != 1:
            raise ValueError("must contain {question} exactly once")
        return value


class Explore(Section):
    """How exploration is divided into shards."""

    shard_queries: Positive = 50
    """Queries per exploration shard, the most that a lost worker costs."""


class TcSettings(Section):
    """Threshold clipping."""

    limit: Positive | None = None
    """L, the maximum number of examples per query; by default max(1, K // 2)."""


class ArSettings(Section):
    """Adaptive-weighted resampling."""

    budget: float = Field(1.0, gt=0)
    """Second-round samples as a multiple of sum(K - k_i); 1 gives each query exactly K - k_i."""
    cap: Positive | None = None
    """Maximum number of second-round samples per query; by default 2K."""


class GrSettings(Section):
    """Guided resampling."""

    cuts: Positive = 4
    """S, the number of cuts in a trajectory."""
    reference: bool = False
    """Use the data set's rationale as the trajectory of a query without a success."""


class Near(Section):
    """How far a number may be from its reference."""

    absolute: float = Field(0.0, ge=0)
    """Largest difference between a number and its reference."""
    relative: float = Field(0.0, ge=0)
    """Largest difference as a share of the reference; 0.05 is five percent."""
    decimals: int | None = Field(None, ge=0, le=30)
    """Compare after rounding to so many decimal places."""


class Verify(Section):
    """How responses are judged."""

    judge: str = "answers"
    """`answers` compares final answers; `package.module:function` names a custom verifier."""
    profile: Annotated[Literal["strict", "lenient"], LATER] = "strict"
    """`strict` reads an answer only after a mark, or from a last line that is nothing but an
    answer; `lenient` also reads the last number, formula or option named."""
    tolerance: Annotated[Near, LATER] = Near()
    """How far a number may be from its reference; by default not at all."""
    units: Annotated[Literal["strict", "ignore"], LATER] = "strict"
    """`strict`: units must agree where both have one; `ignore`: they do not matter."""
    convert: Annotated[bool, LATER] = False
    """Compare units of one dimension by their value: 1 m equals 100 cm."""
    off: Annotated[tuple[str, ...], LATER] = ()
    """Rules that find an answer and are switched off, by their names in docs/judging.md."""
    math_timeout: float = Field(5.0, gt=0)
    """Time limit in seconds for math-verify to compare one pair of answers."""

    @field_validator("off")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        from si.answers.rules import RULES

        known = {rule.name for rule in RULES if rule.part == "find"} | {"thinking"}
        unknown = sorted(set(names) - known)
        if unknown:
            raise ValueError(
                f"no rule that finds is called {unknown[0]}; {', '.join(sorted(known))}"
            )
        return tuple(sorted(set(names)))  # their order changes nothing, so it is in no key


class Lora(Section):
    """A LoRA adapter."""

    r: Positive = 16
    """Rank."""
    alpha: Positive = 32
    """Scaling: updates are multiplied by alpha / r."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout probability on the adapter's input."""


class DeepSpeed(Section):
    """Settings of `trainer: deepspeed`."""

    zero: Literal[0, 2, 3] = 2
    """ZeRO stage, which decides what is partitioned across processes. 0: nothing; 2: optimizer
    state and gradients; 3: weights too."""
    offload: Literal["none", "optimizer", "parameters"] = "none"
    """What to offload to CPU memory: `optimizer` (its state) or `parameters` (weights and optimizer
    state, `zero: 3` only)."""
    gradient_checkpointing: bool = False
    """The same as `train.gradient_checkpointing`."""

    @model_validator(mode="after")
    def _fits(self) -> "DeepSpeed":
        if self.offload == "parameters" and self.zero != 3:
            raise ValueError("offload: parameters requires zero: 3")
        if self.offload == "optimizer" and self.zero == 0:
            raise ValueError("offload: optimizer requires zero: 2 or 3")
        return self


class Train(Section):
    """How the next policy is trained."""

    trainer: str = "transformers"
    """`transformers`, `deepspeed`, or `package.module:Class` of a custom trainer."""
    init: Literal["base", "previous"] = "base"
    """Start from policy 0 (`base`) or from the previous iteration's policy (`previous`)."""
    pool: Literal["iteration", "all"] = "iteration"
    """Train on the examples of this iteration, or of all iterations so far."""
    epochs: Positive = 1
    """Passes over the examples."""
    match_steps: int | str | list[int] | None = None
    """Fixed number of gradient steps: a number, a list with one per iteration, or the name of a run
    to match."""
    batch: Positive = 48
    """Global batch size: examples per gradient step."""
    micro_batch: Positive = 16
    """Micro-batch size on one device; gradients are accumulated over `batch` examples."""
    lr: float = Field(2e-4, gt=0)
    """Peak learning rate."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Warmup ratio: share of the steps before the peak learning rate, followed by cosine decay to
    0."""
    weight_decay: float = Field(0.01, ge=0)
    """Weight decay of AdamW; norms and biases have none."""
    clip: float = Field(1.0, gt=0)
    """Gradient clipping: maximum gradient norm."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the weights while training."""
    max_length: Positive = 512
    """Maximum length of an example in tokens, including images; longer ones are dropped and
    counted."""
    mask_prefix: bool = False
    """Exclude guided prefixes from the loss."""
    lora: Lora | None = None
    """Train a LoRA adapter instead of all weights; null for full fine-tuning."""
    freeze_vision: bool = True
    """Freeze the vision tower and the projector."""
    packing: Annotated[bool, LATER] = False
    """Sequence packing: concatenate examples into rows of up to `micro_batch` x `max_length` tokens
    instead of padding them. Examples in a row do not attend to each other."""
    cache_vision: Annotated[bool, LATER] = False
    """Compute the image features of a frozen vision tower once per query and cache them."""
    gradient_checkpointing: Annotated[bool, LATER] = False
    """Gradient checkpointing: recompute activations in the backward pass to save memory."""
    liger: Annotated[bool, LATER] = False
    """Use Liger kernels for norms and MLPs; requires a GPU and the package liger-kernel."""
    cpu_threads: Positive = 2
    """Number of threads on a CPU. It is part of the recipe because the order of sums depends on
    it."""
    deepspeed: DeepSpeed = DeepSpeed()
    """Read only with `trainer: deepspeed`; part of the key only then."""

    @model_validator(mode="after")
    def _fits(self) -> "Train":
        if self.trainer == "deepspeed" and self.dtype == "bfloat16" and not self.deepspeed.zero:
            # Measured: its losses are not those of ZeRO-2 and 3 (docs/engines.md).
            raise ValueError("deepspeed.zero: 0 does not support bfloat16; use 2 or 3")
        if self.cache_vision and not (self.lora or self.freeze_vision):
            raise ValueError("cache_vision requires freeze_vision or lora")
        if self.cache_vision and self.trainer == "deepspeed" and self.deepspeed.zero == 3:
            # Processes that compute features would wait for those that have them cached.
            raise ValueError("cache_vision requires deepspeed.zero: 0 or 2")
        return self


class Levels(Section):
    """How levels are measured."""

    k: int = Field(16, ge=0)
    """Samples of policy 0 per query to measure its level; 0 uses the first round of iteration 1."""


class Evaluate(Section):
    """How policies are scored."""

    splits: list[Literal["dev", "test"]] = Field(default=["dev", "test"])
    """Splits to score after each iteration. The best iteration is chosen on dev."""
    limit: Positive | None = None
    """Maximum number of queries per split; by default all."""
    samples: Annotated[Positive, LATER] = 1
    """Answers per held-out query. With one, the score is the accuracy of greedy answers; with n of
    them it is avg@n, their mean accuracy, beside pass@k and maj@n."""
    temperature: Annotated[float | None, Field(ge=0), LATER] = None
    """Temperature of these answers; by default 0 (greedy) for one answer a query, and
    `sampling.temperature` for several."""

    @property
    def greedy(self) -> bool:
        """Whether every query gets one answer at temperature 0."""
        return self.samples == 1 and not self.temperature


class Report(Section):
    """What the report contains."""

    samples: int = Field(10_000, ge=0)
    """Maximum number of responses in the sample browser; 0 for no browser."""
    text_mb: float = Field(2.0, gt=0)
    """Size limit of their text, in megabytes."""
    images_mb: float = Field(2.0, ge=0)
    """Size limit of their images, in megabytes; 0 for no images."""


class Recipe(Section):
    """What is computed. Every setting that a stage reads is part of the stage's key."""

    name: str = Field("embedded", pattern=rf"^[a-z0-9]([-a-z0-9]{{0,{NAME - 2}}}[a-z0-9])?$")
    """Short name, part of the default run name but of no key; by default that of the data set."""
    strategy: str = "gr"
    """vanilla, tc, rp, ar, gr, a resampling and a reshaping strategy joined by `+` (gr+tc), or
    `package.module:Class` of a custom strategy."""
    k: Positive = 8
    """K, the number of first-round samples per query."""
    iterations: Positive = 5
    """Number of iterations. It is part of no key, so you can add more later."""
    patience: Positive | None = None
    """Stop early after this many iterations in a row without a gain on dev. It is part of no key.
    By default all iterations run."""
    seed: int = Field(0, ge=0)
    """Random seed."""
    data: Data = Data()
    model: Model = Model()
    sampling: Sampling = Sampling()
    explore: Explore = Explore()
    tc: TcSettings = TcSettings()
    ar: ArSettings = ArSettings()
    gr: GrSettings = GrSettings()
    verify: Verify = Verify()
    train: Train = Train()
    levels: Levels = Levels()
    evaluate: Evaluate = Evaluate()
    report: Report = Report()
    """What the report contains. A finished run can get another report with other settings."""

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, given: Any) -> Any:
        data = given.get("data") if isinstance(given, dict) else None
        source = data.get("source") if isinstance(data, dict) else None
        if isinstance(source, str) and "name" not in given:
            given = {**given, "name": data_name(source)}
        return given

    @field_validator("strategy")
    @classmethod
    def _known_strategy(cls, value: str) -> str:
        parts = [part if is_custom(part) else part.lower() for part in value.split("+")]
        parts.sort(key=lambda part: part not in RESAMPLING)
        name = "+".join(parts)
        # A custom strategy may be combined with one of ours.
        rest = [part for part in parts if not is_custom(part)]
        mixed = len(rest) < len(parts) <= 2 and len(rest) < 2
        if ("+".join(rest) or "vanilla") not in STRATEGIES or (
            len(rest) < len(parts) and not mixed
        ):
            raise ValueError(unknown("strategy", value, STRATEGIES))
        return name

    @model_validator(mode="after")
    def _fits(self) -> "Recipe":
        if self.patience and "dev" not in self.evaluate.splits:
            raise ValueError("patience requires dev in evaluate.splits")
        if self.evaluate.samples > 1 and not self.evaluation_temperature:
            raise ValueError(
                "evaluate.samples: more than one answer a query requires a temperature above 0, "
                "since greedy answers are all alike; set evaluate.temperature"
            )
        return self

    @property
    def evaluation_temperature(self) -> float:
        """The temperature at which held-out queries are answered."""
        asked = self.evaluate
        if asked.greedy:
            return 0.0
        return self.sampling.temperature if asked.temperature is None else asked.temperature

    @property
    def held_out_shard(self) -> int:
        """Held-out queries per shard: with few responses a query, small batches would be slow."""
        return self.explore.shard_queries * max(1, 4 // self.evaluate.samples)

    @property
    def run_name(self) -> str:
        """`<recipe>-<strategy>-k<K>-s<seed>`, a DNS label of at most 30 characters."""
        tail = f"-{self.strategy_label}-k{self.k}-s{self.seed}"
        return f"{self.name[: 30 - len(tail)].rstrip('-')}{tail}"[:30]

    @property
    def strategy_label(self) -> str:
        """The strategy in a form that fits into a name."""
        return "-".join(label(part)[:10].strip("-") for part in self.strategy.split("+"))

    def pick(self, *fields: str) -> dict[str, Any]:
        """The values of these settings by dotted name (`sampling.top_p`), as JSON values."""
        flat = _flat(self.model_dump(mode="json"))
        return {field: flat[field] for field in fields}


def data_name(source: str) -> str:
    """A recipe's default name, from its `data.source`: `data/shapes-0123456789ab` -> `shapes`; of
    synthetic data `embedded`."""
    if source.startswith("synth:"):
        return "embedded"
    last = re.split(r"[/:]", source.partition("@")[0])[-1]
    word = re.sub(r"-[0-9a-f]{12}$", "", last) if source.startswith("data/") else last
    return label(word)[:20].strip("-") or "data"


# How far a run goes and what it is called: part of no key, free to change between commands.
UNBOUND = {"iterations", "patience", "name"}


def differences(old: Recipe, new: Recipe) -> list[str]:
    """`name: old -> new` for every setting that differs and affects what is computed."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    names = {
        name
        for name in (before.keys() | after.keys()) - UNBOUND
        if not name.startswith("report.")  # nothing is built on a report
    }
    return [
        f"{name}: {before.get(name)} -> {after.get(name)}"
        for name in sorted(names)
        if before.get(name) != after.get(name)
    ]


def _flat(tree: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{at}{key}.")
        else:
            flat[f"{at}{key}"] = value
    return flat
