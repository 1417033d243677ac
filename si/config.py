"""Recipe (what is computed) and Place (where and how wide).

Values come from defaults < recipe file < environment < flags. Unknown keys are
errors that name the nearest key. Changing the Place never changes a stage key.
"""

import contextlib
import difflib
import json
import os
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from si.errors import RecipeError
from si.plugins import is_own, label

RESAMPLING = ("ar", "gr")
RESHAPING = ("tc", "rp")
TRACKERS = ("tensorboard", "mlflow", "wandb")
STRATEGIES = ("vanilla", "tc", "rp", "ar", "gr", "ar+tc", "ar+rp", "gr+tc", "gr+rp")

Positive = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Data(Section):
    source: str = "synth:embedded"
    """`synth:embedded`, the address of a data set in the store (`data/<name>-<digest12>`), or
    `hub:owner/name`, also with `@revision`: a data set of the Hugging Face hub, imported when it is
    first used."""
    map: str = ""
    """Of a `hub:` source: which column holds what, as `data import --map` takes it."""
    split: str = ""
    """Of a `hub:` source: which rows are train, dev and test, as `data import --split` takes it."""
    answer_kind: Literal["number", "choice", "text"] | None = None
    """Of a `hub:` source: kind of the answers; by default inferred for each row."""
    skip_bad: bool = False
    """Of a `hub:` source: leave out rows that cannot be used, instead of refusing them all."""
    schedule: Literal["fixed", "fresh"] = "fresh"
    """`fixed`: the same queries every iteration; `fresh`: a disjoint slice per iteration."""
    slice_size: Positive = 200
    """Queries per iteration under `fresh`."""


class Model(Section):
    source: str = "embedded"
    """Policy 0: `embedded`, a folder with a Hugging Face checkpoint, `owner/name` on the hub, also
    with `@revision`, or the address of one in the store (`policies/<name>-<digest12>`)."""
    family: str = "auto"
    """What kind of model it is: `auto`, as its config.json says, or `package.module:Class` of a
    family of one's own."""

    @field_validator("family")
    @classmethod
    def _known_family(cls, value: str) -> str:
        if value != "auto" and not is_own(value):
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
    prompt_template: str = "{question}"
    """Text of the user's turn; `{question}` stands for the question."""
    image_tokens: Positive | None = None
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
    packing: bool = False
    """Lay a micro-batch's examples end to end in one row, none of which sees another, instead of
    padding them: as many as fit into `micro_batch` x `max_length` tokens."""
    cache_vision: bool = False
    """Compute what a frozen vision tower makes of a query's pictures once, and keep it."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them."""
    liger: bool = False
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
        parts = [part if is_own(part) else part.lower() for part in value.split("+")]
        parts.sort(key=lambda part: part not in RESAMPLING)
        name = "+".join(parts)
        # With one of the user's own, what is left must be a strategy.
        rest = [part for part in parts if not is_own(part)]
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


class S3(Section):
    endpoint: str | None = None
    """URL of an S3-compatible server; AWS by default."""
    region: str | None = None
    """Region name, where the server wants one."""
    path_style: bool = True
    """Address buckets in the path (MinIO and most others) instead of the host name."""
    checksums: Literal["when_required", "when_supported"] = "when_required"
    """Extra checksum headers; `when_required` suits servers that do not know them."""
    endpoint_external: str | None = None
    """The same server as seen from outside the cluster, for `report` on a laptop."""


class Pods(Section):
    """The pods that run one kind of image."""

    image: str
    """Reference of the image, with a tag or a digest."""
    workers: Positive = 1
    """Pods of a sharded stage, each with an engine of its own; of a training, pods that train
    together, as many as there are nodes to use."""
    resources: dict[Literal["requests", "limits"], dict[str, str]] = {}
    """What a pod asks for and may take at most, as Kubernetes writes it."""
    node_selector: dict[str, str] = {}
    """Labels that a node must have."""
    tolerations: list[dict[str, Any]] = []
    """Taints that the pods tolerate, as Kubernetes writes them."""
    priority_class: str = ""
    """Name of a PriorityClass; empty for the cluster's default."""
    grace_seconds: Positive = 30
    """Time between the request to stop and the kill; a training keeps its state in it."""
    shared_memory: str = "1Gi"
    """Size of /dev/shm, which counts as memory of the pod."""
    env: dict[str, str] = {}
    """More environment variables; never credentials."""


IMAGES = {kind: f"si-ctl-{kind}:0.1.0" for kind in ("explore", "verify", "train")}


class Kubernetes(Section):
    """How the loop runs on a cluster. The chart writes it, the command line reads it from there."""

    release: str = Field("si", pattern=r"^[a-z]([-a-z0-9]{0,12}[a-z0-9])?$")
    """Name of the Helm release; the names of all objects begin with it."""
    controller_account: str = "si-controller"
    """ServiceAccount of the controller: it makes Jobs, and watches them."""
    stage_account: str = "si-stage"
    """ServiceAccount of the stages' pods; they get no token."""
    secret: str = ""
    """Secret with the bucket's credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY); empty where
    pods get them otherwise."""
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    """When images are pulled."""
    pull_secrets: list[str] = []
    """Secrets with the registry's credentials."""
    hub_secret: str = ""
    """Secret with HF_TOKEN, for private and gated models and data of the hub; the Job that fetches
    them alone gets it. Empty for none."""
    cache_claim: str = ""
    """PersistentVolumeClaim for what is fetched from the hub: a fetch that was cut off goes on from
    there. Empty for none."""
    queue: str = ""
    """Kueue LocalQueue that the stages' Jobs wait in; empty for none."""
    keep_finished: Positive = 86400
    """Seconds that a finished Job stays to be looked at."""
    explore: Pods = Pods(image=IMAGES["explore"])
    """Exploration: a GPU each, as a rule."""
    verify: Pods = Pods(image=IMAGES["verify"])
    """Everything that needs no GPU, the controller included."""
    train: Pods = Pods(image=IMAGES["train"])
    """Training."""

    @model_validator(mode="before")
    @classmethod
    def _with_images(cls, given: Any) -> Any:
        """A recipe may say how wide without saying which image."""
        if not isinstance(given, dict):
            return given
        named = {
            kind: {"image": image, **given[kind]}
            for kind, image in IMAGES.items()
            if isinstance(given.get(kind), dict)
        }
        return {**given, **named}


class Place(Section):
    """Where and how wide. Nothing here is part of a stage key."""

    store: str = "./si-runs"
    """A folder, or s3://bucket/prefix."""
    s3: S3 = S3()
    workers: Positive | None = None
    """Worker processes of a sharded stage; default: one per core, at most 8. Of an exploration
    with GPUs: one per engine, and no more; with vLLM on a CPU: one."""
    gpus: int | None = Field(None, ge=0)
    """GPUs of this machine to use; by default all that CUDA_VISIBLE_DEVICES leaves. 0: none."""
    tensor_parallel: Positive | None = None
    """GPUs that share one vLLM engine; default: SICTL_VLLM_TENSOR_PARALLEL_SIZE, or 1. On a cluster
    each exploring pod has one engine, and asks for as many GPUs in its resources."""
    retries: int = Field(2, ge=0)
    """How often a stage's failed workers are started again."""
    gpu_type: str = ""
    """Kind of GPU that `si-ctl estimate` reckons with: A100, H100, H200, B200, L40S, L4 or A10."""
    price_per_gpu_hour: float = Field(0.0, ge=0)
    """Money for one GPU for one hour, in any currency; what costs are counted by."""
    price_per_cpu_hour: float = Field(0.0, ge=0)
    """Money for an hour of a worker without a GPU: a pod, or a process here."""
    max_gpu_hours: float | None = Field(None, gt=0)
    """Stop a run when it has taken so many GPU hours; what is committed stays."""
    max_cost: float | None = Field(None, gt=0)
    """Stop a run when it has cost so much, by the two prices."""
    trackers: list[str] = ["tensorboard"]
    """Who is told a run's metrics, by the loop on this machine and by `si-ctl track`: `tensorboard`
    (files beside the artefacts, or in ./si-runs), `mlflow`, `wandb`, or `package.module:Class` of
    an own tracker. Addresses and credentials come from their own environment variables."""
    kubernetes: Kubernetes = Kubernetes()

    @field_validator("trackers")
    @classmethod
    def _known_trackers(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in TRACKERS and not is_own(name):
                near = difflib.get_close_matches(name, TRACKERS, 1, 0.3)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise ValueError(f"unknown tracker {name!r}{hint} Known: {', '.join(TRACKERS)}")
        return names

    @model_validator(mode="after")
    def _fits(self) -> "Place":
        if self.max_cost and not (self.price_per_gpu_hour or self.price_per_cpu_hour):
            raise ValueError("max_cost needs a price: price_per_gpu_hour or price_per_cpu_hour")
        return self


def load(
    path: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    release: Mapping[str, Any] | None = None,
) -> tuple[Recipe, Place]:
    """Resolve recipe and place: defaults < release < file < environment < flags.

    Args:
        path: a YAML file with recipe keys, and the place's under `place`.
        flags: dotted names to values; None values are ignored.
        environment: `SI_<KEY>`, `__` between section and key (`SI_TRAIN__LR=1e-4`);
            the place's keys begin with `SI_PLACE__` (`SI_STORE` is short for the store).
        release: the place as a release of the chart has it.

    Raises:
        RecipeError: unreadable file, unknown key, value of the wrong kind.
    """
    tree: dict[str, Any] = {}
    origin: dict[str, str] = {}
    if release is not None:
        _merge(tree, {"place": release}, origin, "the release")
    if path is not None:
        _merge(tree, _read_yaml(path), origin, str(path))
    environment = os.environ if environment is None else environment
    for variable in sorted(environment):
        if variable == "SI_STORE":
            dotted = "place.store"
        elif match := re.fullmatch(r"SI_((?!_)[A-Z0-9_]+)", variable):
            dotted = match.group(1).lower().replace("__", ".")
            if variable in RESERVED:
                continue
        else:
            continue
        _merge(tree, nest(dotted, _scalar(environment[variable])), origin, variable)
    for dotted, value in (flags or {}).items():
        if value is not None:
            _merge(tree, nest(dotted, value), origin, f"--{dotted}")
    place = tree.pop("place", None) or {}
    return _validate(Recipe, tree, origin, ""), _validate(Place, place, origin, "place.")


def place_environment(place: Place) -> dict[str, str]:
    """The place as environment variables for a stage script. It holds no credentials."""
    variables = {"SI_PLACE__STORE": place.store}
    if place.tensor_parallel:
        variables["SICTL_VLLM_TENSOR_PARALLEL_SIZE"] = str(place.tensor_parallel)
    inside = place.s3.model_dump(mode="json", exclude={"endpoint_external"})
    for name, value in inside.items():
        if value is not None:
            variables[f"SI_PLACE__S3__{name.upper()}"] = json.dumps(value)
    return variables


RESERVED = ("SI_SCRATCH", "SI_IMAGE")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text())
    except OSError as error:
        raise RecipeError(
            f"The recipe file {path} cannot be read",
            error.strerror or str(error),
            "Give a YAML file to --recipe, or the name of a shipped recipe.",
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"The recipe file {path} is not YAML", str(error)) from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise RecipeError(f"The recipe file {path} holds no keys", f"found {tree!r}")
    return tree


def _scalar(text: str) -> Any:
    """A value as YAML reads it; `1e-4`, which YAML takes for a word, becomes a number."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def nest(dotted: str, value: Any) -> dict[str, Any]:
    """`a.b`, 1 -> {"a": {"b": 1}}."""
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return typing.cast(dict[str, Any], value)


def assignment(text: str) -> tuple[str, Any]:
    """`train.lr=1e-4` as a dotted name and a value."""
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise RecipeError(f"--set {text!r} is not NAME=VALUE", "", "Example: --set train.lr=1e-4")
    return name.strip(), _scalar(value)


def _merge(
    tree: dict[str, Any], more: Mapping[Any, Any], origin: dict[str, str], source: str, at: str = ""
) -> None:
    for key, value in more.items():
        dotted = f"{at}{key}"
        origin[dotted] = source
        if isinstance(value, Mapping):
            below = tree.get(key)
            if not isinstance(below, dict):
                below = tree[key] = {}
            _merge(below, value, origin, source, f"{dotted}.")
        else:
            tree[key] = value


Model_ = typing.TypeVar("Model_", bound=BaseModel)


def _validate(
    model: type[Model_], tree: dict[str, Any], origin: dict[str, str], prefix: str
) -> Model_:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines, ways = [], ["Show every key with its meaning: si-ctl config schema"]
        for issue in error.errors(include_url=False):
            name = prefix + ".".join(
                str(part) for part in issue["loc"] if not str(part).startswith("function-")
            )
            source = origin.get(name, "")
            where = f" (from {source})" if source else ""
            if issue["type"] == "extra_forbidden":
                # `place.` keys are known to the file's reader, though they are another model's.
                known = [*keys(Recipe), *(f"place.{key}" for key in keys(Place))]
                near = difflib.get_close_matches(name, known, 1, 0.5)
                hint = f"; did you mean {near[0]}?" if near else ""
                lines.append(f"unknown key {name}{where}{hint}")
            else:
                message = issue["msg"].removeprefix("Value error, ")
                lines.append(f"{name}{where}: {message}")
        raise RecipeError(
            f"The {'place' if prefix else 'recipe'} cannot be used: {lines[0]}",
            "\n".join(lines[1:]),
            tuple(ways),
        ) from None


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """All dotted names of a model's settings."""
    for name, info in model.model_fields.items():
        below = _section(info.annotation)
        yield f"{prefix}{name}"
        if below is not None:
            yield from keys(below, f"{prefix}{name}.")


def _section(annotation: Any) -> type[BaseModel] | None:
    for kind in typing.get_args(annotation) or (annotation,):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


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


def schema() -> dict[str, Any]:
    """JSON Schema of a recipe file: the recipe's keys, and the place's under `place`."""
    whole = Recipe.model_json_schema()
    place = Place.model_json_schema()
    whole.setdefault("$defs", {}).update(place.pop("$defs", {}))
    whole["$defs"]["Place"] = place
    whole["properties"]["place"] = {"$ref": "#/$defs/Place"}
    return whole
