"""Tokens that no request may sample, as vLLM asks for it: a module that each engine process
imports by name. So nothing else is done here.

vLLM has two model runners, with an interface each for such classes; which one runs depends on the
machine (with a GPU the second, without Triton the first). This class is of both.
"""

from typing import Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as SecondLogitsProcessor


class Forbidden(LogitsProcessor, SecondLogitsProcessor):  # type: ignore[misc,unused-ignore]
    """Makes the tokens of `additional_config["forbidden_ids"]` impossible for every request."""

    def __init__(self, vllm_config: Any, where: Any, is_pin_memory: bool = False):
        """Args:
        where: the device, or the second runner's request states, which know it.
        """
        ids = vllm_config.additional_config["forbidden_ids"]
        self.ids = torch.tensor(ids, dtype=torch.long, device=getattr(where, "device", where))

    def apply(self, logits: torch.Tensor, context: Any = None) -> torch.Tensor:
        return logits.index_fill_(1, self.ids, -torch.inf)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        """Nothing to keep: it is the same for all requests."""
