"""The recipe: what is computed. Everything in it that a stage reads is part of the stage's key."""

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from si.config.section import LATER, Positive, Section
from si.plugins import is_custom, label

RESAMPLING = ("ar", "gr")
RESHAPING = ("tc", "rp")
STRATEGIES = ("vanilla", "tc", "rp", "ar", "gr", "ar+tc", "ar+rp", "gr+tc", "gr+rp")


class Data(Section):
    source: str = "synth:embedded"
    """`synth:embedded`, the address of a data set in the store (`data/<name>-<digest12>`), or
    `hub:owner/name`, also with `@revision`: a data set of the Hugging Face hub, imported when it is
    first used."""
    map: Annotated[str, LATER] = ""
    """Of a `hub:` source: which column holds what, as `data import --map` takes it."""
    split: Annotated[str, LATER] = ""
    """Of a `hub:` source: which rows are train, dev and test, as `data import --split` takes it."""
    answer_kind: Annotated[Literal["number", "choice", "text"] | None, LATER] = None
    """Of a `hub:` source: kind of the answers; by default inferred for each row."""
    skip_bad: Annotated[bool, LATER] = False
    """Of a `hub:` source: leave out rows that cannot be used, instead of refusing them all."""
    schedule: Literal["fixed", "fresh"] = "fresh"
    """`fixed`: the same queries every iteration; `fresh`: a disjoint slice per iteration."""
    slice_size: Positive = 200
    """Queries per iteration under `fresh`."""


class Model(Section):
    source: str = "embedded"
    """Policy 0: `embedded`, a folder with a Hugging Face checkpoint, `owner/name` on the hub, also
    with `@revision`, or the address of one in the store (`policies/<name>-<digest12>`)."""
    family: Annotated[str, LATER] = "auto"
    """What kind of model it is: `auto`, as its config.json says, or `package.module:Class` of a
    family of one's own."""

    @field_validator("family")
    @classmethod
    def _known_family(cls, value: str) -> str:
        if value != "auto" and not is_custom(value):
            raise ValueError(f"{value!r} is neither auto nor package.module:Class")
        return value


class Sampling(Section):
    engine: str = "transformers"
    """`transformers`, `vllm`, or `package.module:Class` of an own sampler."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the weights while sampling."""
    temperature: float = Field(1.0, ge=0)
    """Softmax temperature; 0 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus mass; 1 samples from the whole distribution."""
    max_new_tokens: Positive = 64
    """Token limit of a response, a guided prefix included."""
    batch: Positive = 512
    """Sequences that the transformers engine computes together; part of the recipe since
    rounding depends on it."""
    system_prompt: str = ""
    """Text of a system turn before the question; empty for none."""
    prompt_template: Annotated[str, LATER] = "{question}"
    """Text of the user's turn; `{question}` stands for the question."""
    image_tokens: Annotated[Positive | None, LATER] = None
    """Most tokens that a picture takes: a larger one is shrunk. By default what the checkpoint's
    processor says."""

    @field_validator("prompt_template")
    @classmethod
    def _holds_question(cls, value: str) -> str:
        if value.count("{question}") != 1:
            raise ValueError("it has to hold {question} once")
        return value


class Explore(Section):
    shard_queries: Positive = 50
    """Queries in one exploration shard: what losing a worker costs at most."""


class TcSettings(Section):
    limit: Positive | None = None
    """L, examples kept per query at most; default max(1, K // 2)."""


class ArSettings(Section):
    budget: float = Field(1.0, gt=0)
    """Second-round samples as a multiple of sum(K - k_i). At 1 that is exactly K - k_i a query."""
    cap: Positive | None = None
    """Most second-round samples of one query; default 2K."""


class GrSettings(Section):
    cuts: Positive = 4
    """S, the number of cuts asked of a trajectory."""
    reference: bool = False
    """Allow the data set's own rationale as a trajectory where no success is at hand."""


class Verify(Section):
    judge: str = "answers"
    """`answers`, which compares final answers, or `package.module:function` of an own verifier."""
    math_timeout: float = Field(5.0, gt=0)
    """Seconds that math-verify may take for one pair of answers."""


class Lora(Section):
    r: Positive = 16
    """Rank."""
    alpha: Positive = 32
    """Scale numerator."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""


class DeepSpeed(Section):
    zero: Literal[0, 2, 3] = 2
    """ZeRO stage: what is spread over the processes. 0 nothing, 2 optimizer and gradients, 3 the
    weights too."""
    offload: Literal["none", "optimizer", "parameters"] = "none"
    """What lies in the machine's memory instead of the GPU's; `parameters`: these and the
    optimizer, with zero 3 only."""
    gradient_checkpointing: bool = False
    """The same as `train.gradient_checkpointing`."""

    @model_validator(mode="after")
    def _fits(self) -> "DeepSpeed":
        if self.offload == "parameters" and self.zero != 3:
            raise ValueError("offload: parameters needs zero: 3")
        if self.offload == "optimizer" and self.zero == 0:
            raise ValueError("offload: optimizer needs zero: 2 or 3")
        return self


class Train(Section):
    trainer: str = "transformers"
    """`transformers`, `deepspeed`, or `package.module:Class` of an own trainer."""
    init: Literal["base", "previous"] = "base"
    """Begin from policy 0, or go on from the previous iteration's policy."""
    pool: Literal["iteration", "all"] = "iteration"
    """Train on this iteration's examples only, or on those of all iterations so far."""
    epochs: Positive = 1
    """Passes over the examples."""
    match_steps: int | str | list[int] | None = None
    """Gradient steps whatever the data: a number, one per iteration, or a run's name."""
    batch: Positive = 48
    """Examples per gradient step (global)."""
    micro_batch: Positive = 16
    """Examples computed at once on one device; gradients accumulate to `batch`."""
    lr: float = Field(2e-4, gt=0)
    """Peak learning rate of AdamW."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the steps with rising learning rate; it falls to 0 by a cosine after that."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW's weight decay."""
    clip: float = Field(1.0, gt=0)
    """Largest gradient norm."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the weights while training."""
    max_length: Positive = 512
    """Longest example in tokens, images included; longer ones are dropped and counted."""
    mask_prefix: bool = False
    """Leave a guided prefix out of the loss."""
    lora: Lora | None = None
    """Train a LoRA adapter instead of all weights."""
    freeze_vision: bool = True
    """Keep the vision tower's and projector's weights."""
    packing: Annotated[bool, LATER] = False
    """Lay a micro-batch's examples end to end in one row, none of which sees another, instead of
    padding them: as many as fit into `micro_batch` x `max_length` tokens."""
    cache_vision: Annotated[bool, LATER] = False
    """Compute what a frozen vision tower makes of a query's pictures once, and keep it."""
    gradient_checkpointing: Annotated[bool, LATER] = False
    """Compute activations twice instead of keeping them."""
    liger: Annotated[bool, LATER] = False
    """Use Liger's kernels for norms and MLPs; needs a GPU and the package liger-kernel."""
    cpu_threads: Positive = 2
    """Threads on a CPU; part of the recipe since the order of sums depends on it."""
    deepspeed: DeepSpeed = DeepSpeed()
    """Read, and part of the key, only with `trainer: deepspeed`."""

    @model_validator(mode="after")
    def _fits(self) -> "Train":
        if self.trainer == "deepspeed" and self.dtype == "bfloat16" and not self.deepspeed.zero:
            # Measured: its losses are not those of ZeRO-2 and 3 (docs/engines.md).
            raise ValueError("deepspeed.zero: 0 does not train in bfloat16; use 2 or 3")
        if self.cache_vision and not (self.lora or self.freeze_vision):
            raise ValueError("cache_vision needs freeze_vision: what trains has to be computed")
        if self.cache_vision and self.trainer == "deepspeed" and self.deepspeed.zero == 3:
            # Processes that have to compute pictures would wait for those that have kept them.
            raise ValueError("cache_vision needs deepspeed.zero: 0 or 2")
        return self


class Levels(Section):
    k: int = Field(16, ge=0)
    """Samples of policy 0 per query that decide its level; 0 takes iteration 1's first round."""


class Evaluate(Section):
    splits: list[Literal["dev", "test"]] = Field(default=["dev", "test"])
    """Splits to score after every iteration; the best iteration is chosen on dev."""
    limit: Positive | None = None
    """First so many queries of each split; all by default."""


class Report(Section):
    samples: int = Field(10_000, ge=0)
    """Most responses in the page's sample browser; 0 leaves it out."""
    text_mb: float = Field(2.0, gt=0)
    """Megabytes that their text may take in the page."""
    images_mb: float = Field(2.0, ge=0)
    """Megabytes that their images may take in the page; 0 shows none."""


class Recipe(Section):
    """What is computed. Everything here that a stage reads is part of its key."""

    name: str = Field("embedded", pattern=r"^[a-z0-9]([-a-z0-9]{0,18}[a-z0-9])?$")
    """Short name, by default that of the data set; part of the default run name, of no key."""
    strategy: str = "gr"
    """vanilla, tc, rp, ar, gr, `package.module:Class` of an own one, or a resampling and a
    reshaping rule joined by `+`."""
    k: Positive = 8
    """K, first-round samples per query."""
    iterations: Positive = 5
    """Rounds of self-improvement; not part of any key, so more can be added later."""
    patience: Positive | None = None
    """End after so many iterations in a row without a gain on dev; no part of any key either. By
    default all iterations are done."""
    seed: int = Field(0, ge=0)
    """Key of all randomness."""
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
    """What the page holds; a finished run may have another report."""

    @model_validator(mode="before")
    @classmethod
    def _named_after_its_data(cls, given: Any) -> Any:
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
        # With one of the user's own, what is left must be a strategy.
        rest = [part for part in parts if not is_custom(part)]
        mixed = len(rest) < len(parts) <= 2 and len(rest) < 2
        if ("+".join(rest) or "vanilla") not in STRATEGIES or (
            len(rest) < len(parts) and not mixed
        ):
            near = difflib.get_close_matches(name, STRATEGIES, 1, 0.3)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"unknown strategy {value!r}{hint} Known: {', '.join(STRATEGIES)}")
        return name

    @model_validator(mode="after")
    def _fits(self) -> "Recipe":
        if self.patience and "dev" not in self.evaluate.splits:
            raise ValueError("patience looks at dev, which evaluate.splits does not name")
        return self

    @property
    def run_name(self) -> str:
        """`<recipe>-<strategy>-k<K>-s<seed>`, a DNS label of at most 30 characters."""
        tail = f"-{self.strategy_label}-k{self.k}-s{self.seed}"
        return f"{self.name[: 30 - len(tail)].rstrip('-')}{tail}"[:30]

    @property
    def strategy_label(self) -> str:
        """The strategy as part of a name."""
        return "-".join(label(part)[:10].strip("-") for part in self.strategy.split("+"))

    def pick(self, *fields: str) -> dict[str, Any]:
        """These fields and no others (dotted names reach into sections), as a stage's settings."""
        whole = self.model_dump(mode="json")
        picked: dict[str, Any] = {}
        for field in fields:
            value: Any = whole
            for part in field.split("."):
                value = value[part]
            picked[field] = value
        return picked


def data_name(source: str) -> str:
    """A recipe's name from its `data.source`: `data/shapes-0123456789ab` -> `shapes`."""
    last = re.split(r"[/:]", source.partition("@")[0])[-1]
    word = re.sub(r"-[0-9a-f]{12}$", "", last) if source.startswith("data/") else last
    return label(word)[:20].strip("-") or "data"


# How far a run goes and what it is called: in no key, and free to change from command to command.
UNBOUND = {"iterations", "patience", "name"}


def differences(old: Recipe, new: Recipe) -> list[str]:
    """`name: old -> new` for every setting that differs and matters to what is computed."""
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
