"""An object of every host's attributes, and how its method is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lookalike_infinity import SCHEDULE, UpstreamInfinity
from lookalikes import UpstreamFlexVAR, UpstreamHART, UpstreamHMAR
from tiny import tiny_var
from torch import Tensor
from upstream_like import UpstreamVAR

import varfast

LABELS = torch.tensor([3, 7, 0])
NUMS = (1, 2, 3, 4, 8)
STEPS = ((1,), (1, 3), (2, 3, 4), (6, 10), (20, 20, 24))
Case = tuple[Any, str, dict[str, Any]]  # an object, its method, the call's arguments


def flexvar() -> Case:
    model = UpstreamFlexVAR(tiny_var())
    return model, "autoregressive_infer_cfg", dict(vqvae=model.vqvae, B=3, label_B=LABELS, infer_patch_nums=NUMS)


def prompts() -> dict[str, Tensor]:
    mask = torch.ones(3, 3, dtype=torch.int64)
    mask[1, 2:] = 0
    return dict(label_B=torch.randn(3, 3, 6), context_position_ids=mask.cumsum(1) - 1, context_mask=mask)


def hart_like() -> Case:
    return UpstreamHART(tiny_var()), "autoregressive_infer_cfg", dict(B=3, **prompts())


def hmar() -> Case:
    return UpstreamHMAR(tiny_var(), tiny_var(seed=1)), "generate", dict(B=3, label_B=LABELS, mask_schedule=STEPS)


def text(*lengths: int) -> tuple[Tensor, list[int], Tensor, int]:
    ends = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return torch.randn(sum(lengths), 6), list(lengths), ends, max(lengths)


def infinity(patchify: int = 0) -> Case:
    model = UpstreamInfinity(patchify)
    call = dict(vae=model.vae, scale_schedule=SCHEDULE, label_B_or_BLT=text(5, 3, 4), B=3, cfg_list=[3.0] * 3)
    call |= dict(tau_list=[1.0] * 3, cfg_insertion_layer=[0], returns_vemb=1, vae_type=8, ret_img=True)
    return model, "autoregressive_infer_cfg", call


HOSTS: dict[str, Callable[[], Case]] = {"flexvar": flexvar, "hart": hart_like, "hmar": hmar, "infinity": infinity}


def var() -> Case:
    return UpstreamVAR(tiny_var()), "autoregressive_infer_cfg", dict(B=3, label_B=LABELS)


ALL = HOSTS | {"var": var}


EVERY = (*ALL, "code", "own")  # and the two kinds of model that are nobody's object


def wrapped(host: str, model: Any, call: dict[str, Any]) -> Any:
    """An upstream object as a model, with the options that the call of its method gives."""
    options: dict[str, Any] = {
        "flexvar": lambda: dict(vqvae=call["vqvae"], patch_nums=call["infer_patch_nums"]),
        "infinity": lambda: dict(vae=call["vae"], scale_schedule=call["scale_schedule"], text=call["label_B_or_BLT"]),
        "hart": lambda: dict(text=(call["label_B"], call["context_position_ids"], call["context_mask"])),
        "hmar": lambda: dict(mask_schedule=STEPS),
    }.get(host, dict)()
    return varfast.wrap(model, **options)


def made(host: str) -> Any:
    """A model of each of `EVERY`, of the same weights every time."""
    torch.manual_seed(0)
    if host == "own":
        return tiny_var()
    if host == "code":
        return varfast.hosts.CoDe(*(varfast.wrap(UpstreamVAR(tiny_var())) for _ in range(2)), drafted=2)
    model, _, call = ALL[host]()
    return wrapped(host, model, call)


def image_of(result: Any) -> Tensor:
    return result if isinstance(result, Tensor) else result[2].float() / 255


def drawn(model: Any, method: str, call: dict[str, Any]) -> Tensor:
    """Stands here and not in a test file, whose name a spawned process looks up in any package called `tests`."""
    return image_of(getattr(model, method)(**call | {"g_seed": 1}))
