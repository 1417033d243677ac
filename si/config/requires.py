"""What a recipe requires of the machines that it runs on. It is part of no key."""

from pydantic import Field

from si.config.place import Place
from si.config.section import Section
from si.errors import RecipeError
from si.machine.data_sheets import memory_of


class Needs(Section):
    """GPUs for one kind of stage."""

    gpus: int = Field(0, ge=0)
    """Number of GPUs: of each pod that explores; of all training pods together."""
    gpu_memory: int = Field(0, ge=0)
    """Memory of each GPU, in GB."""


class Requires(Section):
    """What a recipe requires of a cluster. It sets nothing: the release decides what a run gets."""

    explore: Needs = Needs()
    """For each pod that explores."""
    train: Needs = Needs()
    """For a training."""


def check(requires: Requires, place: Place) -> None:
    """Check that a release offers what a recipe requires.

    Raises:
        RecipeError: if its pods request fewer GPUs, or GPUs with less memory as far as it is known.
    """
    lacking = list(_lacking(requires, place))
    if lacking:
        raise RecipeError(
            "The release offers less than the recipe requires",
            "\n".join(lacking),
            (
                "Request more in the chart's values: place.kubernetes.KIND.resources, and "
                "place.kubernetes.train.workers for more nodes.",
                "To run it anyway: --set requires=null",
            ),
        )


def _lacking(requires: Requires, place: Place) -> list[str]:
    found = []
    kubernetes = place.kubernetes
    for kind, pods, count in (
        ("explore", kubernetes.explore, 1),
        ("train", kubernetes.train, kubernetes.train.workers),
    ):
        needs: Needs = getattr(requires, kind)
        whose = "each pod requests" if kind == "explore" else "all pods together request"
        gpus = pods.gpus * count
        if gpus < needs.gpus:
            found.append(f"{kind}: {needs.gpus} GPUs required, {whose} {gpus}")
        slices = [name for name in pods.amounts if "/mig-" in name]
        memory = memory_of(slices[0] if slices else place.gpu_type)
        if gpus and memory is not None and memory < needs.gpu_memory:
            kind_of_gpu = slices[0] if slices else place.gpu_type
            found.append(
                f"{kind}: GPUs with {needs.gpu_memory} GB required, {kind_of_gpu} has {memory}"
            )
    return found
