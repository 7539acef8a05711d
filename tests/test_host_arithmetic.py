"""The arithmetic that adapters own, against tensors recorded from the hosts' code: no upstream code is needed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recorded import close, golden, under
from test_recorded_runs import check_sampling, combined, kept_set
from torch import Tensor

from varfast import ops
from varfast.hosts import flexvar, hart, hmar, infinity
from varfast.models.quantizer import Quantizer

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


def quantizer_of(tensors: dict[str, Tensor]) -> Quantizer:
    weights = under("sd_vae.quantize.", tensors)
    codebook = weights["embedding.weight"]
    quantizer = Quantizer(*codebook.shape, [(n, n) for n in (1, 2, 3, 4)])
    quantizer.load_state_dict(weights)
    return quantizer.requires_grad_(False)


@pytest.mark.parametrize("name", ["llama_aln_discrete", "llama_noaln", "llama_noaln_smooth"])
def test_hart(name: str) -> None:
    tensors, metadata = golden("hart", name)
    call, quantizer = metadata["call"], quantizer_of(tensors)
    strengths, ratios, top_ks = hart.strengths(call["cfg"], 4), hart.ratios(4), hart.top_ks(4)
    batch = call["B"]
    f_hat = quantizer.empty(batch, torch.float32)
    for k in range(4):
        prefix = f"step{k}"
        logits, raw = tensors[f"{prefix}.logits_cfg"], tensors[f"{prefix}.logits_raw"]
        close(combined(raw[:, -logits.shape[1] :], strengths[k]), logits, f"{prefix}.logits_cfg", 1e-5)
        assert top_ks[k] == tensors[f"{prefix}.top_k_used"]
        kept = kept_set(logits, top_ks[k], call["top_p"])
        assert torch.equal(kept, tensors[f"{prefix}.kept"].bool()), f"{prefix}.kept"
        vectors = quantizer.embedding(tensors[f"{prefix}.idx"])
        if call["more_smooth"]:
            noise, seeds = tensors[f"{prefix}.gumbel_exp_noise"], torch.zeros(batch, dtype=torch.int64)
            filters = {"top_k": top_ks[k], "top_p": call["top_p"]}
            codebook = quantizer.embedding.weight
            vectors = ops.smooth_embed(logits, codebook, seeds, ratio=ratios[k], noise=noise, **filters)
            close(vectors, tensors[f"{prefix}.gumbel_h"], f"{prefix}.gumbel_h")
        if k < 3:
            f_hat, following = quantizer.accumulate(f_hat, k, quantizer.as_map(vectors, k))
            assert following is not None
            close(f_hat, tensors[f"{prefix}.f_hat"], f"{prefix}.f_hat")
            close(following, tensors[f"{prefix}.next_raw"], f"{prefix}.next_raw")
    if call["final_stage"] == 0:
        assert tensors["diff.cfg"].item() == pytest.approx(strengths[3])
    close(hart.finish(f_hat, vectors, tensors.get("diff.out")), tensors["f_hat_final"], "f_hat_final")


def test_hart_text_and_late_scales() -> None:
    features, ids, mask = hart.without_text(
        torch.ones(2, 3, 4), torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 3) > 0
    )
    assert features[2:].abs().sum() == 0 and ids[2:].sum() == 0 and mask[2:].sum(1).tolist() == [1, 1]
    assert mask[2:, 0].all() and features[:2].all() and mask[:2].all()
    assert hart.top_ks(9) == (600,) * 7 + (300, 300) and hart.ratios(1) == (0.0,)


@pytest.mark.parametrize(
    "name",
    ["nonsquare_cfg3_bf16ca", "nonsquare_cfglist_neg_fp32ca", "patchify_ns_fp32ca", "square_cfg4_tau05_fp32ca",
     "square_cfg_insert_layer_m2_fp32ca"],
)  # fmt: skip
def test_infinity(name: str) -> None:
    tensors, metadata = golden("infinity", name)
    call, grids = metadata["call"], [(h, w) for _, h, w in metadata["scale_schedule"]]
    patchify = bool(metadata["config"]["apply_spatial_patchify"])
    strengths = infinity.strengths(call["cfg_list"])
    summed = torch.zeros_like(tensors["f_hat_final"])
    for k, hw in enumerate(grids):
        prefix, batch = f"step{k}", call["B"]
        raw = infinity.bit_logits(tensors[f"{prefix}.logits_raw"], call["tau_list"][k])
        logits = combined(raw, strengths[k]) if len(raw) == 2 * batch else raw
        close(logits, tensors[f"{prefix}.logits_cfg"], f"{prefix}.logits_cfg", 1e-5)
        kept = kept_set(tensors[f"{prefix}.logits_cfg"], call["top_k"], call["top_p"])
        assert torch.equal(kept, tensors[f"{prefix}.kept"].bool()), f"{prefix}.kept"
        maps = infinity.bit_map(tensors[f"{prefix}.bits"].float().unflatten(1, (hw[0] * hw[1], -1)), hw, patchify)
        assert torch.equal(maps, tensors[f"{prefix}.bits_map"][:, 0].float())
        vectors = infinity.codes(maps)
        close(vectors, tensors[f"{prefix}.codes"][:, :, 0], f"{prefix}.codes")
        summed = infinity.accumulate(summed, vectors)
        close(summed, tensors[f"{prefix}.f_hat"], f"{prefix}.f_hat")
        if k < len(grids) - 1:
            following = infinity.following(summed, grids[k + 1], patchify)
            close(following, tensors[f"{prefix}.next_raw"], f"{prefix}.next_raw")
    close(summed, tensors["f_hat_final"], "f_hat_final")
    picture = infinity.picture(tensors["image_float"])
    assert (picture.int() - tensors["image"].int()).abs().max() <= 1 and picture.dtype == torch.uint8


def test_infinity_guidance_inside_a_layer() -> None:
    tensors, metadata = golden("infinity", "square_cfg_insert_layer_m2_fp32ca")
    mixed = infinity.mix(tensors["step1.x_out_pre_cfg"], metadata["call"]["cfg_list"][1])
    cond, uncond = tensors["step1.x_out_pre_cfg"].chunk(2)
    assert torch.equal(mixed[:1], mixed[1:])
    torch.testing.assert_close(mixed[:1], 3 * cond - 2 * uncond)


@pytest.mark.parametrize("name", ["nomask", "mask_k40_p99"])
def test_hmar(name: str) -> None:
    tensors, metadata = golden("hmar", name)
    call, quantizer = metadata["call"], quantizer_of(tensors)
    weight = tensors["sd.word_embed.weight"]
    level = torch.cat([row.expand(n * n, -1) for n, row in enumerate(tensors["sd.lvl_embed.weight"], 1)])
    rest = tensors["sd.pos_1LC"] + level + tensors["sd.word_embed_bias"]
    f_hat, done = quantizer.empty(call["B"], torch.float32), 0
    for k, (h, w) in enumerate(quantizer.grids):
        prefix = f"step{k}"
        check_sampling(tensors, prefix, k, 4, call)
        ids, positions = tensors[f"{prefix}.idx"], None
        counts = hmar.masked_counts(call["mask_schedule"][k]) if call["mask"] else ()
        for j, count in enumerate(counts, 1):
            confidence = tensors[f"{prefix}.conf{j}"]
            positions = hmar.least_certain(confidence, count, positions)
            assert torch.equal(positions, tensors[f"{prefix}.mask{j}.positions"])
            own = quantizer.accumulate(torch.zeros_like(f_hat), k, quantizer.as_map(quantizer.embedding(ids), k))[0]
            embedded = [F.linear(hmar.resized(latent, (h, w)), weight) for latent in (f_hat, own)]
            x = hmar.masked_input(*embedded, tensors["sd.mask_embed.weight"], positions, rest[:, done : done + h * w])
            close(x.repeat(2, 1, 1), tensors[f"{prefix}.mask{j}.x_in"], f"{prefix}.mask{j}.x_in")
            raw, logits = tensors[f"{prefix}.mask{j}.logits_raw"], tensors[f"{prefix}.mask{j}.logits_cfg"]
            close(raw[: call["B"]], logits, f"{prefix}.mask{j}.logits_cfg", 1e-5)  # upstream's t is cfg * 1e-6
            kept = kept_set(logits, call["top_k"], call["top_p"])
            assert torch.equal(kept, tensors[f"{prefix}.mask{j}.kept"].bool())
            ids = hmar.redraw(ids, tensors[f"{prefix}.mask{j}.idx"], positions)
        assert torch.equal(ids, tensors[f"{prefix}.idx_final"])
        f_hat, following = quantizer.accumulate(f_hat, k, quantizer.as_map(quantizer.embedding(ids), k))
        close(f_hat, tensors[f"{prefix}.f_hat"], f"{prefix}.f_hat")
        if following is not None:
            close(following, tensors[f"{prefix}.next_raw"], f"{prefix}.next_raw")
        done += h * w
