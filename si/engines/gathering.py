"""Collecting a model's weights from the processes that trained it with DeepSpeed."""

from typing import Any

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param
from torch import Tensor
from torch import distributed as dist

from si.config.recipe import Train
from si.errors import SiError


def gather(model: Any, train: Train) -> dict[str, Tensor]:
    """All weights by name, on the CPU; empty except in the first process.

    Trained weights come from the optimizer's float32 copies, in the number format in which they
    will be written.

    Raises:
        SiError: if the norm of a weight differs from that of its parts in all processes.
    """
    kept = torch.float32 if train.lora else getattr(torch, train.dtype)
    names = [name for name, _ in model.named_parameters()]
    squares = torch.stack([_own_square(p) for p in model.parameters()])
    if train.deepspeed.zero == 3:
        dist.all_reduce(squares)
    state, gathered = {}, []
    for name, parameter in model.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            weight = parameter.data.detach().clone()
        gathered.append(weight.double().pow(2).sum())
        if parameter.requires_grad:
            exact = safe_get_full_fp32_param(parameter)
            weight = weight if exact is None else exact.detach().to(kept)
        if dist.get_rank() == 0:
            state[name] = weight.cpu()
    _check(names, squares.cpu(), torch.stack(gathered).cpu())
    return state


def _check(names: list[str], parts: Tensor, gathered: Tensor) -> None:
    """Compare the sums of squares of all weights, from their parts and as gathered."""
    wrong = [
        f"{name}: norm {float(b.sqrt()):.6g}, norm of its parts {float(a.sqrt()):.6g}"
        for name, a, b in zip(names, parts, gathered, strict=True)
        if not torch.isclose(a, b, rtol=1e-9, atol=0) or not b.isfinite()
    ]
    if wrong:
        raise SiError(
            f"{len(wrong)} of {len(names)} weights were not gathered as they were trained",
            "\n".join(wrong[:5]),
            "Nothing was committed. Is this version of DeepSpeed supported?",
        )


def _own_square(parameter: Any) -> Tensor:
    """The sum of squares of this process's part of a weight."""
    if not hasattr(parameter, "ds_tensor"):
        return parameter.data.double().pow(2).sum()  # type: ignore[no-any-return]
    part = parameter.ds_tensor.data.flatten()
    # The last part is padded with arbitrary values.
    own = min(part.numel(), max(0, parameter.ds_numel - dist.get_rank() * part.numel()))
    return part[:own].to(parameter.device).double().pow(2).sum()  # type: ignore[no-any-return]


@torch.no_grad()
def fill(model: Any, state: dict[str, Tensor]) -> None:
    """Copy gathered weights into a model like the one that was trained.

    Raises:
        SiError: if names differ.
    """
    own = dict(model.named_parameters())
    strange = own.keys() ^ state.keys()
    if strange:
        raise SiError(
            f"{len(strange)} weights of the trained model have other names",
            ", ".join(sorted(strange)[:5]),
        )
    for name, tensor in state.items():
        own[name].copy_(tensor)
