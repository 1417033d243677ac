"""The GPUs of a machine and who is given which, without any: counts are made up."""

from pathlib import Path

import pynvml
import pytest

from si.clusters.local import LocalCluster
from si.config.place import Place, place_environment
from si.errors import RecipeError
from si.machine import gpus
from si.store.keys import Spec


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with four."""
    monkeypatch.setattr(gpus, "count", lambda: 4)
    monkeypatch.delenv(gpus.MASK, raising=False)
    monkeypatch.delenv("SICTL_VLLM_TENSOR_PARALLEL_SIZE", raising=False)


def spec(stage: str, engine: str = "vllm", shards: int = 10) -> Spec:
    return Spec(stage, "it01", {"sampling": {"engine": engine}}, {}, {}, shards)


def cluster(folder: Path, **place: object) -> LocalCluster:
    return LocalCluster(
        Place(**place), folder / "logs", folder / "scratch", ["si.clusters.preload"]
    )


def masks(crew: list[dict[str, str]]) -> list[str | None]:
    return [environment.get(gpus.MASK) for environment in crew]


@pytest.mark.parametrize(
    "mask,asked,expected",
    [
        (None, None, ["0", "1", "2", "3"]),
        (None, 6, ["0", "1", "2", "3", "4", "5"]),
        (None, 0, []),
        ("2,3", None, ["2", "3"]),
        ("2,3", 1, ["2"]),
        (" 3 , 1", None, ["3", "1"]),
        ("1,7", None, ["1"]),
        ("", None, []),
        ("-1", None, []),
        ("0,-1,2", None, ["0"]),
        ("GPU-8f1c,MIG-2a", None, ["GPU-8f1c", "MIG-2a"]),
    ],
)
def test_a_mask_is_respected(
    four: None, mask: str | None, asked: int | None, expected: list[str]
) -> None:
    """Numbers and names of a mask are kept as CUDA reads them; without one the count decides."""
    environment = {} if mask is None else {gpus.MASK: mask}
    assert gpus.visible(asked, environment) == expected


def test_more_than_the_mask_leaves_is_refused(four: None) -> None:
    """Asking for more GPUs than CUDA_VISIBLE_DEVICES leaves names both."""
    with pytest.raises(RecipeError, match="asks for 3 GPUs, and CUDA_VISIBLE_DEVICES leaves 2"):
        gpus.visible(3, {gpus.MASK: "0,1"})


def test_device_files_count_where_the_driver_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the driver's library, /dev/nvidia0 and so on are counted, and nothing beside them."""

    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    monkeypatch.setattr(gpus, "DEVICES", tmp_path)
    assert gpus.count() == 0
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm", "nvidia-caps"):
        (tmp_path / name).touch()
    assert gpus.count() == 3
    assert gpus.kind() == ""


def test_the_driver_counts_and_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a driver, its count and its first device's name are taken, and it is let go of again;
    one that fails is as good as none."""
    asked = []
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: asked.append("in"))
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: asked.append("out"))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: ("gpu", index))
    names = {("gpu", 0): "NVIDIA A100-SXM4-80GB"}
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", names.__getitem__)
    assert (gpus.count(), gpus.kind()) == (2, "NVIDIA A100-SXM4-80GB")
    assert asked == ["in", "out", "in", "out"]

    def failing(index: int) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", failing)
    assert gpus.kind() == "" and asked[-1] == "out"


def test_each_engine_has_gpus_of_its_own(four: None, tmp_path: Path) -> None:
    """An exploring worker per group, no GPU in two of them; no more workers than groups, shards or
    `workers`."""
    assert masks(cluster(tmp_path).worker_environments(spec("explore"))) == ["0", "1", "2", "3"]
    pairs = cluster(tmp_path, tensor_parallel=2)
    assert masks(pairs.worker_environments(spec("explore"))) == ["0,1", "2,3"]
    assert masks(pairs.worker_environments(spec("explore", shards=1))) == ["0,1"]
    assert masks(pairs.worker_environments(spec("explore", "transformers"))) == ["0", "1", "2", "3"]
    assert masks(cluster(tmp_path, workers=1).worker_environments(spec("explore"))) == ["0"]
    assert masks(cluster(tmp_path, workers=9).worker_environments(spec("explore"))) == [
        "0",
        "1",
        "2",
        "3",
    ]


def test_what_is_left_over_is_said(four: None, tmp_path: Path) -> None:
    """GPUs that no engine has are named before the run begins; too few for one are refused."""
    assert cluster(tmp_path, tensor_parallel=3).describe("vllm") == "GPUs 0,1,2 explore; 3 does not"
    assert cluster(tmp_path).describe("vllm") == "GPUs 0 | 1 | 2 | 3 explore"
    assert cluster(tmp_path, gpus=0).describe("vllm") == ""
    with pytest.raises(RecipeError, match="asks for 8 GPUs, and there are 4"):
        cluster(tmp_path, tensor_parallel=8).describe("vllm")


def test_the_variable_groups_too(
    four: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SICTL_VLLM_TENSOR_PARALLEL_SIZE makes groups where the place does not, and the place's
    number is what engines read."""
    monkeypatch.setenv("SICTL_VLLM_TENSOR_PARALLEL_SIZE", "2")
    assert len(cluster(tmp_path).worker_environments(spec("explore"))) == 2
    assert len(cluster(tmp_path, tensor_parallel=4).worker_environments(spec("explore"))) == 1
    told = place_environment(Place(tensor_parallel=4))
    assert told["SICTL_VLLM_TENSOR_PARALLEL_SIZE"] == "4"
    monkeypatch.setenv("SICTL_VLLM_TENSOR_PARALLEL_SIZE", "two")
    with pytest.raises(RecipeError, match="two is not a number"):
        cluster(tmp_path).describe("vllm")


def test_other_stages_are_as_wide_as_the_cores(
    four: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stages without an engine have a worker per core whatever the GPUs; a training is shown all
    that the place allows."""
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert masks(cluster(tmp_path).worker_environments(spec("verify"))) == [None] * 6
    assert masks(cluster(tmp_path, gpus=2).worker_environments(spec("train", shards=1))) == ["0,1"]
    assert masks(cluster(tmp_path, gpus=0).worker_environments(spec("train", shards=1))) == [""]


def test_without_gpus_vllm_is_one_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU vLLM has one worker unless more are asked for; transformers has one per core."""
    monkeypatch.setattr(gpus, "count", lambda: 0)
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert masks(cluster(tmp_path).worker_environments(spec("explore"))) == [None]
    assert masks(cluster(tmp_path, workers=3).worker_environments(spec("explore"))) == [None] * 3
    assert (
        masks(cluster(tmp_path).worker_environments(spec("explore", "transformers"))) == [None] * 6
    )
