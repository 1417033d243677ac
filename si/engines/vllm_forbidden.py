"""Tokens that no request may sample, as a logits processor for vLLM.

Each engine process imports this module by name, so it contains nothing else. vLLM has two model
runners, each with its own interface for such classes. Which one runs depends on the machine (the
second with a GPU, the first without Triton). This class implements both.
"""

from typing import Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as SecondLogitsProcessor


class Forbidden(LogitsProcessor, SecondLogitsProcessor):  # type: ignore[misc,unused-ignore]
    """Makes the tokens of `additional_config["forbidden_ids"]` impossible for every request."""

    def __init__(self, vllm_config: Any, where: Any, is_pin_memory: bool = False):
        """Args:
        where: the device, or the second runner's request states, which have it.
        """
        ids = vllm_config.additional_config["forbidden_ids"]
        self.ids = torch.tensor(ids, dtype=torch.long, device=getattr(where, "device", where))

    def apply(self, logits: torch.Tensor, context: Any = None) -> torch.Tensor:
        return logits.index_fill_(1, self.ids, -torch.inf)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        """There is no state: the tokens are the same for all requests."""
