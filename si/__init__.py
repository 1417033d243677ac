"""Self-improvement of vision-language models with head-tail re-balancing.

    import si

    si.diagnose("rollouts.jsonl")               # whom does training on these rollouts favour?
    si.rebalance("rollouts.jsonl", "rp", out="train.jsonl")

Both are imported when they are first used; `import si` alone loads nothing.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from si.verbs import diagnose, rebalance

__all__ = ["__version__", "diagnose", "rebalance"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in ("diagnose", "rebalance"):
        return getattr(import_module("si.verbs"), name)
    raise AttributeError(f"module 'si' has no attribute {name!r}")


class Verb(ModuleType):
    """A module that is also the verb of its name: once Python has imported it, `si.rebalance`
    is the module, and a call of it has to be what it was before."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(import_module("si.verbs"), self.__name__.rpartition(".")[2])(*args, **kwargs)
