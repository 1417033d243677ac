"""The place: where a run computes and stores, and how wide. It is in no key."""

import difflib
import json
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from si import __version__
from si.config.section import Positive, Section
from si.plugins import is_custom

TRACKERS = ("tensorboard", "mlflow", "wandb")


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
    resources: dict[Literal["requests", "limits"], dict[str, str]] = Field({})
    """What a pod asks for and may take at most, as Kubernetes writes it."""
    node_selector: dict[str, str] = Field({})
    """Labels that a node must have."""
    tolerations: list[dict[str, Any]] = Field([])
    """Taints that the pods tolerate, as Kubernetes writes them."""
    priority_class: str = ""
    """Name of a PriorityClass; empty for the cluster's default."""
    grace_seconds: Positive = 30
    """Time between the request to stop and the kill; a training keeps its state in it."""
    shared_memory: str = "1Gi"
    """Size of /dev/shm, which counts as memory of the pod."""
    env: dict[str, str] = Field({})
    """More environment variables; never credentials."""


IMAGES = {kind: f"si-ctl-{kind}:{__version__}" for kind in ("explore", "verify", "train")}


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
    pull_secrets: list[str] = Field([])
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
    trackers: list[str] = Field(["tensorboard"])
    """Who is told a run's metrics, by the loop on this machine and by `si-ctl track`: `tensorboard`
    (files beside the artefacts, or in ./si-runs), `mlflow`, `wandb`, or `package.module:Class` of
    an own tracker. Addresses and credentials come from their own environment variables."""
    kubernetes: Kubernetes = Kubernetes()

    @field_validator("trackers")
    @classmethod
    def _known_trackers(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in TRACKERS and not is_custom(name):
                near = difflib.get_close_matches(name, TRACKERS, 1, 0.3)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise ValueError(f"unknown tracker {name!r}{hint} Known: {', '.join(TRACKERS)}")
        return names

    @model_validator(mode="after")
    def _fits(self) -> "Place":
        if self.max_cost and not (self.price_per_gpu_hour or self.price_per_cpu_hour):
            raise ValueError("max_cost needs a price: price_per_gpu_hour or price_per_cpu_hour")
        return self


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
