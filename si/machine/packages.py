"""Which packages are installed here, and the command that installs those that are missing.

The light install has no engines (docs/decisions/0010). What needs one asks `check` first, so that
the answer is a command that works in this environment.
"""

import importlib.util
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from si.errors import RecipeError

PROJECT = "si-ctl"
# The extra that brings a module; every module outside the light install that we import.
EXTRAS = {
    "accelerate": "local",
    "deepspeed": "deepspeed",
    "liger_kernel": "liger",
    "mlflow": "mlflow",
    "peft": "local",
    "safetensors": "local",
    "torch": "local",
    "torchvision": "local",
    "transformers": "local",
    "vllm": "vllm",
    "wandb": "wandb",
}
# The extras of the engines and trainers that a recipe can name.
ENGINES = {"transformers": "local", "vllm": "vllm", "deepspeed": "deepspeed"}


def check(what: str, extra: str, instead: str = "") -> None:
    """Make sure that an extra's modules are installed; none is imported.

    Args:
        what: what needs them, as the subject of the error's sentence.
        extra: `local`, `vllm`, `deepspeed`, `liger`, `mlflow` or `wandb`.
        instead: another way out.

    Raises:
        RecipeError: if some are missing; its way out is the command that installs them.
    """
    needed = {extra} if extra in ("mlflow", "wandb") else {"local", extra}
    missing = [
        module
        for module, brought_by in EXTRAS.items()
        if brought_by in needed and importlib.util.find_spec(module) is None
    ]
    if missing:
        raise RecipeError(
            f"{what} needs {_listed(missing)}: not installed here",
            f"environment {sys.prefix}",
            (f"Install: {install_command(extra)}", *([instead] if instead else [])),
        )


def advice(error: ImportError) -> str | None:
    """How to install the module whose import failed; None if it is not one of our extras'."""
    extra = EXTRAS.get((error.name or "").partition(".")[0])
    return f"Install: {install_command(extra)}" if extra else None


def install_command(extra: str) -> str:
    """A command that installs an extra into the environment that runs this.

    In the checkout's own `.venv` that is `make install` for the local engines. Otherwise it names
    the wheel that si-ctl was installed from, if that file is still there, or else the packages.
    No package index is asked for si-ctl itself.
    """
    source = _source()
    if source and extra == "local" and Path(sys.prefix) == source / ".venv":
        folder = "" if source == Path.cwd() else f"-C {shlex.quote(str(source))} "
        return f"make {folder}install"
    if source and source.suffix == ".whl" and source.exists():
        wanted = [f"{source}[{extra}]"]
    else:
        wanted = list(dict.fromkeys(requirements(extra)))
        wanted = [each for each in wanted if not _installed(each)] or wanted
        wanted = wanted or [m.replace("_", "-") for m, e in EXTRAS.items() if e == extra]
    return f"{_installer(source)} {shlex.join(wanted)}"


def requirements(extra: str) -> Iterator[str]:
    """The packages of an extra with their bounds, as the installed metadata gives them."""
    for line in _distribution_requires():
        package, _, marker = line.partition(";")
        if not re.search(rf"extra == ['\"]{extra}['\"]", marker):
            continue
        another = re.match(rf"{PROJECT}\[([\w,-]+)\]", package.strip())
        if another:
            for name in another[1].split(","):
                yield from requirements(name)
        else:
            yield package.strip()


def _distribution_requires() -> list[str]:
    try:
        return metadata.requires(PROJECT) or []
    except metadata.PackageNotFoundError:  # imported from a folder that is not installed
        return []


def _installed(requirement: str) -> bool:
    name = re.match(r"[\w.-]+", requirement)
    return name is not None and any(metadata.distributions(name=name[0]))


def _source() -> Path | None:
    """What si-ctl was installed from (PEP 610): a wheel, a checkout's folder; None if unknown."""
    try:
        noted = metadata.distribution(PROJECT).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return None
    url = urlparse(json.loads(noted)["url"]) if noted else None
    if url is None or url.scheme != "file":
        return None
    return Path(url2pathname(url.path))


def _installer(source: Path | None) -> str:
    """The program that installs packages into this environment."""
    python = Path(sys.executable)
    if importlib.util.find_spec("pip"):
        known = shutil.which("pip")
        mine = known is not None and Path(known).parent == python.parent
        return "pip install" if mine else f"{shlex.quote(str(python))} -m pip install"
    ours = source / ".make/uv/bin/uv" if source else None
    uv = str(ours) if ours and ours.exists() else "uv"
    return f"{shlex.quote(uv)} pip install --python {shlex.quote(str(python))}"


def _listed(names: list[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
