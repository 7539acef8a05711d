"""`varfast verify`: hosts' own loops against ours, scale by scale, and what is said where they differ."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from host_cases import ALL, LABELS
from torch import Tensor, nn

import varfast
from varfast import cli
from varfast.verification import Verification, verify

KNOWN = ("var", "flexvar", "hart", "infinity")


def made(host: str) -> tuple[Any, dict[str, Any]]:
    torch.manual_seed(0)
    model, _, call = ALL[host]()
    return model, call | ({"top_k": 1} if host == "var" else {})


def changed(
    module: nn.Module, name: str, change: Callable[[Tensor], Tensor], model: Any, method: Any, **call: Any
) -> Any:
    """The host's own result with another parameter."""
    before = getattr(module, name).detach().clone()
    getattr(module, name).data.copy_(change(before))
    try:
        return method(model, **call)
    finally:
        getattr(module, name).data.copy_(before)


@pytest.mark.parametrize("host", KNOWN)
def test_look_alikes_are_alike_at_every_scale(host: str) -> None:
    model, call = made(host)
    found = verify(model, call)
    assert found.first is None and found.images is not None and found.images < 5e-3
    assert len(found.scales) == (3 if host == "infinity" else 5)
    assert all(scale.difference < 1e-4 and scale.tokens for scale in found.scales)
    assert not model.head_nm._forward_hooks and torch.multinomial.__module__ != "varfast.verification"
    assert type(model).__name__.startswith("Upstream") and "_varfast_patch" not in vars(model)


def with_upstream_changed(
    host: str, monkeypatch: pytest.MonkeyPatch, module: str, name: str, change: Any
) -> Verification:
    """What is found where the host's own loop, and not ours, has another parameter."""
    model, call = made(host)
    method = type(model).autoregressive_infer_cfg
    own = lambda self, **given: changed(getattr(model, module), name, change, self, method, **given)  # noqa: E731
    monkeypatch.setattr(type(model), "autoregressive_infer_cfg", own)
    return verify(model, call)


def test_the_first_difference_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def last_level(weight: Tensor) -> Tensor:
        return torch.cat([weight[:3], weight[3:] * 1.5])

    found = with_upstream_changed("var", monkeypatch, "lvl_embed", "weight", last_level)
    assert found.first is not None and found.first.startswith("scale 3 (4x4), image ")
    assert "enters the host's head" in found.first and "tokens of scale 2 is alike" in found.first
    assert len(found.scales) == 3


def test_a_small_difference_at_the_start_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    found = with_upstream_changed("var", monkeypatch, "class_emb", "weight", lambda w: w * 1.02)
    assert found.first is not None and found.first.startswith("scale 0 (1x1), image ") and not found.scales


def test_drawn_tokens_are_the_likeliest_while_a_host_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that samples, as the released ones do, through torch.multinomial."""
    model, call = made("flexvar")
    greedy = Tensor.argmax

    def drawn(self: Tensor, dim: int = -1, keepdim: bool = False) -> Tensor:
        if keepdim or self.dim() != 3:
            return greedy(self, dim, keepdim)
        p = self.softmax(-1).flatten(0, 1)
        return torch.multinomial(p, 1, replacement=True).view(self.shape[:2])

    method = type(model).autoregressive_infer_cfg

    def own(self: Any, **given: Any) -> Any:  # in the host's run alone: verify itself looks for the likeliest
        with monkeypatch.context() as patch:
            patch.setattr(Tensor, "argmax", drawn)
            return method(self, **given)

    monkeypatch.setattr(type(model), "autoregressive_infer_cfg", own)
    assert verify(model, call).first is None


def test_a_patched_object_is_refused() -> None:
    model, call = made("var")
    with pytest.raises(ValueError, match="model: it is patched, so varfast would be compared with itself"):
        verify(varfast.patch(model), call)


def test_other_objects_and_smooth_mode_are_refused() -> None:
    model, call = made("hmar")
    with pytest.raises(TypeError, match="verify knows var, flexvar, infinity, hart, got an object of hmar"):
        verify(model, call)
    with pytest.raises(ValueError, match="more_smooth draws noise"):
        verify(made("var")[0], dict(B=3, label_B=LABELS, more_smooth=True))


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from test_verify import made

def same():
    return made("infinity")

def other():
    model, call = made("var")
    embed = model.word_embed.forward
    calls = []
    def off(x):  # the host's four calls come first
        calls.append(1)
        return embed(x) * (1.1 if len(calls) == 2 else 1)
    model.word_embed.forward = off
    return model, call

def wrong():
    return 3
"""


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(PROGRAM.format(tests=str(Path(__file__).parent)))

    def run(name: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["varfast", "verify", f"{tmp_path}/mine.py:{name}"])
        with pytest.raises(SystemExit) as error:
            cli.main()
        captured = capfd.readouterr()
        return int(error.value.code or 0), captured.out + captured.err

    code, text = run("same")
    assert code == 0 and "alike: all scales" in text and "3x4" in text, text
    code, text = run("other")
    assert code == 1 and "different: scale 2 (3x3), image " in text, text
    code, text = run("wrong")
    assert code == 2 and "must return (object, arguments), got int" in text
    code, text = run("none")
    assert code == 2 and "has no function none" in text


def test_torchs_generator_is_afterwards_as_before() -> None:
    """HART's diffusion draws from it, and both runs must draw the same."""
    model, call = made("hart")
    before = torch.get_rng_state()
    verify(model, call)
    assert torch.equal(torch.get_rng_state(), before)
