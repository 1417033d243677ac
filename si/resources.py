"""Where `jobs/` and `k8s/` are: beside the package in a checkout, inside it in a wheel."""

from pathlib import Path

from si.errors import SiError

_PACKAGE = Path(__file__).parent


def folder(name: str) -> Path:
    """The top-level folder `jobs` or `k8s`, wherever this installation has it.

    Raises:
        SiError: if it is nowhere.
    """
    for candidate in (_PACKAGE / "_bundle" / name, _PACKAGE.parent / name):
        if candidate.is_dir():
            return candidate
    raise SiError(
        f"The folder {name} is missing from this installation",
        f"looked beside and inside {_PACKAGE}",
        "Install si-ctl again.",
    )
