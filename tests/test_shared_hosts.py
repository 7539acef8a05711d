"""A host's object shared: by threads, by copies of every kind, by other processes."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from time import sleep
from typing import Any

import pytest
import torch
from host_cases import ALL, LABELS, drawn, image_of, wrapped
from tiny import tiny_var
from torch import Tensor, nn
from upstream_like import Attention, UpstreamVAR

import varfast
from varfast import SSG, DiverseVAR, Sampler, VARScaling

GUIDANCE = (
    SSG(beta=2.0, schedule="constant"),
    DiverseVAR(scales=(1, 2), suppress=(1.0, 0.5), relative=True, where="ends"),
)
EVERY_HOST = pytest.mark.parametrize("host", ALL)


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture
def yielding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention lets other threads run before it reads what is cached and after it has written it."""
    forward = Attention.forward

    def slow(self: Attention, x: Tensor) -> Tensor:
        sleep(1e-4)
        try:
            return forward(self, x)
        finally:
            sleep(1e-4)

    monkeypatch.setattr(Attention, "forward", slow)


def images_of_threads(calls: list[Callable[[int], Any]]) -> None:
    """Four threads, eight images from each call: what one thread after another gets."""
    jobs = [(call, seed) for seed in range(8) for call in calls]
    alone = [image_of(call(seed)) for call, seed in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = [image_of(result) for result in pool.map(lambda job: job[0](job[1]), jobs)]
    wrong = sum(not torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert wrong == 0, f"{wrong} of {len(jobs)}"


@EVERY_HOST
def test_threads_share_a_patched_object_and_its_shallow_copy(host: str, yielding: None) -> None:
    model, method, call = ALL[host]()
    varfast.patch(model, GUIDANCE)
    shallow = copy.copy(model)
    if host in ("var", "flexvar", "hmar"):
        call |= {"label_B": None}  # drawn by the object's generator
    images_of_threads([lambda seed, m=m: getattr(m, method)(**call | {"g_seed": seed}) for m in (model, shallow)])


def sampling(model: Any) -> Callable[[int], Tensor]:
    sampler = Sampler(model, GUIDANCE, cfg=2.0)
    return lambda seed: sampler(labels=[0, 2], seeds=[seed, seed + 1])


@EVERY_HOST
def test_threads_share_an_object_through_two_wrappers(host: str, yielding: None) -> None:
    model, _, call = ALL[host]()
    images_of_threads([sampling(wrapped(host, model, call)) for _ in range(2)])


def test_threads_share_our_own_model_and_two_as_code(yielding: None) -> None:
    own, upstream = tiny_var(), UpstreamVAR(tiny_var())
    halves = varfast.hosts.CoDe(varfast.wrap(upstream), varfast.wrap(upstream), drafted=3)
    images_of_threads([sampling(own), sampling(halves)])


def inside(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """All attributes of all modules, and the states of generators."""
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            value = value.get_state() if isinstance(value, torch.Generator) else value
            yield f"{name}.{key}", value.clone() if isinstance(value, Tensor) else value


@EVERY_HOST
def test_nothing_in_the_object_changes(host: str) -> None:
    model, method, call = ALL[host]()
    varfast.patch(model, GUIDANCE)
    if host in ("var", "flexvar", "hmar"):
        call |= {"label_B": None}
    before = list(inside(model))
    getattr(model, method)(**call | {"g_seed": 3})
    for (name, a), (other, b) in zip(before, inside(model), strict=True):
        same = torch.equal(a, b) if isinstance(a, Tensor) else a is b or a == b
        assert name == other and same, name


def saved(model: nn.Module) -> Any:
    torch.save(model, file := io.BytesIO())
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "save": saved,
    **{f"pickle {n}": lambda model, n=n: pickle.loads(pickle.dumps(model, n)) for n in (0, 2, 5)},
    "pure pickle": lambda model: pickle._loads(pickle._dumps(model)),  # type: ignore[attr-defined]
}


@EVERY_HOST
def test_guidance_goes_with_every_kind_of_copy(host: str) -> None:
    model, method, call = ALL[host]()
    plain = drawn(varfast.patch(model), method, call)
    guided = drawn(varfast.patch(model, GUIDANCE, min_p=0.01), method, call)
    assert not torch.equal(plain, guided)
    for name, make in COPIES.items():
        clone = make(model)
        assert clone is not model and getattr(clone, method).__self__ is clone, name
        assert isinstance(clone, type(model)) and type(clone).__name__ == type(model).__name__
        assert torch.equal(drawn(clone, method, call), guided), name
        if name != "copy":  # of weights of its own
            for parameter in clone.parameters():
                parameter.data.mul_(0.5)
            assert not torch.equal(drawn(clone, method, call), guided), name
        varfast.unpatch(clone)
        assert not getattr(clone, method).__module__.startswith("varfast")
        assert torch.equal(drawn(model, method, call), guided), name  # the original is as it was


def test_guidance_goes_to_a_spawned_process() -> None:
    jobs = []
    for host in ALL.values():
        model, method, call = host()
        jobs.append((varfast.patch(model, GUIDANCE), method, call))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        images = list(pool.map(drawn, *zip(*jobs, strict=True)))
    for job, image in zip(jobs, images, strict=True):
        torch.testing.assert_close(image, drawn(*job))


def test_a_bound_method_and_a_sampler_travel() -> None:
    model = varfast.patch(UpstreamVAR(tiny_var()), GUIDANCE)
    call = dict(B=3, label_B=LABELS, g_seed=1)
    method = pickle.loads(pickle.dumps(model.autoregressive_infer_cfg))
    assert torch.equal(method(**call), model.autoregressive_infer_cfg(**call))
    for own in (tiny_var(), varfast.wrap(UpstreamVAR(tiny_var()))):
        sampler = Sampler(own, [*GUIDANCE, VARScaling(candidates=8)], top_k=5)
        for name, make in COPIES.items():
            if name != "save":
                images = make(sampler)(labels=[1], seeds=[2])
                assert torch.equal(images, sampler(labels=[1], seeds=[2])), name


class Rebuilt(UpstreamVAR):
    def __reduce__(self) -> Any:
        return UpstreamVAR, (tiny_var(),)


class Forgetting(UpstreamVAR):
    def __getstate__(self) -> Any:
        return {key: value for key, value in vars(self).items() if not key.startswith("_varfast")}


class Emptied(UpstreamVAR):
    def __setstate__(self, state: Any) -> None:
        super().__setstate__({key: value for key, value in state.items() if not key.startswith("_varfast")})


@pytest.mark.parametrize("kind", [Rebuilt, Forgetting])
@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_a_copy_that_would_lose_the_guidance_is_refused_by_name(kind: type, make: Callable[[Any], Any]) -> None:
    model = varfast.patch(kind(tiny_var()), GUIDANCE)
    with pytest.raises(pickle.PicklingError, match=f"{kind.__name__} is copied and pickled in a way of its own"):
        make(model)
    assert isinstance(make(varfast.unpatch(model)), UpstreamVAR)


def test_a_copy_that_has_lost_the_guidance_draws_nothing() -> None:
    clone = copy.copy(varfast.patch(Emptied(tiny_var()), GUIDANCE))
    with pytest.raises(RuntimeError, match="copy of a patched Emptied came without the guidance"):
        clone.autoregressive_infer_cfg(3, LABELS)
    assert drawn(varfast.patch(clone, GUIDANCE), "autoregressive_infer_cfg", dict(B=3, label_B=LABELS)).std() > 0
