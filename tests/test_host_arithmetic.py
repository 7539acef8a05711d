"""The arithmetic that adapters own, against tensors recorded from the hosts' code: no upstream code is needed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recorded import close, golden
from test_recorded_runs import combined, kept_set

from varfast.hosts import flexvar

FLEXVAR_RUNS = ("varcfg_k40_p95", "varcfg_maxpn3_invalid", "llamagencfg_odd_pn")


@pytest.mark.parametrize("name", FLEXVAR_RUNS)
def test_flexvar(name: str) -> None:
    tensors, metadata = golden("flexvar", name)
    call: dict[str, Any] = {"max_pn": 16, "used_llamagen_cfg": False} | metadata["call"]
    nums = call["infer_patch_nums"]
    strengths = flexvar.strengths(call["cfg"], nums, call["max_pn"], call["used_llamagen_cfg"])
    top_ks = flexvar.top_ks(call["top_k"], nums, call["max_pn"])
    embedded = flexvar.positions(tensors["sd.pos_1LC"], nums)
    codes = F.normalize(tensors["sd_vae.quantize.embedding.weight"], dim=-1)
    done = 0
    for k, n in enumerate(nums):
        prefix, done = f"step{k}", done + n * n
        raw = tensors[f"{prefix}.logits_raw"].clone()
        if "invalid_ids" in call:
            raw[..., call["invalid_ids"]] = flexvar.INVALID
        close(combined(raw, strengths[k]), tensors[f"{prefix}.logits_cfg"], f"{prefix}.logits_cfg", 1e-5)
        assert top_ks[k] == tensors[f"{prefix}.top_k_used"]
        kept = kept_set(tensors[f"{prefix}.logits_cfg"], top_ks[k], call["top_p"])
        assert torch.equal(kept, tensors[f"{prefix}.kept"].bool()), f"{prefix}.kept"
        h = codes[tensors[f"{prefix}.idx"]].transpose(1, 2).unflatten(2, (n, n))
        close(h, tensors[f"{prefix}.f_hat"], f"{prefix}.f_hat")
        if k < len(nums) - 1:
            m = nums[k + 1]
            following = flexvar.following(h, (m, m)).flatten(2).transpose(1, 2)
            close(following, tensors[f"{prefix}.next_raw"], f"{prefix}.next_raw")
            x = F.linear(following, tensors["sd.word_embed.weight"], tensors["sd.word_embed.bias"])
            x = (x + embedded[:, done : done + m * m]).repeat(2, 1, 1)
            close(x, tensors[f"step{k + 1}.x_in"], f"step{k + 1}.x_in")


def test_flexvar_ramp_goes_beyond_its_end_and_unknown_sides_are_greedy() -> None:
    nums = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16)
    assert flexvar.strengths(2.0, nums)[-1] == pytest.approx(2.0 * 12 / 9)
    assert flexvar.strengths(2.0, (1, 2, 23))[-1] == 2.0 and flexvar.strengths(3.0, (1, 2), constant=True) == (2, 2)
    assert flexvar.top_ks(900, nums) == (900,) * 6 + (1, 900, 1, 900, 1, 1, 900)
    assert flexvar.top_ks(900, (16, 23, 32), max_pn=23) == (900, 900, 1)
