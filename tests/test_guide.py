"""guide: its arithmetic to the bit, missing branches, scalars and tensors, excluded tokens, gradients, errors."""

import math

import pytest
import torch
from cases import CHANNELS, DTYPES, GRIDS, PRIORS, TOLERANCE, error, randn, strided

from varfast.ops import dse_prior, guide, guided_sample
from varfast.reference.guide import combine, per_position
from varfast.reference.guide import guide as reference

T = {
    "number": 1.5,
    "0-dim": torch.tensor(1.5),
    "image": torch.tensor([1.5, -3.0, 0.0]),
    "position": randn(3, 35, seed=9),
}
BETA = {k: v * 0.3 for k, v in T.items()}
SOME = (GRIDS[2], GRIDS[4], GRIDS[8])
WIDE = (torch.float32, torch.float64)


def inputs(prev_hw, hw, channels, dtype=torch.float32, batch=3):
    m, n = math.prod(prev_hw), math.prod(hw)
    return tuple(randn(batch, rows, channels, seed=s, dtype=dtype) for s, rows in enumerate((n, n, m)))


def exact(cond, uncond, prev, prev_hw, hw, t, beta, prior="dse"):
    """The reference in float64."""
    double = [None if x is None else x.double() for x in (cond, uncond, prev)]
    split = [(0.0, x.double()) if isinstance(x, torch.Tensor) else (x, None) for x in (t, beta)]
    (t, t_tensor), (beta, beta_tensor) = split
    return reference(*double, *prev_hw, *hw, t, beta, prior, "bilinear", None, "energy", t_tensor, beta_tensor)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("prev_hw, hw", GRIDS)
def test_agrees_with_the_float64_reference(prev_hw, hw, dtype):
    cond, uncond, prev = inputs(prev_hw, hw, 37, dtype)
    for prior in PRIORS:
        got = guide(cond, uncond, prev, prev_hw=prev_hw, hw=hw, t=1.5, beta=0.7, prior=prior)
        want = exact(cond, uncond, prev, prev_hw, hw, 1.5, 0.7, prior)
        for mine, other in zip(got, want, strict=True):
            assert mine.dtype == dtype and mine.is_contiguous()
            assert error(mine, other) < TOLERANCE[dtype]


@pytest.mark.parametrize("prev_hw, hw", GRIDS)
def test_float64_is_the_references_and_its_bits_depend_on_nothing(simd, prev_hw, hw):
    parts = inputs(prev_hw, hw, 131, torch.float64)
    for prior in PRIORS:
        options = {"prev_hw": prev_hw, "hw": hw, "t": T["image"], "beta": BETA["image"], "prior": prior}
        got = guide(*parts, **options)
        alone = guide(*(x[1:2] for x in parts), **(options | {"t": -3.0, "beta": BETA["image"][1:2]}))
        want = exact(*parts, prev_hw, hw, T["image"], BETA["image"], prior)
        for mine, one, other in zip(got, alone, want, strict=True):
            assert mine.dtype == torch.float64 and error(mine, other) < 1e-14 and torch.equal(mine[1:2], one)
        layouts = zip(*(strided(x) for x in parts), strict=True)
        assert all(torch.equal(guide(*layout, **options)[0], got[0]) for layout in layouts)
    without = zip(guide(*parts[:2], t=1.5), exact(*parts[:2], None, prev_hw, hw, 1.5, 0.0), strict=True)
    assert all(error(mine, other) < 1e-15 for mine, other in without)


@pytest.mark.parametrize("form", T)
@pytest.mark.parametrize("branches", ("cond", "cond uncond", "cond prev", "cond uncond prev"))
def test_float32_arithmetic_is_the_written_one_to_the_bit(simd, branches, form):
    prev_hw, hw = (2, 3), (5, 7)
    cond, uncond, prev = inputs(prev_hw, hw, 161)
    uncond, prev = uncond if "uncond" in branches else None, prev if "prev" in branches else None
    t, beta = T[form] if uncond is not None else 0.0, BETA[form]
    got = guide(cond, uncond, prev, prev_hw=prev_hw, hw=hw, t=t, beta=beta)
    split = [(0.0, x) if isinstance(x, torch.Tensor) else (x, None) for x in (t, beta)]
    t, beta = (per_position(*pair, cond) for pair in split)
    # a = 1 + t; cfg = a c - t u; g = cfg + beta (cfg - prior): torch rounds each of these by itself
    cfg = cond if uncond is None else (1 + t) * cond - t * uncond
    prior = None if prev is None else dse_prior(prev, prev_hw=prev_hw, hw=hw)
    guided = cfg if prior is None else cfg + beta * (cfg - prior)
    assert torch.equal(got[1], cfg) and torch.equal(got[0], guided)
    assert torch.equal(combine(cond, uncond, prior, t, beta)[0], guided)


@pytest.mark.parametrize("prev_hw, hw", GRIDS)
def test_the_prior_inside_is_dse_priors_to_the_bit(simd, prev_hw, hw):
    _, _, prev = inputs(prev_hw, hw, 131)
    cond = torch.zeros(3, math.prod(hw), 131)
    guided, _ = guide(cond, None, prev, prev_hw=prev_hw, hw=hw, beta=-1.0)
    assert torch.equal(guided, dse_prior(prev, prev_hw=prev_hw, hw=hw))


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
@pytest.mark.parametrize("prev_hw, hw", SOME)
def test_16_bit_results_are_float32_results_rounded_once(simd, prev_hw, hw, dtype):
    parts = inputs(prev_hw, hw, 37, dtype)
    options = {"prev_hw": prev_hw, "hw": hw, "t": 1.5, "beta": 0.7}
    for got, want in zip(guide(*parts, **options), guide(*(x.float() for x in parts), **options), strict=True):
        assert torch.equal(got, want.to(dtype))


@pytest.mark.parametrize("form", T)
def test_numbers_and_tensors_mean_the_same(form):
    cond, uncond, prev = inputs((2, 3), (5, 7), 37)
    grids = {"prev_hw": (2, 3), "hw": (5, 7)}
    got, _ = guide(cond, uncond, prev, t=T[form], beta=BETA[form], **grids)
    full = [torch.as_tensor(x, dtype=torch.float32) for x in (T[form], BETA[form])]
    full = [x.reshape(x.shape + (1,) * (2 - x.dim())).expand(3, 35) for x in full]
    for image in range(3):
        for position in (0, 17, 34):
            t, beta = (x[image, position].item() for x in full)
            alone, _ = guide(cond, uncond, prev, t=t, beta=beta, **grids)
            assert torch.equal(got[image, position], alone[image, position])


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("prev_hw, hw", SOME)
def test_every_channel_count_batch_and_layout_gives_the_same_bits(simd, prev_hw, hw, channels):
    parts = inputs(prev_hw, hw, channels)
    options = {"prev_hw": prev_hw, "hw": hw, "t": 1.5, "beta": 0.7}
    want = guide(*parts, **options)
    wide = guide(*(torch.cat([x, x], -1) for x in parts), **options)
    alone = [guide(*(x[b : b + 1] for x in parts), **options) for b in range(3)]
    for i in (0, 1):
        assert torch.equal(wide[i][..., :channels], want[i]) and torch.equal(wide[i][..., channels:], want[i])
        assert torch.equal(torch.cat([one[i] for one in alone]), want[i])
    for layout in zip(*(strided(x) for x in parts), strict=True):
        got = guide(*layout, **options)
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


@pytest.mark.parametrize("prev_hw, hw", (((8, 8), (29, 17)), ((17, 33), (23, 45))))  # one matrix; folded
def test_the_cut_into_shares_of_rows_does_not_show(simd, prev_hw, hw):
    """With few channels and more threads than images a share is some rows: here 10 of 29, and 2 of 12 pairs or none."""
    parts = inputs(prev_hw, hw, 6)
    grids = {"prev_hw": prev_hw, "hw": hw}
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 4, 31):
            torch.set_num_threads(threads)
            maps = guide(*parts, **grids, t=1.5, beta=0.7)
            ids = guided_sample(*parts, **grids, t=1.5, beta=0.7, seeds=torch.arange(3), groups=3)
            results.append((*maps, dse_prior(parts[2], **grids), ids))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for got, want in zip(other, results[0], strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_beyond_the_caches_are_those_of_their_parts(simd, dtype):
    """From 16 MiB on they are written past the caches."""
    prev_hw, hw, batch = (2, 2), (32, 32), 4 * 4 // dtype.itemsize
    parts = inputs(prev_hw, hw, 1024, dtype, batch)
    options = {"prev_hw": prev_hw, "hw": hw, "t": 1.5, "beta": 0.7}
    seeds = torch.arange(batch)

    def outputs(images):
        cond, uncond, prev = (x[images] for x in parts)
        drawn = guided_sample(cond, uncond, prev, seeds=seeds[images], return_cfg=True, **options)
        plain = guide(cond, uncond, t=1.5)
        return *guide(cond, uncond, prev, **options), *plain, dse_prior(prev, prev_hw=prev_hw, hw=hw), drawn.cfg

    halves = zip(outputs(slice(0, batch // 2)), outputs(slice(batch // 2, None)), strict=True)
    for whole, (first, second) in zip(outputs(slice(None)), halves, strict=True):
        assert whole.nbytes >= 2**24 > first.nbytes
        assert torch.equal(whole, torch.cat([first, second]))


@pytest.mark.parametrize("dtype", WIDE)
def test_excluded_tokens_stay_excluded_and_enter_no_sum(simd, dtype):
    cond, uncond, prev = inputs((2, 3), (5, 7), 37, dtype)
    options = {"prev_hw": (2, 3), "hw": (5, 7), "t": 1.5, "beta": 0.7}
    clean = guide(cond, uncond, prev, **options)
    cond[0, 3, 5] = -math.inf  # whatever uncond and prev hold there
    cond[1, 4, 36], uncond[1, 4, 36] = -math.inf, -math.inf
    cond[2, 5, 0], uncond[2, 5, 0] = -math.inf, math.nan
    prev[2, 1, 7] = -math.inf
    guided, cfg = guide(cond, uncond, prev, **options)
    for at in ((0, 3, 5), (1, 4, 36), (2, 5, 0)):
        assert guided[at] == cfg[at] == -math.inf
        clean[0][at] = clean[1][at] = -math.inf
    assert torch.equal(guided[2, :, 7], cfg[2, :, 7])  # no prior: guided = cfg
    clean[0][2, :, 7] = clean[1][2, :, 7]
    assert torch.equal(guided, clean[0]) and torch.equal(cfg, clean[1])


@pytest.mark.parametrize("dtype", WIDE)
def test_nan_in_prev_reaches_guided_alone(simd, dtype):
    cond, uncond, prev = inputs((2, 3), (5, 7), 37, dtype)
    prev[1, 2, 3], prev[2, 0, 4] = math.nan, math.inf
    prev[1, 3, 3] = -math.inf  # a NaN before it decides
    guided, cfg = guide(cond, uncond, prev, prev_hw=(2, 3), hw=(5, 7), t=1.5, beta=0.7)
    assert guided[1, :, 3].isnan().all() and guided[2, :, 4].isnan().all()
    assert int(guided.isnan().sum()) == 70 and cfg.isfinite().all()


def test_a_constant_bias_passes_through(simd):
    cond, uncond, prev = inputs((13, 13), (16, 16), 37)
    options = {"prev_hw": (13, 13), "hw": (16, 16), "t": 1.5, "beta": 0.7}
    bias = randn(37, seed=8)
    got, _ = guide(cond + bias, uncond + bias, prev + bias, **options)
    assert error(got, guide(cond, uncond, prev, **options)[0].double() + bias) < 2e-6


@pytest.mark.parametrize("prev_hw, hw", SOME)
def test_commutes_with_a_linear_head(simd, prev_hw, hw):
    parts = inputs(prev_hw, hw, 64)
    head, bias = randn(64, 251, seed=7), randn(251, seed=8)
    options = {"prev_hw": prev_hw, "hw": hw, "t": 1.5, "beta": 0.7}
    before = guide(*parts, **options)
    after = guide(*(x @ head + bias for x in parts), **options)
    for features, logits in zip(before, after, strict=True):
        assert error(features @ head + bias, logits) < 1e-6


@pytest.mark.parametrize("dtype", (*DTYPES, torch.float64))
@pytest.mark.parametrize("form", ("0-dim", "image", "position"))
@pytest.mark.parametrize("branches", ("cond", "cond uncond", "cond prev", "cond uncond prev"))
def test_gradients_are_autograds_through_the_reference(branches, form, dtype):
    prev_hw, hw = (2, 3), (5, 7)
    cond, uncond, prev = inputs(prev_hw, hw, 11, dtype)
    uncond, prev = uncond if "uncond" in branches else None, prev if "prev" in branches else None
    parts = [cond, uncond, prev]
    weights = [randn(3, 35, 11, seed=s, dtype=dtype) for s in (20, 21)]  # both outputs take part
    wide = [
        None if x is None else x.to(torch.float64, copy=True).requires_grad_() for x in (*parts, T[form], BETA[form])
    ]
    parts = [None if x is None else x.clone().requires_grad_() for x in parts]
    t, beta = T[form].clone().requires_grad_(), BETA[form].clone().requires_grad_()
    got = guide(*parts, prev_hw=prev_hw, hw=hw, t=0.0 if uncond is None else t, beta=beta)
    sum((x * w).sum() for x, w in zip(got, weights, strict=True)).backward()
    want = exact(*wide[:3], prev_hw, hw, *wide[3:])
    sum((x * w.double()).sum() for x, w in zip(want, weights, strict=True)).backward()
    for mine, other in zip((*parts, t, beta), wide, strict=True):
        if mine is not None and other.grad is not None:
            assert mine.grad.dtype == mine.dtype and mine.grad.shape == mine.shape
            assert error(mine.grad, other.grad) < TOLERANCE.get(dtype, 1e-6)  # the operator's transpose is float32's


@pytest.mark.parametrize("form", ("0-dim", "image", "position"))
def test_excluded_tokens_and_absent_priors_give_no_gradient(form):
    prev_hw, hw = (2, 3), (5, 7)
    cond, uncond, prev = inputs(prev_hw, hw, 11)
    cond[0, 3, 5] = cond[1, 4, 10] = uncond[1, 4, 10] = prev[2, 1, 7] = -math.inf
    parts = [x.clone().requires_grad_() for x in (cond, uncond, prev, T[form], BETA[form])]
    wide = [x.double().requires_grad_() for x in (cond, uncond, prev, T[form], BETA[form])]
    weights = [randn(3, 35, 11, seed=s) for s in (20, 21)]
    for outputs in (guide(*parts[:3], prev_hw=prev_hw, hw=hw, t=parts[3], beta=parts[4]),
                    exact(*wide[:3], prev_hw, hw, *wide[3:])):  # fmt: skip
        sum((x.masked_fill(x == -math.inf, 0.0) * w).sum() for x, w in zip(outputs, weights, strict=True)).backward()
    for mine, other in zip(parts, wide, strict=True):
        assert other.grad.isfinite().all() and error(mine.grad, other.grad) < TOLERANCE[torch.float32]
    cond, uncond, prev = (x.grad for x in parts[:3])
    assert cond[0, 3, 5] == uncond[0, 3, 5] == cond[1, 4, 10] == uncond[1, 4, 10] == 0
    assert (prev[2, :, 7] == 0).all()
    plain = weights[0][2, :, 7] + weights[1][2, :, 7]  # guided = cfg there
    torch.testing.assert_close(cond[2, :, 7] + uncond[2, :, 7], plain)


@pytest.mark.parametrize(("dtype", "large"), ((torch.float16, 65504.0), (torch.float64, 1e39)))
def test_a_prior_beyond_its_maps_dtype_has_gradients(dtype, large):
    """Beyond 65504 and, for float64, beyond float32: a prior that is finite in the forward's precision is one."""
    cond = randn(1, 64, 2, dtype=dtype)
    prev = torch.tensor([large, -large] * 2, dtype=dtype).reshape(1, 4, 1).repeat(1, 1, 2)
    parts = [prev.clone().requires_grad_(), torch.tensor(1e-3, dtype=torch.float64, requires_grad=True)]
    wide = [x.detach().double().requires_grad_() for x in parts]
    grids = {"prev_hw": (2, 2), "hw": (8, 8)}
    guided = guide(cond, None, parts[0], **grids, beta=parts[1])[0]
    want = exact(cond, None, wide[0], *grids.values(), 0.0, wide[1])[0]
    weight = randn(1, 64, 2, seed=1, dtype=dtype)
    for out in (guided, want):
        (out * weight).double().sum().backward()
    for mine, other in zip(parts, wide, strict=True):
        assert other.grad.abs().max() > 0 and error(mine.grad, other.grad) < TOLERANCE.get(dtype, 1e-6)


def test_outputs_do_not_alias_their_input():
    cond = randn(2, 3, 5)
    guided, cfg = guide(cond)
    assert len({x.data_ptr() for x in (cond, guided, cfg)}) == 3


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("shape", ((0, 35, 5), (2, 35, 0)))
def test_empty_input_gives_empty_output(simd, shape, dtype):
    prev = torch.empty(shape[0], 6, shape[2], dtype=dtype)
    for x in (torch.empty(shape, dtype=dtype), guide(torch.empty(shape, dtype=dtype))[0]):
        got = guide(x, x, prev, prev_hw=(2, 3), hw=(5, 7), t=1.5, beta=0.5)
        assert got[0].shape == got[1].shape == shape


def test_rows_are_addressed_in_64_bits():
    far = 2**31 + 64
    storage = torch.empty(far + 256, dtype=torch.bfloat16)  # 4 GiB of address space, two pages of it touched
    cond = storage.as_strided((2, 6, 5), (far, 5, 1))
    prev = storage.as_strided((2, 2, 5), (far, 5, 1), 64)
    cond.copy_(randn(2, 6, 5))
    prev.copy_(randn(2, 2, 5, seed=1))
    options = {"prev_hw": (1, 2), "hw": (2, 3), "t": 1.5, "beta": 0.5}
    want = guide(cond.contiguous(), cond.contiguous(), prev.contiguous(), **options)
    assert torch.equal(guide(cond, cond, prev, **options)[0], want[0])


@pytest.mark.parametrize(
    "change, wrong, message",
    [
        ({"cond": None}, TypeError, r"cond must be a tensor of shape \(B, L, C\), got NoneType"),
        ({"cond": torch.zeros(6, 5)}, ValueError, r"cond must have shape \(B, L, C\), got \(6, 5\)"),
        ({"cond": torch.zeros(2, 6, 5).long()}, TypeError, "cond must be float32 .* got int64"),
        ({"cond": torch.zeros(2, 6, 5).double().to("meta")}, TypeError, "cond must be float32 .* got float64"),
        ({"uncond": torch.zeros(2, 6, 4)}, ValueError, r"uncond must have shape \(2, 6, 5\), got \(2, 6, 4\)"),
        ({"uncond": torch.zeros(2, 6, 5).half()}, TypeError, "uncond must have cond's dtype"),
        ({"uncond": torch.zeros(2, 6, 5, device="meta")}, ValueError, "uncond must be on cond's device cpu, got meta"),
        ({"uncond": 1.0}, TypeError, "uncond must be a tensor"),
        ({"uncond": None}, ValueError, "t must be 0 without uncond .* got 1.5"),
        ({"uncond": None, "t": torch.zeros(2)}, ValueError, "t must be 0 without uncond .* got a tensor"),
        ({"prev": torch.zeros(2, 3, 5)}, ValueError, r"prev must have 2 positions for prev_hw \(1, 2\), got 3"),
        ({"prev": torch.zeros(1, 2, 5)}, ValueError, r"prev must have shape \(2, 2, 5\), got \(1, 2, 5\)"),
        ({"prev": torch.zeros(2, 2, 5).half()}, TypeError, "prev must have cond's dtype"),
        ({"hw": None}, ValueError, "hw and prev_hw must be given with prev"),
        ({"prev_hw": None}, ValueError, "hw and prev_hw must be given with prev"),
        ({"hw": (2, 4)}, ValueError, r"hw \(2, 4\) has 8 positions, cond has 6"),
        ({"hw": 6}, TypeError, "hw must be a pair of ints"),
        ({"prev_hw": (0, 2)}, ValueError, "prev_hw must be positive"),
        ({"t": "1.5"}, TypeError, "t must be a number or a tensor, got str"),
        ({"t": 10**400}, ValueError, "t must lie within float64, got an int of 1329 bits"),
        ({"t": math.nan}, ValueError, "t must lie in"),
        ({"t": torch.zeros(3)}, ValueError, r"t must be a number or a tensor of shape .* got \(3,\)"),
        ({"t": torch.zeros(2, 5)}, ValueError, r"t must be .* got \(2, 5\)"),
        ({"t": torch.zeros(2, dtype=torch.int64)}, TypeError, "t must be a floating-point tensor, got torch.int64"),
        ({"t": torch.zeros(2, device="meta")}, ValueError, "t must be on cpu, got meta"),
        ({"beta": True}, TypeError, "beta must be a number or a tensor, got bool"),
        ({"beta": torch.zeros(6)}, ValueError, r"beta must be .* got \(6,\)"),
        ({"prior": "fft"}, ValueError, "prior must be one of"),
        ({"interp": "area"}, ValueError, "interp must be one of"),
        ({"cutoff": (2, 2)}, ValueError, "cutoff must lie between"),
    ],
)
def test_bad_input_names_the_argument(change, wrong, message):
    arguments = {"cond": torch.zeros(2, 6, 5), "uncond": torch.zeros(2, 6, 5), "prev": torch.zeros(2, 2, 5)}
    arguments |= {"hw": (2, 3), "prev_hw": (1, 2), "t": 1.5, "beta": 0.5, **change}
    with pytest.raises(wrong, match=message):
        guide(arguments.pop("cond"), arguments.pop("uncond"), arguments.pop("prev"), **arguments)
