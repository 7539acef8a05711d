"""smooth_embed in Triton against the CPU kernel, in the interpreter, and compiled ahead of time."""

import math

import interpreter
import pytest
import torch

import varfast.ops  # noqa: F401

pytestmark = pytest.mark.needs_triton


def mixtures() -> None:
    from varfast.triton_kernels.smooth_embed import smooth_embed

    g = torch.Generator().manual_seed(0)
    for vocab, dtype in ((5, torch.float32), (40, torch.float16), (130, torch.float32), (64, torch.bfloat16)):
        logits = (torch.randn(2, 9, 2 * vocab, generator=g) * 3).to(dtype)[..., ::2]
        logits[0, 0] = -math.inf
        logits[0, 1, 2] = math.nan
        logits[0, 2, 1:] = -math.inf
        codebook = torch.randn(vocab, 6, generator=g).to(dtype)
        noise = torch.empty(2, 9, vocab).exponential_(generator=g)
        positions = torch.randint(0, 2**31, (2, 9), generator=g)
        pair = torch.tensor([0.5, 0.25], dtype=torch.float64)
        for recorded, *numbers in (
            (None, 0.0, 0.27, 4, 0, 0.0),
            (None, 0.9, 0.005, 4, vocab // 2, 0.9),
            (noise, 0.4, 0.1, 4, 0, 0.8),
            (None, 0.0, 0.0, 4, 0, 0.0, pair, pair / 2, pair + 0.3),
            (None, 0.9, 0.0, 4, 0, 0.8, None, pair[0], None),
        ):
            arguments = (logits, codebook, torch.tensor([3, -9]), recorded, positions, *numbers)
            with torch.autocast("cpu", torch.bfloat16):  # is for the model around it
                ours = smooth_embed(*arguments)
            want = torch.ops.varfast.smooth_embed(*arguments)
            assert ours.dtype == want.dtype and torch.equal(ours.isnan(), want.isnan())
            error = (ours - want).nan_to_num(0).norm() / want.nan_to_num(0).norm()
            assert error < (1e-5 if dtype == torch.float32 else 1e-2), (vocab, numbers, error)


def test_mixtures_of_the_cpu_kernel() -> None:
    interpreter.call(mixtures, loops=False)


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
def test_compiles_ahead_of_time(target: str) -> None:
    import aot
    from varfast.triton_kernels import smooth_embed as module

    kernel = module._probabilities
    wide = {"image_step", "row_step", "drop", "least", "ratio", "tau"}
    types = {name: "i64" if name in wide else "i32" for name in kernel.arg_names}
    types |= {"logits": "*bf16", "seeds": "*i64", "out": "*fp32", "c_filter": "fp32", "c_draw": "fp32"}
    fixed = {"ROWS": 1, "BLOCK": 4096} | dict.fromkeys(("positions", "table", "noise", "mixing"))
    aot.compile_kernel(kernel, {k: v for k, v in types.items() if k not in fixed}, fixed, target, num_warps=8)
