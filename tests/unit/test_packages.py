"""What is declared, what is imported, and the commands that install what is missing."""

import ast
import re
import sys
import tomllib
from collections import defaultdict
from importlib import metadata
from pathlib import Path

import pytest

from si import __version__
from si.errors import RecipeError
from si.machine import packages
from si.plugins import load

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Modules whose package has another name.
PACKAGE = {
    "PIL": "pillow",
    "liger_kernel": "liger-kernel",
    "math_verify": "math-verify",
    "huggingface_hub": "huggingface-hub",
    "mlflow": "mlflow-skinny",
    "pynvml": "nvidia-ml-py",
    "yaml": "pyyaml",
}
# Where something outside the light install may be imported, and which extra brings it.
ROOMS = {
    "si/engines/": {"local"},
    "si/engines/vllm": {"local", "vllm"},
    "si/engines/deepspeed.py": {"local", "deepspeed"},
    "si/engines/gathering.py": {"local", "deepspeed"},
    "si/engines/trainer.py": {"local", "liger"},
    "si/embedded/make_policy.py": {"local"},
    "si/embedded/tiny_model.py": {"local"},
    "si/runs/trackers/mlflow.py": {"mlflow"},
    "si/runs/trackers/wandb.py": {"wandb"},
}


def name_of(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower()


CORE = {name_of(each) for each in PYPROJECT["dependencies"]}
EXTRAS = {
    extra: {name_of(each) for each in wanted} - {"si-ctl"}
    for extra, wanted in PYPROJECT["optional-dependencies"].items()
}


def imports() -> dict[str, set[str]]:
    """Every package outside the standard library that `si/` imports -> the files that do."""
    found = defaultdict(set)
    for path in (ROOT / "si").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in names:
                top = name.partition(".")[0]
                if top not in sys.stdlib_module_names and top != "si":
                    found[top].add(path.relative_to(ROOT).as_posix())
    return found


def room(path: str) -> set[str]:
    """The extras that a module may need beyond the light install."""
    fits = [prefix for prefix in ROOMS if path.startswith(prefix)]
    return ROOMS[max(fits, key=len)] if fits else set()


def test_what_is_imported_is_declared() -> None:
    """A module imports what the light install has, or what the extras of its room bring."""
    undeclared = {
        (module, path)
        for module, paths in imports().items()
        for path in paths
        if PACKAGE.get(module, module) not in CORE.union(*(EXTRAS[e] for e in room(path)))
    }
    assert not undeclared


def test_what_is_declared_is_imported() -> None:
    """No dependency is declared that nothing imports."""
    used = {PACKAGE.get(module, module) for module in imports()}
    unimported = {"torchvision"}  # transformers' image processors need it
    assert used >= CORE
    assert set().union(*(EXTRAS[e] for e in EXTRAS if e != "test")) - used == unimported


def test_extras_of_modules() -> None:
    """The table that errors are made from is what the metadata says."""
    expected = {
        module: next(e for e in EXTRAS if e != "test" and PACKAGE.get(module, module) in EXTRAS[e])
        for module in {*imports(), "torchvision"}
        if PACKAGE.get(module, module) not in CORE
    }
    assert expected == packages.EXTRAS


def test_the_light_install_is_the_verification_image() -> None:
    """requirements/verify.txt pins the core dependencies and none of an engine's."""
    pinned = set(
        re.findall(r"^([a-z0-9.-]+)==", (ROOT / "requirements/verify.txt").read_text(), re.M)
    )
    assert pinned >= CORE
    assert not pinned & {"torch", "transformers", "peft", "accelerate", "safetensors", "vllm"}


def test_the_version_stands_in_one_place() -> None:
    """Images, chart and manifests name the version of `si/__init__.py`, wherever they name one."""
    named = defaultdict(set)
    for folder in ("helm", "images", "k8s"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file():
                text = path.read_text(errors="replace")
                found = re.findall(
                    r"si-ctl-\w+:(\d[\w.]*)|^(?:ARG VERSION=|(?:appV|v)ersion: )(\S+)", text, re.M
                )
                for one, other in found:
                    named[one or other].add(path.name)
    assert set(named) == {__version__}, named
    assert len(named[__version__]) > 10
    assert "version" in PYPROJECT["dynamic"]


class Installed:
    """What `importlib.metadata` says of an installed si-ctl."""

    def __init__(self, url: str | None):
        self.url = url

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self.url and f'{{"url": "{self.url}"}}'


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    """Pretend that si-ctl was installed from a URL, in an environment with or without pip."""

    def pretend(url: str | None, prefix: Path, pip: bool, which: str | None = None) -> None:
        requires = [*PYPROJECT["dependencies"]]
        for extra, wanted in PYPROJECT["optional-dependencies"].items():
            requires += [f"{each}; extra == '{extra}'" for each in wanted]
        monkeypatch.setattr(packages.metadata, "distribution", lambda name: Installed(url))
        monkeypatch.setattr(packages.metadata, "requires", lambda name: requires)
        monkeypatch.setattr(packages.metadata, "distributions", lambda name: [])
        monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: pip or None)
        monkeypatch.setattr(packages.shutil, "which", lambda name: which)
        monkeypatch.setattr(sys, "prefix", str(prefix))
        monkeypatch.setattr(sys, "executable", str(prefix / "bin/python"))

    return pretend


def test_a_checkout_is_told_make_install(installed, tmp_path, monkeypatch) -> None:
    """In the checkout's own environment the local engines come by `make install`; other extras
    by the checkout's uv, since that environment has no pip."""
    installed(tmp_path.as_uri(), tmp_path / ".venv", pip=False)
    assert packages.install_command("local") == f"make -C {tmp_path} install"
    monkeypatch.chdir(tmp_path)
    assert packages.install_command("local") == "make install"
    uv = tmp_path / ".make/uv/bin/uv"
    uv.parent.mkdir(parents=True)
    uv.touch()
    python = tmp_path / ".venv/bin/python"
    expected = f"{uv} pip install --python {python} 'mlflow-skinny>=3.17'"
    assert packages.install_command("mlflow") == expected


def test_a_wheel_is_told_pip(installed, tmp_path) -> None:
    """From a wheel that is still there its extra is named by path; without it the packages are,
    the local engines' too where another engine needs them. The index is never asked for si-ctl."""
    wheel = tmp_path / "a b" / "si_ctl-1-py3-none-any.whl"
    installed(wheel.as_uri(), tmp_path / "env", pip=True, which=f"{tmp_path}/env/bin/pip")
    command = packages.install_command("vllm")
    assert command.startswith("pip install 'accelerate>=1.15' 'peft>=")
    assert "'vllm>=0.32,<0.34'" in command and "si-ctl" not in command
    wheel.parent.mkdir()
    wheel.touch()
    assert packages.install_command("local") == f"pip install '{wheel}[local]'"
    installed(wheel.as_uri(), tmp_path / "env", pip=True, which="/usr/bin/pip")
    python = tmp_path / "env/bin/python"
    assert packages.install_command("local") == f"{python} -m pip install '{wheel}[local]'"


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` names the missing modules and the command; with all of them it is silent."""
    packages.check("This test", "local")
    found = packages.importlib.util.find_spec
    monkeypatch.setattr(
        packages.importlib.util, "find_spec", lambda name: None if name == "peft" else found(name)
    )
    with pytest.raises(RecipeError, match="This test needs peft: not installed") as error:
        packages.check("This test", "local", "Or do without.")
    first, second = error.value.ways_out
    assert first.startswith("Install: ") and second == "Or do without."


def test_a_failed_import_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine whose library is missing is refused with the command that installs it."""
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(RecipeError) as error:
        load("engine", "vllm", {"vllm": "vllm:LLM"})
    assert "vllm" in error.value.ways_out[0] and error.value.ways_out[0].startswith("Install: ")


def test_not_installed_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imported from a folder on PYTHONPATH, the modules' own names are installed."""

    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(packages.metadata, "distribution", missing)
    monkeypatch.setattr(packages.metadata, "requires", missing)
    assert packages.install_command("liger").endswith(" liger-kernel")
