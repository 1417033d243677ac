"""Self-improvement of vision-language models with head-tail re-balancing.

    import si

    si.diagnose("rollouts.jsonl")               # how imbalanced are these rollouts?
    si.rebalance("rollouts.jsonl", "rp", out="train.jsonl")

See `si.api` for their arguments and results. `import si` alone loads nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from si.api import diagnose, rebalance

__all__ = ["__version__", "diagnose", "rebalance"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in ("diagnose", "rebalance"):
        return getattr(import_module("si.api"), name)
    raise AttributeError(f"module 'si' has no attribute {name!r}")
