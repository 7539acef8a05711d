"""Run in a process of its own by `test_upstream`: the real HMAR with random weights, wrapped and patched.

Its block-sparse attention, which generation does not use, is replaced by nothing.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import torch
from signatures import check_signature
from torch import nn

import varfast

NUMS = (1, 2, 3, 4)
SCHEDULE = [[1], [1, 3], [1, 3, 5], [4, 4, 8]]


class AnyAttribute(ModuleType):
    """A module whose every other name is an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (nn.Module,), {"__init__": lambda self, *_: nn.Module.__init__(self)})


for name in ("attn", "attn.block_sparse_attn_interface", "utils", "utils.misc"):
    sys.modules[name] = AnyAttribute(name)
vars(sys.modules["utils.misc"])["does_not_contain_substrings"] = lambda text, parts: not any(p in text for p in parts)

from models import build_vae_hmar  # noqa: E402


def build(shared: bool) -> Any:
    torch.manual_seed(0)
    vae, model = build_vae_hmar(
        "cpu", patch_nums=NUMS, V=64, Cvae=8, ch=32, num_classes=10, depth=2, shared_aln=shared, n_layers_train=1
    )
    for p in [*vae.parameters(), *model.parameters()]:
        nn.init.normal_(p, std=0.3)
    return model.eval().requires_grad_(False)


def main() -> None:
    labels = torch.tensor([1, 9, 4])
    for shared in (False, True):
        model = build(shared)
        for cfg in (0.0, 1.7, 4.0):
            for options in (dict(mask=False), dict(mask_schedule=SCHEDULE)):
                call: dict[str, Any] = dict(B=3, label_B=labels, g_seed=5, cfg=cfg, top_k=1, top_p=0.0) | options
                own = model.generate(**call)
                for settings in ({"path": "features"}, {"path": "logits"}, {"temperature": 0.0}):
                    varfast.patch(model, **settings)
                    patched = model.generate(**call)
                    varfast.unpatch(model)
                    torch.testing.assert_close(patched, own, rtol=1e-4, atol=1e-4)
        varfast.patch(
            model,
            [
                varfast.SSG(),
                varfast.DiverseVAR(scales=(1, 2), suppress=(1.0, 0.1), relative=True, where="ends"),
                varfast.VARScaling(candidates=8),
            ],
        )
        check_signature(model, "generate")
        images = [model.generate(3, labels, seed, 1.7, 40, 0.99, mask_schedule=SCHEDULE) for seed in (1, 1, 2)]
        assert torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])
        assert images[0].shape == (3, 3, 64, 64) and images[0].min() >= 0 and images[0].max() <= 1


main()
