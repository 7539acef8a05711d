"""sample keeps exactly the tokens that the hosts' own samplers keep, as recorded from their code."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from varfast.ops import sample

FOLDER = Path(os.environ.get("VARFAST_GOLDENS", Path(__file__).parent / "goldens")) / "pure"


def recorded(name: str) -> tuple[dict, dict]:
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


TOPK_TOPP, META = recorded("topk_topp")
CODE, CODE_META = recorded("code_temperature")


def settings_of(key: str) -> dict:
    """top_k, top_p and temperature from a key such as "k5.p0.96.t0.7"."""
    found = re.fullmatch(r"k(\d+)\.p([\d.]+?)(?:\.t([\d.]+))?", key)
    return {"top_k": int(found[1]), "top_p": float(found[2]), "temperature": float(found[3] or 1)}


def kept_set(logits: torch.Tensor, *, top_k: int, top_p: float, temperature: float = 1.0) -> torch.Tensor:
    """The tokens that survive, seen through the op alone.

    Filters come before a temperature that is applied last, so drawing at a huge one makes the kept tokens equally
    likely: 2048 draws miss one of 64 with probability 64 e^-32.
    """
    seeds = torch.arange(len(logits))
    options = {"top_k": top_k, "top_p": top_p, "temperature": 1e30, "temperature_last": True}
    out = sample(logits, seeds, draws=2048, return_logprobs=True, **options)
    kept = torch.zeros(logits.shape, dtype=torch.bool).scatter(-1, out.ids, True)
    assert torch.equal(kept.sum(-1), out.kept.long())
    return kept


@pytest.mark.parametrize("name", [key.removeprefix("in.") for key in TOPK_TOPP if key.startswith("in.")])
def test_kept_tokens_are_the_hosts(name):
    keys = [key for key in json.loads(META["index"]) if key.startswith(f"{name}.k")]
    assert len(keys) >= 20
    for key in keys:
        kept = kept_set(TOPK_TOPP[f"in.{name}"], **settings_of(key.split(".", 1)[1]))
        clear = TOPK_TOPP[f"amb.{key}"] == 0
        assert torch.equal(kept[clear], TOPK_TOPP[f"kept.{key}"].bool()[clear]), key


def test_kept_bits_are_infinitys():
    key = "bits2.k900.p0.97"
    kept = kept_set(TOPK_TOPP["in.bits2"], top_k=900, top_p=0.97)
    assert torch.equal(kept, TOPK_TOPP[f"kept_infinity.{key}"].bool())


def test_kept_tokens_and_probabilities_are_codes_with_the_temperature_last():
    for key in json.loads(CODE_META["index"]):
        options = settings_of(key)
        kept = kept_set(CODE["in"], **options)
        clear = (CODE[f"amb.{key}"] == 0).all(-1)  # a probability hangs on the whole row
        assert clear.float().mean() > 0.5
        assert torch.equal(kept[clear], CODE[f"kept.{key}"].bool()[clear]), key
        out = sample(CODE["in"], torch.arange(2), draws=256, temperature_last=True, return_logprobs=True, **options)
        want = CODE[f"probs.{key}"].gather(-1, out.ids)
        torch.testing.assert_close(out.logprobs.exp()[clear], want[clear], rtol=2e-5, atol=1e-7)
