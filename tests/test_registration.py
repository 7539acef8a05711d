"""Every op of the namespace, on every key, with scalars and sizes that tell arguments apart.

A boxed kernel's arguments are not checked against its schema: a float read as an int loads, runs and returns nonsense.
So each op is called with 1.5 and -3, a different prime for each axis, and held to the reference.
"""

import pytest
import torch
from cases import error, randn
from native import compile_cpp, flags, torch_flags, torch_libraries
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from varfast import ops, schemas
from varfast.reference import (
    dse_prior,
    filter_logits,
    gaussian_kde,
    guide,
    guided_sample,
    sample,
    select_candidate,
    smooth_embed,
)
from varfast.reference import spectral_reweight as spectral

SEEDS = torch.tensor([3, -7])
GRIDS = (2, 3, 5, 7)
PRIOR = ("dse", "bicubic", [1, 2], "verbatim")
HALF = torch.tensor([1.5, 0.5], dtype=torch.float64)
POSITIONS = torch.arange(70).reshape(2, 35) + 11
FILTERS = {"temperature": 1.5, "top_k": 7, "top_p": 0.9, "temperature_last": True, "min_p_tensor": HALF / 100}
FIRST_SCALE = {"prev_h": 2, "prev_w": 3, "h": 5, "w": 7, "interp": "bicubic", "cutoff": [1, 2]}  # and no prev: the
# reference's prior is rounded elsewhere, and ids are compared exactly
DRAWS = {"stream": 3, "draws": 3, "purpose": 5}
IDS = torch.arange(22).reshape(2, 11) % 13


def maps(channels: int, rows: int = 35) -> torch.Tensor:
    return randn(2, rows, channels, seed=rows)


KDE = (randn(2, 11, 5), randn(2, 7, 5, seed=1), None, randn(2, 7, seed=2).abs())
# op: its reference and argument lists in the schema's order.
CALLS = {
    "dse_prior": (
        dse_prior.dse_prior,
        [
            (maps(11, 6), *GRIDS, *PRIOR),
            (maps(11, 6), *GRIDS, "dse", "bilinear", None, "verbatim-unnormalised"),
            (maps(11, 6), *GRIDS),
            (maps(11, 6), *GRIDS, "mean", "nearest", [0, 0]),
        ],
    ),
    "guide": (
        guide.guide,
        [
            (maps(11), maps(11) + 1, maps(11, 6), *GRIDS, 1.5, -3.0, *PRIOR),
            (maps(11), maps(11) + 1, maps(11, 6), *GRIDS, 1.5, -3.0),
            (maps(11), maps(11) + 1, None, *GRIDS, 0.0, 0.0, *PRIOR, HALF, -2 * HALF),
            (maps(11),),
        ],
    ),
    "filter_logits": (
        filter_logits.filter_logits,
        [
            (maps(13), *schemas.FilterLogits(**FILTERS, probs=True)),
            (
                maps(13),
                *schemas.FilterLogits(0.0, min_p=0.1, probs=True, temperature_tensor=HALF, top_p_tensor=HALF / 2),
            ),
            (maps(13), 1.5, 7, 0.0, 0.0, False, True),
        ],
    ),
    "sample": (
        sample.sample,
        [
            (maps(13), SEEDS, POSITIONS, *schemas.Sample(**FILTERS, **DRAWS, with_stats=True)),
            (maps(13), SEEDS, None, *schemas.Sample(min_p=0.1, temperature_tensor=HALF, top_p_tensor=HALF / 2)),
            (maps(13), SEEDS, None, 3, 1.5, 7),
        ],
    ),
    "guided_sample": (
        guided_sample.guided_sample,
        [
            (
                maps(26),
                SEEDS,
                maps(26) + 1,
                None,
                None,
                *schemas.GuidedSample(
                    **FIRST_SCALE, **FILTERS, **DRAWS, t=1.5, beta=-3.0, with_cfg=True, with_stats=True, groups=2
                ),
            ),
            (maps(13), SEEDS, None, None, POSITIONS, *schemas.GuidedSample(**FIRST_SCALE, **FILTERS, with_cfg=True)),
            (maps(13), SEEDS, maps(13) + 1, None, None, *schemas.GuidedSample(t_tensor=HALF, with_stats=True)),
            (maps(13), SEEDS),
        ],
    ),
    "smooth_embed": (
        smooth_embed.smooth_embed,
        [
            (maps(13), randn(13, 11), SEEDS, maps(13).exp(), POSITIONS, 0.5, 1.5, 3, 7, 0.9),
            (maps(13), randn(13, 11), SEEDS, None, None, 0.0, 0.5, 2),
            (maps(13), randn(13, 11), SEEDS, None, None, 0.0, 0.0, 2, 7, 0.0, HALF, 2 * HALF, HALF / 2),
        ],
    ),
    "gaussian_kde": (
        gaussian_kde.gaussian_kde,
        [
            (*KDE, 1.0, False, HALF),
            (*KDE, 0.7, True),
            (*KDE, 0.0, True, HALF[0]),
            (IDS, None, randn(13, 5), None, 1.0, False, HALF),
            (KDE[0],),
        ],
    ),
    "gaussian_kde_sigma": (
        gaussian_kde.gaussian_kde_sigma,
        [(KDE[0],), (IDS, randn(13, 5), IDS.float() + 1)],
    ),
    "gaussian_kde_backward": (
        gaussian_kde.gaussian_kde_backward,
        [(randn(2, 11, seed=3), gaussian_kde.gaussian_kde(*KDE, 1.0, False, HALF), *KDE, HALF, False)],
    ),
    "select_candidate": (
        select_candidate.select_candidate,
        [
            (randn(2, 11).abs(), SEEDS, randn(2, 11, 7, 5), None, None, "var", 1.5, 3, 2.5, 3),
            (randn(2, 11).abs(), SEEDS, None, None, None, "infinity", 2.3, 5, 1.8, 1),
            (randn(2, 11).abs(), SEEDS, randn(2, 11, 7, 5), None, None, "var", 0.0, 5, 0.0, 3, 2 * HALF, 6 * HALF),
            (randn(2, 11).abs(), SEEDS, randn(2, 11, 7, 5)),
        ],
    ),
    "spectral_reweight": (
        spectral.spectral_reweight,
        [
            (maps(11, 7), 0.3, 1.5, False, 3),
            (maps(11, 7), 0.0, 0.0, True, None, True, HALF / 5, HALF),
            (maps(11, 7), 0.3),
        ],
    ),
}
EVERY = [(name, index) for name, (_, calls) in CALLS.items() for index in range(len(calls))]
WITH_GRADIENT = {"dse_prior", "guide", "gaussian_kde", "gaussian_kde_sigma", "spectral_reweight"}
NO_TENSORS_BUT_TABLES = {"dse_tables"}  # hands the operator's constants to other backends; nothing differentiates it


def as_tuple(out) -> tuple:
    return out if isinstance(out, (tuple, list)) else (out,)


def assert_agrees(op, reference, arguments: tuple) -> None:
    """The op's outputs are the reference's: integers exactly, floats to 1e-5 in norm."""
    for got, want in zip(as_tuple(op(*arguments)), as_tuple(reference(*arguments)), strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape
        if got.dtype.is_floating_point and got.numel():
            assert error(got, want) < 1e-5
        else:
            assert torch.equal(got, want)


def test_every_op_of_the_namespace_is_called_here():
    names = {
        schema.name.removeprefix("varfast::")
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith("varfast::")
    }
    assert names - NO_TENSORS_BUT_TABLES == set(CALLS)
    assert set(ops.__all__) <= names


@pytest.mark.parametrize("name, index", EVERY)
def test_the_cpu_kernel_agrees_with_the_reference(simd, name, index):
    reference, calls = CALLS[name]
    assert_agrees(getattr(torch.ops.varfast, name), reference, calls[index])


@pytest.mark.gpu
@pytest.mark.parametrize("name, index", EVERY)
def test_the_cuda_kernel_agrees_with_the_reference(name, index):
    reference, calls = CALLS[name]
    here = tree_map(lambda x: x.cuda() if isinstance(x, torch.Tensor) else x, calls[index])
    got = tree_map(lambda x: x.cpu(), as_tuple(getattr(torch.ops.varfast, name)(*here)))
    assert_agrees(lambda *_: got, reference, calls[index])


@pytest.mark.parametrize("name, index", EVERY)
def test_the_fake_has_the_real_shapes_strides_and_dtypes(name, index):
    op, arguments = getattr(torch.ops.varfast, name), CALLS[name][1][index]
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        fake = tree_map(lambda x: mode.from_tensor(x) if isinstance(x, torch.Tensor) else x, arguments)
        outputs = as_tuple(op(*fake))
    for mine, real in zip(outputs, as_tuple(op(*arguments)), strict=True):
        assert mine.dtype == real.dtype and mine.shape == real.shape and mine.stride() == real.stride()
        assert mine.device == real.device


@pytest.mark.parametrize("name, index", EVERY)
def test_opcheck(name, index):
    arguments = CALLS[name][1][index]
    if name in WITH_GRADIENT:
        arguments = tree_map(
            lambda x: x.clone().requires_grad_() if isinstance(x, torch.Tensor) and x.is_floating_point() else x,
            arguments,
        )
    torch.library.opcheck(getattr(torch.ops.varfast, name).default, arguments)


@pytest.mark.parametrize("name", sorted(CALLS.keys() - WITH_GRADIENT))
def test_an_op_without_a_gradient_says_so_at_backward(name):
    """Silence would leave .grad at None."""
    arguments = CALLS[name][1][0]
    leaf = arguments[0].clone().requires_grad_()
    outputs = as_tuple(getattr(torch.ops.varfast, name)(leaf, *arguments[1:]))
    out = next(x for x in outputs if x.requires_grad)
    with pytest.raises(NotImplementedError, match=r"varfast\.\w+ has no derivative"):
        out.sum().backward()


MISTYPED = """
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
using torch::stable::Tensor;
static Tensor scale(const Tensor& x, SCALAR a) {
  Tensor out = torch::stable::new_empty(x, {x.size(0)}, x.scalar_type());
  const float* from = static_cast<const float*>(x.const_data_ptr());
  float* to = static_cast<float*>(out.mutable_data_ptr());
  for (int64_t i = 0; i < x.size(0); ++i) to[i] = from[i] * static_cast<float>(a);
  return out;
}
STABLE_TORCH_LIBRARY(NAME, m) { m.def("scale(Tensor x, float a) -> Tensor"); }
STABLE_TORCH_LIBRARY_IMPL(NAME, CPU, m) { m.impl("scale", TORCH_BOX(&scale)); }
"""


@pytest.mark.source_tree
def test_a_mistyped_op_loads_and_is_caught(tmp_path):
    options = [*flags("portable"), *torch_flags(), "-O0", "-shared"]
    for name, scalar in (("varfast_good", "double"), ("varfast_mistyped", "int64_t")):
        source = MISTYPED.replace("NAME", name).replace("SCALAR", scalar)
        torch.ops.load_library(compile_cpp(source, tmp_path / f"{name}.so", *options, *torch_libraries()))
        op, arguments = getattr(torch.ops, name).scale, (randn(7), 1.5)
        if scalar == "double":
            assert_agrees(op, torch.mul, arguments)
        else:
            with pytest.raises(AssertionError):
                assert_agrees(op, torch.mul, arguments)
