"""What the public functions are given: read whole, of any usual make, or refused by name; and what they give back."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
import typer
from host_cases import ALL, image_of
from tiny import tiny_var
from torch import Tensor, nn
from upstream_like import UpstreamVAR

import varfast
from varfast import CFG, SSG, DiverseVAR, Sampler, VARScaling, ops
from varfast.builtin.classifier import Classifier, embed
from varfast.cli._methods import BUILTIN, parse
from varfast.models import VAR

CALL: dict[str, Any] = {"labels": [1, 2], "seeds": [3, 4]}


@pytest.fixture(scope="module")
def model() -> VAR:
    return tiny_var()


def strong() -> list[object]:
    return [SSG(beta=3.0, schedule="constant"), VARScaling(candidates=4)]


@pytest.mark.parametrize(
    "once", [iter, lambda x: (item for item in x), lambda x: map(lambda item: item, x), tuple, dict.fromkeys]
)
def test_guidance_of_any_iterable_is_read_once_and_kept(model: VAR, once: Any) -> None:
    images = Sampler(model, strong())(**CALL)
    sampler = Sampler(model, guidance=once(strong()))
    assert torch.equal(sampler(**CALL), images) and torch.equal(sampler(**CALL), images)
    assert not torch.equal(images, Sampler(model)(**CALL))
    host = UpstreamVAR(model)
    call = dict(B=2, label_B=torch.tensor([1, 2]), g_seed=1)
    patched = varfast.patch(host, strong()).autoregressive_infer_cfg(**call)
    assert torch.equal(varfast.patch(host, once(strong())).autoregressive_infer_cfg(**call), patched)
    assert torch.equal(host.autoregressive_infer_cfg(**call), patched)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (SSG(), r"guidance must be a list of guidance objects, got SSG\(.*\) itself"),
        (SSG, "guidance must be a list of guidance objects, got <class .*SSG'> itself"),
        ([SSG], r"guidance: got the class SSG, needs an object of it: SSG\(\)"),
        ("ssg", "guidance must be a list"),
        (None, "guidance must be a list of guidance objects, got None"),
        (3, "guidance must be a list"),
        ([3], "3 has none of the hooks"),
    ],
)
def test_what_is_no_list_of_guidance_is_one_clear_error(model: VAR, given: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        Sampler(model, given)
    with pytest.raises(TypeError, match=words):
        varfast.patch(UpstreamVAR(model), given)
    with pytest.raises(TypeError, match=words):
        varfast.calibrate(model, VARScaling(), **CALL, guidance=given)


@pytest.mark.parametrize("given", [None, CFG, "strong", True, [1.0] * 5])
def test_what_is_no_cfg_is_one_clear_error(model: VAR, given: Any) -> None:
    with pytest.raises(TypeError, match=r"cfg must be a number \(0 switches it off\) or a varfast.CFG, got"):
        Sampler(model, cfg=given)


def test_what_is_no_model_is_told_to_be_wrapped(model: VAR) -> None:
    for make, words in (
        (lambda: UpstreamVAR(model), r"UpstreamVAR has no grids, .*; an upstream object goes in as varfast.wrap"),
        (lambda: VAR, "got the class VAR"),
        (lambda: None, "NoneType has no grids"),
    ):
        with pytest.raises(TypeError, match=words):
            Sampler(make())  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=words):
            varfast.hosts.CoDe(model, make(), drafted=1)  # type: ignore[arg-type]


def test_flags_are_truths(model: VAR) -> None:
    for name in ("smooth", "temperature_last"):
        with pytest.raises(TypeError, match=f"{name} must be True or False, got 'false'"):
            Sampler(model, **{name: "false"})  # type: ignore[arg-type]
        Sampler(model, **{name: np.bool_(True)})


def test_our_own_model_takes_no_options_of_wrapping(model: VAR) -> None:
    with pytest.raises(TypeError, match="VAR needs no wrapping and takes no bogus, vae"):
        varfast.wrap(model, vae="nonsense", bogus=1)


def test_infinity_knows_its_blocks() -> None:
    host, _, call = ALL["infinity"]()
    options = dict(vae=call["vae"], scale_schedule=call["scale_schedule"], text=call["label_B_or_BLT"])
    for inside in ({4: [2.0] * 3}, {-1: [2.0] * 3}, {0: [2.0]}):
        with pytest.raises(ValueError, match="inside must have blocks 0 to 3 and 3 numbers for each"):
            varfast.wrap(host, inside=inside, **options)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("plain(temperature=0.1)", "plain takes no parameters, got temperature"),
        ("plain() + plain(x=1)", "plain takes no parameters, got x"),
        ("ssg(beta=0.1, beta=0.9)", "must name each parameter once"),
        ("ssg(**{'beta': 1})", "must name each parameter once"),
        ("sampling(top_k=1, top_k=2)", "must name each parameter once"),
        ("ssg(prior='mean', cutoff=(1, 1))", "cutoff and gain belong to prior='dse'"),
    ],
)
def test_no_parameter_of_a_method_is_dropped(text: str, words: str) -> None:
    with pytest.raises(typer.BadParameter, match=words):
        parse(text, presets={})


def test_presets_go_with_their_rule() -> None:
    assert str(parse("var_scaling(rule='infinity')", presets=BUILTIN)) == (
        "var_scaling(scales=1, candidates=50, rule='infinity')"
    )
    assert "alpha=1.7, rule='paper'" in str(parse("var_scaling(rule='paper')", presets=BUILTIN))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: VARScaling(rule="infinity", alpha=1.0), "alpha does not belong to rule='infinity'"),
        (lambda: VARScaling(rule="infinity", min_distance=0.5), "min_distance does not belong"),
        (lambda: VARScaling(rule="infinity", keep=3), "keep does not belong"),
        (lambda: VARScaling(rule="paper", min_distance=0.5), "min_distance does not belong to rule='paper'"),
        (lambda: VARScaling(top=3), "top does not belong to rule='var'"),
        (lambda: SSG(prior="mean", interp="bicubic"), "interp, cutoff and gain belong to prior='dse'"),
        (lambda: SSG(prior="nearest", cutoff=(1, 1)), "interp, cutoff and gain belong to prior='dse'"),
        (lambda: ops.guide(torch.ones(1, 1, 2), prior="psychic"), "prior must be one of"),
        (lambda: ops.gaussian_kde(torch.ones(1, 3, 2), bandwidth=1.0, n=5), "n belongs to Silverman's rule"),
    ],
)
def test_what_would_not_be_read_is_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("guidance", "words"),
    [
        ([SSG(scales=[1, 2]), SSG(beta=0.9, scales=2)], "another guidance object has set beta at scale 2"),
        ([VARScaling(), VARScaling(rule="infinity")], "another guidance object draws candidates at scale 1"),
    ],
)
def test_a_second_object_does_not_take_the_firsts_place_unseen(model: VAR, guidance: list, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Sampler(model, guidance)(**CALL)
    with pytest.raises(ValueError, match="draws candidates at scale 1"):
        varfast.calibrate(model, VARScaling(candidates=4), **CALL, guidance=[VARScaling()])
    Sampler(model, [SSG(scales=1), SSG(scales=[2, 3]), VARScaling(candidates=4), VARScaling(scales=2, candidates=4)])(
        **CALL
    )


def make_of(kind: str) -> Any:
    """Numbers and lists of another make than Python's."""
    arrays: dict[str, Any] = {
        "scalars": (np.int64, np.float32, lambda x: [np.float64(n) for n in x], lambda x: [np.int32(n) for n in x]),
        "arrays": (np.array, lambda x: np.array(x, np.float64), np.array, np.array),
        "tensors": (int, float, torch.tensor, torch.tensor),
        "generators": (int, Fraction, iter, iter),
    }
    return arrays[kind]


@pytest.mark.parametrize("kind", ["scalars", "arrays", "tensors", "generators"])
def test_numbers_of_any_make_make_the_same_objects(kind: str) -> None:
    one, real, reals, ints = make_of(kind)
    assert SSG(beta=real(0.5), scales=ints([1, 2]), schedule=reals([0.5, 1.0])) == SSG(
        beta=0.5, scales=(1, 2), schedule=(0.5, 1.0)
    )
    assert SSG(scales=one(-1)) == SSG(scales=-1) and type(SSG(scales=one(-1)).scales) is int
    assert CFG(real(2.5), reals([1.0, 0.5])) == CFG(2.5, (1.0, 0.5))
    assert DiverseVAR(ints([1]), (1, 1), rank=one(3)) == DiverseVAR((1,), (1, 1), rank=3)
    assert DiverseVAR(suppress=(1, 1), sides=ints([4, 6])) == DiverseVAR(suppress=(1, 1), sides=(4, 6))
    expected = VARScaling(scales=(1,), candidates=8, bandwidth=0.5, alpha=1.5, keep=2)
    assert VARScaling(ints([1]), one(8), bandwidth=real(0.5), alpha=real(1.5), keep=one(2)) == expected
    if kind != "generators":
        assert SSG(cutoff=ints([1, 2])) == SSG(cutoff=(1, 2))
        assert DiverseVAR(suppress=reals([1.0, 0.25])) == DiverseVAR(suppress=(1.0, 0.25))


@pytest.mark.parametrize("kind", ["scalars", "arrays", "tensors"])
def test_numbers_of_any_make_sample_alike(model: VAR, kind: str) -> None:
    one, real, reals, ints = make_of(kind)
    plain = Sampler(model, cfg=1.5, top_k=9, top_p=0.875, temperature=[1.0, 0.5, 1.0, 1.0, 0.25], min_p=[0.0] * 5)
    other = Sampler(
        model, cfg=real(1.5), top_k=one(9), top_p=real(0.875), temperature=reals([1.0, 0.5, 1.0, 1.0, 0.25]),
        min_p=reals([0.0] * 5),
    )  # fmt: skip
    assert torch.equal(plain(**CALL), other(**CALL))
    assert torch.equal(Sampler(model, top_k=ints([9] * 5))(**CALL), Sampler(model, top_k=9)(**CALL))
    host = UpstreamVAR(model)
    call = dict(B=1, label_B=one(3), g_seed=1, top_k=one(9), cfg=real(1.5))
    image = varfast.patch(host, temperature=reals([0.5] * 5), min_p=real(0.125)).autoregressive_infer_cfg(**call)
    varfast.patch(host, temperature=[0.5] * 5, min_p=0.125)
    assert torch.equal(host.autoregressive_infer_cfg(1, 3, 1, 1.5, 9), image)


def test_numbers_of_any_make_enter_the_ops() -> None:
    torch.manual_seed(0)
    logits, seeds, number = torch.randn(2, 4, 9), torch.arange(2), np.float32(0.5)
    codes, scores = torch.randn(9, 3), torch.rand(2, 4)
    pairs: dict[str, tuple[Any, Any]] = {
        "sample": (
            ops.sample(logits, seeds, top_k=np.int64(3), temperature=number, top_p=np.array(0.5), stream=np.int32(2)),
            ops.sample(logits, seeds, top_k=3, temperature=0.5, top_p=0.5, stream=2),
        ),
        "guide": (
            ops.guide(logits, logits * 2, logits[:, :1], hw=np.array([2, 2]), prev_hw=[np.int64(1)] * 2, t=number,
                      beta=np.array(0.5), cutoff=np.array([1, 1]))[0],
            ops.guide(logits, logits * 2, logits[:, :1], hw=(2, 2), prev_hw=(1, 1), t=0.5, beta=0.5, cutoff=(1, 1))[0],
        ),
        "smooth_embed": (
            ops.smooth_embed(logits, codes, seeds, ratio=number, top_k=np.int64(3)),
            ops.smooth_embed(logits, codes, seeds, ratio=0.5, top_k=3),
        ),
        "spectral_reweight": (
            ops.spectral_reweight(logits, alpha=number, beta=np.array(0.5), rank=np.int64(2)),
            ops.spectral_reweight(logits, alpha=0.5, beta=0.5, rank=2),
        ),
        "gaussian_kde": (
            ops.gaussian_kde(logits, bandwidth=np.array(0.5)),
            ops.gaussian_kde(logits, bandwidth=0.5),
        ),
        "select_candidate": (
            ops.select_candidate(scores, None, seeds, rule="paper", alpha=number, keep=np.int64(2), stream=np.int64(1)),
            ops.select_candidate(scores, None, seeds, rule="paper", alpha=0.5, keep=2, stream=1),
        ),
    }  # fmt: skip
    for name, (other, plain) in pairs.items():
        assert torch.equal(other, plain), name
    assert ops.gaussian_kde(logits, bandwidth=2**70).isfinite().all()


@pytest.mark.parametrize("truth", [True, np.bool_(True), np.array(True)])
def test_truths_are_no_numbers(model: VAR, truth: Any) -> None:
    for make in (
        lambda: Sampler(model, top_k=truth),
        lambda: Sampler(model, temperature=[truth] * 5),
        lambda: SSG(beta=truth),
        lambda: SSG(scales=[truth]),
        lambda: SSG(schedule=[truth]),
        lambda: VARScaling(candidates=truth),
        lambda: DiverseVAR(suppress=(truth, 0.1)),
        lambda: ops.sample(torch.ones(1, 1, 2), torch.zeros(1, dtype=torch.int64), top_k=truth),
        lambda: ops.sample(torch.ones(1, 1, 2), torch.zeros(1, dtype=torch.int64), top_p=truth),
    ):
        with pytest.raises(TypeError, match=r"must be|must hold"):
            make()


def test_a_large_int_is_a_bandwidth(model: VAR) -> None:
    assert Sampler(model, [VARScaling(bandwidth=2**70, candidates=4)])(**CALL).isfinite().all()


class Elsewhere:
    """A model on a device that cannot be looked at."""

    grids, vocab_size, num_classes, codebook = ((1, 1),), 4, 3, torch.zeros(4, 2, device="meta")

    def begin(self, labels: Tensor, unconditional: bool = True) -> Any:
        raise NotImplementedError(f"begin with labels on {labels.device}")

    features = head = advance = decode = begin


def test_a_wrong_label_is_found_on_the_host() -> None:
    sampler = Sampler(Elsewhere())  # type: ignore[arg-type]
    for wrong in ([4], [-1], np.array([4]), torch.tensor([9])):
        with pytest.raises(ValueError, match=r"labels: got \[-?\d\], needs 0 to 3 \(no label\)"):
            sampler(labels=wrong, seeds=[0])
    with pytest.raises(NotImplementedError, match="labels on meta"):
        sampler(labels=[3], seeds=[0])


def check_ordinary(tensor: Tensor) -> None:
    assert not tensor.is_inference() and not tensor.requires_grad
    tensor.mul_(2)
    if tensor.is_floating_point():
        weight = torch.ones((), requires_grad=True)
        (tensor * weight).sum().backward()
        assert weight.grad is not None
        tensor.requires_grad_()


def test_results_are_ordinary_tensors(model: VAR) -> None:
    for guidance in ([], strong(), [DiverseVAR(scales=(1, 2), suppress=(1.0, 0.1), relative=True, where="ends")]):
        for path in ("features", "logits"):
            images, ids = Sampler(model, guidance, top_k=9, path=path)(**CALL, return_ids=True)
            for tensor in (images, *ids):
                check_ordinary(tensor)
    images = Sampler(model, smooth=True)(**CALL)
    nn.Conv2d(1, 2, 3)(images).sum().backward()
    check_ordinary(images)
    measured = varfast.calibrate(model, VARScaling(candidates=4), **CALL)
    for tensor in (measured.ratios, measured.distances, *embed(Classifier().eval(), torch.rand(2, 1, 32, 32))):
        check_ordinary(tensor.detach())
    for tensor in model.vae.encode(torch.rand(2, 1, 32, 32)):
        check_ordinary(tensor)


@pytest.mark.parametrize("host", ALL)
def test_a_hosts_images_are_ordinary_tensors(host: str) -> None:
    torch.manual_seed(0)
    model, method, call = ALL[host]()
    check_ordinary(image_of(getattr(varfast.patch(model, [SSG()]), method)(**call, g_seed=1)))
