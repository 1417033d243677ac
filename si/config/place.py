"""The place: where a run computes and stores, and on how many machines. It is part of no key."""

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from si import __version__
from si.config.section import Positive, Section, unknown
from si.plugins import is_custom

TRACKERS = ("tensorboard", "mlflow", "wandb")


class S3(Section):
    """Connection to an S3 bucket."""

    endpoint: str | None = None
    """URL of an S3-compatible server; by default AWS."""
    region: str | None = None
    """Region name, if the server needs one."""
    path_style: bool = True
    """Put the bucket in the path (MinIO and most others) instead of the host name."""
    checksums: Literal["when_required", "when_supported"] = "when_required"
    """Extra checksum headers; `when_required` for servers that do not support them."""
    endpoint_external: str | None = None
    """URL of the same server as seen from outside the cluster, for `si-ctl report` on a laptop."""


def _quantity(value: Any) -> Any:
    """A number as Kubernetes writes it: 2 -> "2", 0.5 -> "0.5"."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(int(value) if value == int(value) else value)
    return value


Quantity = Annotated[
    str, BeforeValidator(_quantity), WithJsonSchema({"type": ["string", "number"]})
]


class Pods(Section):
    """The pods of one image."""

    image: str
    """Image reference, with a tag or a digest."""
    workers: Positive = 1
    """Number of pods. In a sharded stage each has its own engine; in training they train together,
    usually one per node."""
    resources: dict[Literal["requests", "limits"], dict[str, Quantity]] = Field({})
    """A pod's requests and limits, in Kubernetes' syntax. A recipe file or option that sets them
    replaces all of them."""
    node_selector: dict[str, str] = Field({})
    """Labels that a node must have."""
    tolerations: list[dict[str, Any]] = Field([])
    """Taints that the pods tolerate, in Kubernetes' syntax."""
    priority_class: str = ""
    """Name of a PriorityClass; empty for the cluster's default."""
    grace_seconds: Positive = 30
    """Seconds between SIGTERM and the kill; a training saves its state in this time."""
    shared_memory: str = "1Gi"
    """Size of /dev/shm, which counts as the pod's memory."""
    env: dict[str, str] = Field({})
    """Additional environment variables; never credentials."""
    env_from: list[dict[str, Any]] = Field([])
    """Secrets and ConfigMaps whose keys become variables, in Kubernetes' syntax."""
    labels: dict[str, str] = Field({})
    """Additional labels of the Jobs and their pods."""
    annotations: dict[str, str] = Field({})
    """Annotations of the Jobs and their pods."""
    runtime_class: str = ""
    """Name of a RuntimeClass, such as `nvidia`; empty for the node's default."""
    scheduler: str = ""
    """Name of a scheduler; empty for the cluster's default."""
    affinity: dict[str, Any] = Field({})
    """Affinity, in Kubernetes' syntax."""
    topology_spread: list[dict[str, Any]] = Field([])
    """Topology spread constraints, in Kubernetes' syntax."""
    volumes: list[dict[str, Any]] = Field([])
    """Additional volumes, in Kubernetes' syntax."""
    mounts: list[dict[str, Any]] = Field([])
    """Additional volume mounts, in Kubernetes' syntax."""
    scratch: str = ""
    """Size limit of the scratch volume, which the pod then also requests as ephemeral storage;
    empty for none."""
    active_deadline: Positive | None = None
    """Seconds after which a Job fails, queueing included; null for never."""
    pod: dict[str, Any] = Field({})
    """Strategic merge patch of the pod template (`metadata` and `spec`), applied last."""

    @property
    def amounts(self) -> dict[str, str]:
        """What one pod requests, by resource; limits win."""
        return {**self.resources.get("requests", {}), **self.resources.get("limits", {})}

    @property
    def gpus(self) -> int:
        """GPUs, or slices of them, that one pod requests."""
        return sum(
            int(amount)
            for name, amount in self.amounts.items()
            if (name.endswith("/gpu") or "/mig-" in name) and amount.isdecimal()
        )


class Helper(Section):
    """The pods of a Job that is not a stage. What is not set here, another kind of pods decides."""

    resources: dict[Literal["requests", "limits"], dict[str, Quantity]] = Field({})
    """A pod's requests and limits, in Kubernetes' syntax; empty for the default."""
    node_selector: dict[str, str] | None = None
    """Labels that a node must have; null for those of the other kind."""
    tolerations: list[dict[str, Any]] | None = None
    """Taints that the pods tolerate; null for those of the other kind."""
    pod: dict[str, Any] = Field({})
    """Strategic merge patch of the pod template (`metadata` and `spec`), applied last."""


IMAGES = {kind: f"si-ctl-{kind}:{__version__}" for kind in ("explore", "verify", "train")}


class Kubernetes(Section):
    """How the loop runs on a cluster. The chart stores it, and the command line reads it there."""

    release: str = Field("si", pattern=r"^[a-z]([-a-z0-9]{0,12}[a-z0-9])?$")
    """Name of the Helm release, the prefix of all objects' names."""
    controller_account: str = "si-controller"
    """ServiceAccount of the controller, which creates and watches Jobs."""
    stage_account: str = "si-stage"
    """ServiceAccount of the stages' pods, which get no token."""
    secret: str = ""
    """Secret with the bucket's credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY); empty if
    pods get them another way."""
    secret_keys: dict[str, str] = Field({})
    """Keys of that Secret by the variables that they become, for a Secret with other names:
    {AWS_ACCESS_KEY_ID: user, AWS_SECRET_ACCESS_KEY: password}. Empty if its keys are the
    variables."""
    ca_secret: str = ""
    """Secret whose key ca.crt has all certificate authorities that pods trust, for a private
    one; empty for those of the images."""
    user: int | None = Field(10001, gt=0)
    """User and group of all pods; null where the platform assigns them (OpenShift)."""
    allow_unrestricted: bool = False
    """Whether `pod` and `volumes` may lift what the `restricted` Pod Security Standard asks for."""
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    """When to pull images."""
    pull_secrets: list[str] = Field([])
    """Secrets with the registry's credentials."""
    hub_secret: str = ""
    """Secret with HF_TOKEN, for private and gated models and data on the hub. Only the Job that
    fetches them receives it; empty for none."""
    cache_claim: str = ""
    """PersistentVolumeClaim that caches downloads from the hub, so that an interrupted download
    resumes; empty for none."""
    queue: str = ""
    """Kueue LocalQueue for the stages' Jobs; empty for none."""
    keep_finished: Positive = 86400
    """Seconds to keep a finished Job for inspection."""
    explore: Pods = Pods(image=IMAGES["explore"])
    """Pods that sample answers, usually with one GPU each."""
    verify: Pods = Pods(image=IMAGES["verify"])
    """Pods for everything without a GPU, including the controller."""
    train: Pods = Pods(image=IMAGES["train"])
    """Pods that train."""
    fetch: Helper = Helper()
    """The pod that fetches from the hub. By default it has explore's nodes and resources without
    GPUs."""
    controller: Helper = Helper()
    """The controller's pod. By default it has verify's nodes, and small resources."""

    @model_validator(mode="before")
    @classmethod
    def _with_images(cls, given: Any) -> Any:
        """Add default images, so that a recipe can set `workers` without naming an image."""
        if not isinstance(given, dict):
            return given
        named = {
            kind: {"image": image, **given[kind]}
            for kind, image in IMAGES.items()
            if isinstance(given.get(kind), dict)
        }
        return {**given, **named}


class Place(Section):
    """Where a run computes, and on how many machines. Nothing here is part of a stage key."""

    store: str = "./si-runs"
    """Where artefacts are stored: a folder, or s3://bucket/prefix."""
    s3: S3 = S3()
    workers: Positive | None = None
    """Worker processes of a sharded stage; by default one per core, at most 8. Exploration has one
    per engine on GPUs, and one with vLLM on a CPU."""
    gpus: int | None = Field(None, ge=0)
    """Number of this machine's GPUs to use; by default all in CUDA_VISIBLE_DEVICES. 0 for none."""
    tensor_parallel: Positive | None = None
    """GPUs that share one vLLM engine; by default SICTL_VLLM_TENSOR_PARALLEL_SIZE, or 1. On a
    cluster each explore pod has one engine and must request as many GPUs in its resources."""
    retries: int = Field(2, ge=0)
    """How often a stage's failed workers are restarted."""
    gpu_type: str = ""
    """Kind of GPU for `si-ctl estimate`: A100, H100, H200, B200, L40S, L4 or A10."""
    price_per_gpu_hour: float = Field(0.0, ge=0)
    """Price per GPU-hour, in any currency; costs are computed from it."""
    price_per_cpu_hour: float = Field(0.0, ge=0)
    """Price per hour of a worker without a GPU (a pod, or a local process)."""
    max_gpu_hours: float | None = Field(None, gt=0)
    """Stop a run after this many GPU hours; committed artefacts stay."""
    max_cost: float | None = Field(None, gt=0)
    """Stop a run at this cost, by the two prices."""
    trackers: list[str] = Field(["tensorboard"])
    """Trackers that the local loop and `si-ctl track` log a run's metrics to: `tensorboard` (files
    beside the artefacts, or in ./si-runs), `mlflow`, `wandb`, or `package.module:Class` of a custom
    tracker. Addresses and credentials come from each tracker's environment variables."""
    kubernetes: Kubernetes = Kubernetes()

    @field_validator("trackers")
    @classmethod
    def _known_trackers(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in TRACKERS and not is_custom(name):
                raise ValueError(unknown("tracker", name, TRACKERS))
        return names

    @model_validator(mode="after")
    def _fits(self) -> "Place":
        if self.max_cost and not (self.price_per_gpu_hour or self.price_per_cpu_hour):
            raise ValueError("max_cost requires price_per_gpu_hour or price_per_cpu_hour")
        return self


def place_environment(place: Place) -> dict[str, str]:
    """The place as environment variables of a stage's process. They contain no credentials."""
    variables = {"SI_PLACE__STORE": place.store}
    if place.tensor_parallel:
        variables["SICTL_VLLM_TENSOR_PARALLEL_SIZE"] = str(place.tensor_parallel)
    inside = place.s3.model_dump(mode="json", exclude={"endpoint_external"})
    for name, value in inside.items():
        if value is not None:
            variables[f"SI_PLACE__S3__{name.upper()}"] = json.dumps(value)
    return variables
