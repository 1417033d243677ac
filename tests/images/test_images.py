"""The images: what their Dockerfiles promise, and what they do in a container like a pod's.

Where an image is not built (by `make images`, or by tests/cluster/offline/images) its test is
skipped and says so.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from si import __version__

ROOT = Path(__file__).parents[2]
OFFLINE = ROOT / "tests/cluster/offline/images"
SMOKE = ROOT / "tests/images/smoke"
KINDS = ("verify", "explore", "train")


def dockerfile(kind: str) -> str:
    return (ROOT / "images" / kind / "Dockerfile").read_text()


def instructions(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return re.split(r"\n(?! )", "\n".join(lines))


def succeeds(*command: str | Path) -> bool:
    return subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0


@pytest.mark.parametrize("kind", KINDS)
def test_bases_have_exact_tags_and_no_digest(kind: str) -> None:
    """A default base is one release of somebody else's image; digests are the builder's to give."""
    defaults = re.findall(r"^ARG (?:BASE|PYTHON)=(.+)$", dockerfile(kind), re.MULTILINE)
    named = [name for name in defaults if name != "${PYTHON}"]
    assert named
    for name in named:
        assert re.fullmatch(r"[a-z/-]+:v?\d+\.\d+\.\d+[a-z0-9.-]*", name), name


@pytest.mark.parametrize("kind", KINDS)
def test_packages_are_hashed_and_come_before_the_code(kind: str) -> None:
    steps = instructions(dockerfile(kind))
    (packages,) = [i for i, step in enumerate(steps) if "-r /opt/requirements.txt" in step]
    (code,) = [i for i, step in enumerate(steps) if "si_ctl-*.whl" in step]
    assert packages < code < steps.index("COPY jobs /app/jobs")
    assert "--require-hashes" in steps[packages]
    assert "--no-deps" in steps[code] and "--offline" in steps[code]
    assert "USER 10001:10001" in steps[code:]


def test_gpu_images_are_given_what_their_bases_lack() -> None:
    """The train image's packages have DeepSpeed and Liger, the explore image's peft; neither brings
    torch, which its base has for CUDA, nor transformers where vLLM's serves."""

    def names(kind: str) -> set[str]:
        text = (ROOT / "requirements" / f"{kind}.txt").read_text()
        wanted = re.findall(r"^([a-z0-9-]+)==[^ ]+( ; [^\\]*)?", text, re.MULTILINE)
        return {name for name, marker in wanted if "'never'" not in marker}

    assert {"deepspeed", "liger-kernel", "accelerate", "peft", "transformers"} <= names("train")
    assert {"peft", "accelerate"} <= names("explore") and "transformers" not in names("explore")
    for kind in ("train", "explore"):
        assert not {"torch", "torchvision", "triton"} & names(kind)


def test_exploration_and_training_share_their_packages_layer() -> None:
    """Docker finds the layer in its cache only if all that leads to it is the same word for word;
    what differs by default (base, requirement file) is the same in test builds."""

    def until_code(kind: str) -> list[str]:
        steps = instructions(dockerfile(kind))
        steps = steps[: steps.index("COPY jobs /app/jobs")]
        return [re.sub(r"^(ARG (?:BASE|REQUIREMENTS))=.*", r"\1", step) for step in steps]

    assert until_code("explore") == until_code("train")


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_is_written_is_below_scratch(kind: str) -> None:
    (env,) = [step for step in instructions(dockerfile(kind)) if step.startswith("ENV ")]
    values = dict(re.findall(r"(\w+)=(\S+)", env))
    assert values["HOME"] == "/scratch/home" and values["TMPDIR"] == "/scratch"
    for name, value in values.items():
        if re.search(r"CACHE|HF_HOME|DIR$|ROOT$", name):
            assert value.startswith("/scratch"), name


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS)
def test_an_image_does_a_little_of_its_work(kind: str) -> None:
    """As user 10001, with a read-only root, no rights and no network."""
    if shutil.which("docker") and succeeds(
        "docker", "image", "inspect", f"si-ctl-{kind}:{__version__}"
    ):
        command: tuple[str | Path, ...] = (SMOKE, kind)
    elif shutil.which("dockerd") and succeeds(OFFLINE, "have", kind):
        command = (OFFLINE, "smoke", kind)
    else:
        pytest.skip(f"no image si-ctl-{kind} of this source is built: make images")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{kind}: sound" in done.stdout
