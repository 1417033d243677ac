"""Self-improvement of vision-language models with head-tail re-balancing.

    import si

    si.diagnose("rollouts.jsonl")               # whom does training on these rollouts favour?
    si.rebalance("rollouts.jsonl", "rp", out="train.jsonl")

`si.verbs` says what they take and give. `import si` alone loads nothing.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from si.verbs import diagnose, rebalance

__all__ = ["__version__", "diagnose", "rebalance"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "diagnose":
        return import_module("si.verbs").diagnose
    if name == "rebalance":
        return import_module("si.rebalance")
    raise AttributeError(f"module 'si' has no attribute {name!r}")


class Verb(ModuleType):
    """A module that can be called: `si.rebalance` names a stage's module and what users call, and
    is the same thing whichever of the two was asked for first."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function of this name in `si.verbs`."""
        return getattr(import_module("si.verbs"), self.__name__.rpartition(".")[2])(*args, **kwargs)
