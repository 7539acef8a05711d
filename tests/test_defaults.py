"""Whatever torch's default device and dtype are, the results are those without the setting, bit for bit."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import randn
from host_cases import ALL, image_of
from tiny import tiny_var
from torch import Tensor

import varfast
from varfast import SSG, DiverseVAR, Sampler, VARScaling, cli, models, ops
from varfast.builtin import classifier
from varfast.builtin.judge import within_class_variance
from varfast.builtin.training import export_builtin
from varfast.metrics.frechet import frechet_distance
from varfast.metrics.prdc import prdc

DEFAULTS: list[dict[str, Any]] = [{"device": "meta"}, {"dtype": torch.float64}, {"dtype": torch.float16}]
every_default = pytest.mark.parametrize("setting", DEFAULTS, ids=lambda s: str(*s.values()))


@contextmanager
def default(device: str | None = None, dtype: torch.dtype = torch.float32) -> Iterator[None]:
    kept = torch.get_default_dtype()
    torch.set_default_device(device)
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(kept)


def check(job: Callable[[], Any], setting: dict[str, Any]) -> None:
    """`job` gives the same with torch's defaults and with others."""
    want = job()
    with default(**setting):
        got = job()
    compare(got, want)


def compare(got: Any, want: Any) -> None:
    assert type(got) is type(want)
    if isinstance(want, Tensor):
        assert (got.dtype, got.device, got.shape) == (want.dtype, want.device, want.shape)
        assert torch.equal(got.nan_to_num(), want.nan_to_num())
    elif isinstance(want, (tuple, list)):
        for ours, theirs in zip(got, want, strict=True):
            compare(ours, theirs)
    else:
        assert got == want


COND, UNCOND, PREV = randn(2, 12, 17, seed=1), randn(2, 12, 17, seed=2), randn(2, 4, 17, seed=3)
SEEDS, CODES, CANDIDATES = torch.tensor([3, 2**40]), randn(17, 4, seed=4), randn(2, 17, 3, 5, seed=5)
GUIDED: dict[str, Any] = dict(hw=(3, 4), prev_hw=(2, 2), t=1.5, beta=0.7)
FILTERS: dict[str, Any] = dict(top_k=9, top_p=0.9)
OPS: dict[str, Callable[[], Any]] = {
    "dse_prior": lambda: ops.dse_prior(PREV, prev_hw=(2, 2), hw=(3, 4)),
    "guide": lambda: ops.guide(COND, UNCOND, PREV, **GUIDED),
    "sample": lambda: ops.sample(COND, SEEDS, min_p=0.01, draws=2, return_logprobs=True, **FILTERS),
    "guided_sample": lambda: ops.guided_sample(
        COND, UNCOND, PREV, seeds=SEEDS, return_cfg=True, return_logprobs=True, **FILTERS, **GUIDED
    ),
    "smooth_embed": lambda: ops.smooth_embed(COND, CODES, SEEDS, ratio=0.5, **FILTERS),
    "spectral_reweight": lambda: ops.spectral_reweight(COND, beta=0.5, return_sigma=True),
    "gaussian_kde": lambda: ops.gaussian_kde(COND, UNCOND, return_bandwidth=True),
    "select_candidate": lambda: (
        ops.select_candidate(COND[:, 0].abs(), CANDIDATES, SEEDS, return_reps=True),
        ops.select_candidate(COND[:, 0].abs(), None, SEEDS, rule="infinity", return_reps=True),
    ),
    "filter_logits": lambda: ops.filter_logits(COND, temperature=0.8, probs=True, **FILTERS),
}


@every_default
@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("op", OPS)
def test_ops(op: str, backend: str, setting: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert {*OPS} == {*ops.__all__}
    if backend == "reference":
        monkeypatch.setenv("VARFAST_BACKEND", "reference")
    check(OPS[op], setting)


METHODS: dict[str, dict[str, Any]] = {
    "plain": dict(cfg=2.0, top_k=9, top_p=0.9),
    "ssg": dict(guidance=[SSG(beta=0.8)]),
    "diverse": dict(guidance=[DiverseVAR(scales=(1, 2), suppress=(1.0, 0.1), relative=True, where="ends")]),
    "var_scaling": dict(guidance=[VARScaling()]),
    "smooth": dict(smooth=True),
}


@every_default
@pytest.mark.parametrize("method", METHODS)
def test_the_built_in_model_loaded_and_sampled(method: str, setting: dict[str, Any]) -> None:
    def draw() -> Any:
        return Sampler(models.load(), **METHODS[method])(labels=[3, 7], seeds=[1, 2])

    check(draw, setting)


@every_default
@pytest.mark.parametrize("host", ALL)
def test_hosts(host: str, setting: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, method, call = ALL[host]()  # of default tensors, as upstream makes its own

    def patched() -> Any:
        varfast.patch(model)
        try:
            return image_of(getattr(model, method)(**call | {"g_seed": 5}))
        finally:
            varfast.unpatch(model)

    check(patched, setting)


@every_default
def test_a_wrapped_host_and_what_a_call_without_labels_draws(setting: dict[str, Any]) -> None:
    model, method, _ = ALL["var"]()

    def wrapped() -> Any:
        varfast.patch(model)
        try:
            drawn = [getattr(model, method)(B=2, label_B=label, g_seed=7) for label in (None, 3, -1)]
        finally:
            varfast.unpatch(model)
        return drawn, Sampler(varfast.wrap(model), temperature=0.7)(labels=[3, 7], seeds=[1, 2])

    check(wrapped, setting)


@every_default
def test_files_classifier_and_metrics(setting: dict[str, Any], tmp_path: Path) -> None:
    tiny = tiny_var()
    export_builtin(tiny, tmp_path)
    images = torch.rand(40, 1, 32, 32)
    labels = torch.arange(40) % 10

    def job() -> Any:
        tensors = [*models.load(tmp_path / "builtin.safetensors").state_dict().values()]
        features, logits = classifier.embed(classifier.load_classifier(), images)
        half = features[:20], features[20:]
        scores = prdc(*half), frechet_distance(*half), within_class_variance(features, labels)
        return tensors, features, logits, scores

    check(job, setting)


@every_default
def test_the_command_draws_the_same_files(
    setting: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def job() -> list[bytes]:
        folder = tmp_path / str(torch.get_default_dtype()) / str(torch.get_default_device())
        monkeypatch.setattr(sys, "argv", ["varfast", "sample", "-o", str(folder), "-n", "2", "--classes", "bag"])
        with pytest.raises(SystemExit, match=r"^0$"):
            cli.main()
        drawn = [path.read_bytes() for path in sorted(folder.glob("*.png"))]
        assert len(drawn) == 3  # with the page that shows both
        return drawn

    check(job, setting)
