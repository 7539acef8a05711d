"""Sampling as recorded from upstream code: CFG, kept sets, the next input; CoDe's two models; VAR-Scaling's run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recorded import close, decoder_weights, golden, rebuild
from tiny import tiny_var
from torch import Tensor

import varfast
from varfast import SSG, DiverseVAR, Sampler, VARScaling, ops
from varfast.hosts import CoDe
from varfast.reference.sample import column, filter_tokens, row_weights

VAR_RUNS = (
    "small_nofilter_cfg4",
    "saln_nol2_1_2_3_4_5_6",
    "small_b1_uncondlabel_cfg0",
    "small_more_smooth",
    "stock_cfg1p5_k40_p95",
)
CODE_RUNS = ("draft2_of_4", "draft3_of_4_cfg4")
SCALING_RUNS = ("n20_k40_p96", "n50_scale2_a1")


def kept_set(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    number = column(1.0, None, logits)
    weights = row_weights(logits, logits.amax(-1, keepdim=True), number)
    return filter_tokens(logits, weights, top_k, number * top_p, number * 0)


def combined(raw: Tensor, t: float) -> Tensor:
    cond, uncond = raw.chunk(2)
    return ops.guide(cond, uncond, t=t)[1]


def check_sampling(tensors: dict[str, Tensor], prefix: str, k: int, count: int, call: dict[str, Any]) -> None:
    """CFG to 1e-5 and the kept set exactly, for the scale under `prefix`."""
    recorded = tensors[f"{prefix}.logits_cfg"]
    raw = tensors[f"{prefix}.logits_raw"][:, -recorded.shape[1] :]
    close(combined(raw, call["cfg"] * k / (count - 1)), recorded, f"{prefix}.logits_cfg", 1e-5)
    if f"{prefix}.kept" not in tensors:
        return
    top_k, top_p = call["top_k"], call["top_p"]
    top_k = top_k[k] if isinstance(top_k, list) else top_k
    wanted = tensors[f"{prefix}.kept"].bool()
    assert torch.equal(kept_set(recorded, top_k, top_p), wanted), f"{prefix}.kept"
    seeds = torch.zeros(len(recorded), dtype=torch.int64)
    output = ops.sample(recorded, seeds, top_k=top_k, top_p=top_p, return_logprobs=True)
    assert not isinstance(output, Tensor) and torch.equal(output.kept, wanted.sum(-1, dtype=torch.int32))
    assert wanted.gather(-1, output.ids).all()


@pytest.mark.parametrize("name", VAR_RUNS)
def test_var_combines_and_filters_as_recorded(name: str) -> None:
    tensors, metadata = golden("var", name)
    count = len(metadata["config"]["patch_nums"])
    for k in range(count):
        check_sampling(tensors, f"step{k}", k, count, metadata["call"])


@pytest.mark.parametrize("name", ["small_more_smooth"])
def test_smooth_mode_as_recorded(name: str) -> None:
    tensors, metadata = golden("var", name)
    codebook, call = tensors["sd_vae.quantize.embedding.weight"], metadata["call"]
    for k in range(4):
        logits, noise = tensors[f"step{k}.logits_cfg"], tensors[f"step{k}.gumbel_exp_noise"]
        seeds = torch.zeros(len(logits), dtype=torch.int64)
        filters = {"top_k": call["top_k"], "top_p": call["top_p"]}
        h = ops.smooth_embed(logits, codebook, seeds, ratio=k / 3, noise=noise, **filters)
        close(h, tensors[f"step{k}.h"].flatten(2).transpose(1, 2), f"step{k}.h")


@pytest.mark.parametrize("name", CODE_RUNS)
def test_code_as_recorded(name: str) -> None:
    tensors, metadata = golden("code", name)
    call, config, decoder = metadata["call"], metadata["config"], decoder_weights("code")
    shared = {key: config[key] for key in ("V", "Cvae", "ch")}
    drafter, refiner = (rebuild(tensors, shared | config[x], decoder, f"sd_{x}.") for x in ("draft", "refine"))
    model = CoDe(drafter, refiner, drafted=call["entry_num"])
    state = model.begin(tensors["label_B"])
    count = len(model.grids)
    for k in range(count):
        prefix = f"draft.step{k}" if k < model.drafted else f"refine.step{k}"
        recorded = tensors[f"{prefix}.logits_raw"]
        logits = model.head(model.features(state, k))
        close(logits, recorded[:, -logits.shape[1] :], f"{prefix}.logits_raw")
        check_sampling(tensors, prefix, k, count, call)
        model.advance(state, k, ids=tensors[f"{prefix}.idx"])
        sums = state.drafter.f_hat if k < model.drafted else state.refiner.f_hat
        close(sums, tensors[f"{prefix}.f_hat"], f"{prefix}.f_hat")
        if k < count - 1:
            tokens = (state.drafter if k < model.drafted else state.refiner).tokens
            close(tokens.transpose(1, 2).unflatten(2, model.grids[k + 1]), tensors[f"{prefix}.next_raw"], "next_raw")
    if decoder:
        close(model.decode(state), tensors["image"], "image")


def test_code_of_twice_the_same_model_is_that_model() -> None:
    model = tiny_var()
    guidance = [
        SSG(),
        DiverseVAR(scales=(1, 3), suppress=(1.0, 0.1), relative=True, where="ends"),
        VARScaling(scales=2, candidates=6),
    ]
    call: dict[str, Any] = {"labels": [1, 2], "seeds": [3, 4], "return_ids": True}
    images, ids = Sampler(CoDe(model, model, 3), [*guidance[:1], guidance[2]], path="logits")(**call)
    own_images, own_ids = Sampler(model, [*guidance[:1], guidance[2]], path="logits")(**call)
    assert all(torch.equal(a, b) for a, b in zip(ids, own_ids, strict=True))
    torch.testing.assert_close(images, own_images)
    smaller = tiny_var(width=8, depth=3)
    for path in ("features", "logits"):
        pair = CoDe(model, varfast.wrap(smaller), 2)
        assert Sampler(pair, guidance, path=path, smooth=True)(labels=[1], seeds=[1]).isfinite().all()


def test_code_draws_by_the_fused_op_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, fused = [], varfast.ops.guided_sample
    monkeypatch.setattr(varfast.ops, "guided_sample", lambda *given, **rest: calls.append(1) or fused(*given, **rest))
    Sampler(CoDe(tiny_var(), tiny_var(), 2), [SSG()], cfg=1.0)(labels=[1], seeds=[1])
    assert len(calls) == 5


def test_code_refuses_models_that_do_not_fit() -> None:
    model, other = tiny_var(), tiny_var()
    with pytest.raises(ValueError, match=r"drafted must lie in \[1, 4\], got 5"):
        CoDe(model, other, 5)
    with pytest.raises(TypeError, match="drafted must be an int"):
        CoDe(model, other, 1.0)  # type: ignore[arg-type]
    with torch.no_grad():
        other.codebook.add_(1)
    with pytest.raises(ValueError, match="codebooks differ"):
        CoDe(model, other, 2)
    with pytest.raises(ValueError, match="grids of the refiner"):
        CoDe(model, varfast.models.load(), 2)


@pytest.mark.parametrize("name", SCALING_RUNS)
def test_var_scaling_run_as_recorded(name: str) -> None:
    tensors, metadata = golden("var_scaling_run", name)
    call = metadata["call"]
    model = rebuild(tensors, metadata["config"], {})
    state = model.begin(tensors["label_B"])
    for k in range(4):
        prefix = f"step{k}"
        x = model.features(state, k)
        close(x, tensors[f"{prefix}.head_in"], f"{prefix}.head_in")
        close(model.head(x), tensors[f"{prefix}.logits_raw"], f"{prefix}.logits_raw")
        check_sampling(tensors, prefix, k, 4, call)
        h = tensors[f"{prefix}.h"].flatten(2).transpose(1, 2)
        if k == call["scaling_scale"]:
            candidates, logits = tensors[f"{prefix}.cand_idx"], tensors[f"{prefix}.logits_cfg"]
            for n, count in enumerate(tensors[f"{prefix}.cand_kept_count"].unbind(1)):
                kept = kept_set(logits, call["top_k"], call["top_p"])
                assert torch.equal(kept.sum(-1), count), f"draw {n}"
                assert kept.gather(-1, candidates[:, n, :, None]).all()
                logits = logits.masked_fill(~kept, -torch.inf)
            chosen = candidates[torch.arange(len(h)), tensors[f"{prefix}.chosen"]]
            assert torch.equal(model.codebook[chosen], h)
        model.advance(state, k, embeddings=h)
        close(state.f_hat, tensors[f"{prefix}.f_hat"], f"{prefix}.f_hat")
