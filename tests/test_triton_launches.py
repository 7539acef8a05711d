"""Triton's launches on AMD GPUs: what the code chooses fits the target, and no address is a product in 32 bits."""

import dataclasses
import importlib.util
import math
import tempfile
from collections.abc import Callable

import interpreter
import pytest
import torch
from calls import SPECS, guide_of, same
from torch import Tensor

import varfast.ops  # noqa: F401
from varfast.schemas import FilterLogits, GuidedSample, Operator, Sample

pytestmark = pytest.mark.needs_triton

VOCABULARIES = (2, 64, 1024, 2048, 4096, 8192, 16384, 32768, 262144)


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def rows(vocab: int, full: bool) -> list[Callable[[], object]]:
    """The ops that draw from rows or filter them; `full`: strided, with every optional argument, else with none."""
    from varfast.triton_kernels.filter_logits import filter_logits
    from varfast.triton_kernels.guided_sample import guided_sample
    from varfast.triton_kernels.sample import sample
    from varfast.triton_kernels.smooth_embed import smooth_embed

    # Strided tokens are not loaded as vectors, and take more registers.
    logits = meta(2, 9, 2 * vocab, dtype=torch.bfloat16)[..., ::2] if full else meta(2, 9, vocab)
    seeds = meta(2, dtype=torch.int64)
    positions = meta(2, 9, dtype=torch.int64) if full else None
    number = meta(2, dtype=torch.float64) if full else None
    filters = {"temperature": 0.9, "top_k": 900, "top_p": 0.9, "min_p": 0.1}
    tensors = {f"{name}_tensor": number for name in ("temperature", "top_p", "min_p")}
    guidance = {"t": 0.5, "beta": 0.5, "t_tensor": number, "beta_tensor": number, "with_cfg": full}
    draw, kept = (
        Sample(**filters, **tensors, with_stats=full), FilterLogits(**filters, **tensors, probs=not full)
    )  # fmt: skip
    both = GuidedSample(**filters, **tensors, **guidance, with_stats=full)
    calls = [
        lambda: sample(logits, seeds, positions, *draw),
        lambda: filter_logits(logits, *kept),
        lambda: guided_sample(logits, seeds, logits if full else None, None, positions, *both),
    ]
    if vocab <= 4096:  # beyond, the reference
        codebook = meta(vocab, 8)
        mixing = (number, number, number) if full else (None, None, None)
        calls.append(lambda: smooth_embed(logits, codebook, seeds, None, positions, 0.1, 0.2, 0, 900, 0.9, *mixing))
    return calls


def maps(full: bool) -> list[Callable[[], object]]:
    from varfast.triton_kernels.guide import guide

    number = meta(2, dtype=torch.float64) if full else None
    out = []
    for spec in SPECS.values():
        prev_hw, hw, *_ = spec
        dtype = torch.bfloat16 if full else torch.float32
        x, prev = meta(2, math.prod(hw), 4096, dtype=dtype), meta(2, math.prod(prev_hw), 4096, dtype=dtype)
        arguments = (x, x if full else None, prev, *guide_of(spec, (0.5, number), (0.5, number)))
        out.append(lambda arguments=arguments: guide(*arguments))
    return out


def densities() -> list[Callable[[], object]]:
    from varfast.triton_kernels.gaussian_kde import gaussian_kde

    h, weights = meta(2, dtype=torch.float64), meta(2, 900)
    points, codebook, ids = meta(2, 900, 32), meta(4096, 32), meta(2, 900, dtype=torch.int64)
    return [
        lambda: gaussian_kde(points, None, None, None, 1.0, False, h),
        lambda: gaussian_kde(points.bfloat16(), None, None, weights, 1.0, True, h),
        lambda: gaussian_kde(points.mT.contiguous().mT, None, None, weights, 1.0, True, h),
        lambda: gaussian_kde(ids, None, codebook, weights, 1.0, False, h),
        lambda: gaussian_kde(meta(2, 900, 45, dtype=torch.bool), None, None, None, 1.0, False, h),
    ]


def spectra(sides: tuple[int, ...]) -> list[Callable[[], object]]:
    from varfast.triton_kernels.spectral_reweight import spectral_reweight

    return [lambda n=n: spectral_reweight(meta(2, n, 256), 1.0, 1.0, False, None, True) for n in sides]


def all_calls(vocabularies: tuple[int, ...], sides: tuple[int, ...]) -> list[Callable[[], object]]:
    drawn = [call for vocab in vocabularies for full in (False, True) for call in rows(vocab, full)]
    return [*drawn, *maps(False), *maps(True), *densities(), *spectra(sides)]


def compiled_for(monkeypatch: pytest.MonkeyPatch, target: str, calls: list[Callable[[], object]]) -> list[tuple]:
    """(launch, its code) of each configuration."""
    import launches

    gpu = (launches.AMD | launches.NVIDIA)[target]
    found = launches.launches(monkeypatch, gpu.chip, calls)
    assert found
    return [(launch, launch.compile(gpu)) for launch in found]


def hold(monkeypatch: pytest.MonkeyPatch, target: str, calls: list[Callable[[], object]]) -> None:
    """What fits the target, and has no address made in 32 bits."""
    import launches

    faults = {}
    for launch, code in compiled_for(monkeypatch, target, calls):
        wrong = launches.amd_faults(launch, code, launches.AMD[target])
        # jacobi_kernel's matrices have at most 64 x 64 numbers.
        wrong += [] if launch.kernel is jacobi() else launches.narrow_products(code.asm["ttir"])
        if wrong:
            faults[launch.key()] = wrong
    assert not faults


def jacobi() -> object:
    from varfast.triton_kernels.spectral_reweight import jacobi_kernel

    return jacobi_kernel


FAST = {
    "rows": lambda: [call for vocab in (2, 4096, 32768) for call in rows(vocab, True)],
    "maps": lambda: maps(True),
    "densities": densities,
    "spectra": lambda: spectra((64,)),
}


@pytest.mark.parametrize("kind", FAST)
@pytest.mark.parametrize("target", ["gfx942", "gfx1100"])
def test_the_largest_configurations_fit_an_amd_gpu(monkeypatch, target: str, kind: str) -> None:
    hold(monkeypatch, target, FAST[kind]())


@pytest.mark.slow
@pytest.mark.parametrize("target", ["gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201"])
def test_every_configuration_fits_an_amd_gpu(monkeypatch, target: str) -> None:
    hold(monkeypatch, target, all_calls(VOCABULARIES, (1, 2, 4, 8, 16, 32, 64)))


@pytest.mark.parametrize(("name", "fault"), [("gfx942", "2048 threads, of at most 1024"), ("gfx1100", "of scratch")])
def test_a_tile_that_is_too_large_is_caught(monkeypatch, name: str, fault: str) -> None:
    """As it was: 16 values in each thread of warps of 32, whatever the GPU."""
    import launches

    target = dataclasses.replace(launches.AMD[name], chip=launches.NVIDIA["sm_80"].chip)
    (launch,) = launches.launches(monkeypatch, target.chip, rows(16384, True)[:1])
    code = launch.compile(target)
    assert fault in launches.amd_faults(launch, code, target)[0]
    assert "bytes of LDS, of 16" in launches.amd_faults(launch, code, dataclasses.replace(target, shared=16))[-1]


@pytest.mark.parametrize(
    ("offset", "found"),
    [("k * step", 1), ("tl.cast(k, tl.int64) * step", 0), ("k * 16", 0), ("tl.load(x + k).to(tl.int32)", 0)],
)
def test_a_product_in_32_bits_is_caught(tmp_path, offset: str, found: int) -> None:
    import launches

    source = tmp_path / "planted.py"
    source.write_text(
        "import triton\nimport triton.language as tl\n\n\n@triton.jit\ndef planted(x, step, count):\n"
        f"    for k in range(count):\n        tl.store(x + ({offset} + k), 1.0)\n"
    )
    spec = importlib.util.spec_from_file_location("planted", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    launch = launches.Launch(module.planted, {"x": "*fp32", "step": "i32", "count": "i32"}, {}, {}, {})
    code = launch.compile(launches.NVIDIA["sm_80"])
    assert len(launches.narrow_products(code.asm["ttir"])) == found


def rows_far_apart() -> None:
    from varfast.triton_kernels.dse_prior import dse_prior
    from varfast.triton_kernels.gaussian_kde import gaussian_kde

    with tempfile.TemporaryDirectory() as folder:  # 9 GB of a file, of which the pages that are touched take room
        far = torch.from_file(f"{folder}/far", shared=True, size=130 * 2**24).view(1, 130, 2**24)
        prev = far[..., :4]
        prev.copy_(torch.randn(1, 130, 4, generator=torch.Generator().manual_seed(0)))
        for interp in ("bilinear", "nearest"):  # folded, and not
            spec = Operator(13, 10, 2, 2, "dse", interp)
            assert same(dse_prior(prev, *spec), torch.ops.varfast.dse_prior(prev, *spec)), interp
        points, h = far[..., :2].mT, torch.full((1,), 8.0, dtype=torch.float64)  # the channels far apart
        got, want = (f(points, None, None, None, 1.0, False, h) for f in (gaussian_kde, torch.ops.varfast.gaussian_kde))
        torch.testing.assert_close(got, want)


def test_strides_beyond_32_bits_are_followed() -> None:
    interpreter.call(rows_far_apart, fma=True)
