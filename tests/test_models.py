"""Our VAR and VQ-VAE against recorded upstream runs, their checkpoints, and the two ways through the transformer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recorded import close, decoder_weights, golden, rebuild
from safetensors.torch import save_file
from tiny import ROWS_ALIKE
from torch import Tensor

from varfast import Sampler, models
from varfast.models import VAR, VQVAE, VARConfig, VQVAEConfig
from varfast.models.checkpoint import DERIVED, infer_grids, infer_var, read, write_metadata
from varfast.models.linear import apply, conv3x3, linear
from varfast.models.quantizer import phi_choice

CASES = (
    "small_nofilter_cfg4",
    "saln_nol2_1_2_3_4_5_6",
    "small_b1_uncondlabel_cfg0",
    "small_more_smooth",
    "stock_cfg1p5_k40_p95",
)


@pytest.mark.parametrize("name", CASES)
def test_recorded_run(name: str) -> None:
    tensors, metadata = golden("var", name)
    config, decoder = metadata["config"], decoder_weights()
    model = rebuild(tensors, config, decoder)
    state = model.begin(tensors["label_B"])
    last = config["depth"] - 1
    for k in range(len(model.grids)):
        seen: dict[str, Tensor] = {}

        def on_input(x: Tensor, i: int, n: int, seen: dict[str, Tensor] = seen) -> Tensor:
            assert n == config["depth"]
            return seen.setdefault("x_in", x) if i == 0 else x

        def on_output(x: Tensor, i: int, n: int, seen: dict[str, Tensor] = seen) -> Tensor:
            return seen.setdefault("x_out", x) if i == last else x

        x = model.features(state, k, on_input, on_output)
        seen |= {"head_in": x, "logits_raw": model.head(x)}
        if "smooth" in name:
            model.advance(state, k, embeddings=tensors[f"step{k}.h"].flatten(2).transpose(1, 2))
        else:
            model.advance(state, k, ids=tensors[f"step{k}.idx"])
        seen["f_hat"] = state.f_hat
        if k < len(model.grids) - 1:
            seen["next_raw"] = state.tokens.transpose(1, 2).unflatten(2, model.grids[k + 1])
        for key, value in seen.items():
            close(value, tensors[f"step{k}.{key}"], f"step{k}.{key}")
    if decoder:
        close(model.decode(state), tensors["image"], "image")


Grids = tuple[tuple[int, int], ...]


def tiny(shared_aln: bool = False, l2: bool = True, grids: Grids = ((1, 1), (2, 3), (4, 4))) -> VAR:
    torch.manual_seed(0)
    vae = VQVAE(VQVAEConfig(grids, 11, 6, channels=1, ch=8, ch_mult=(1, 2), num_res_blocks=1, groups=4))
    model = VAR(VARConfig(grids, 11, 6, 5, 2, 24, 3, shared_aln, l2), vae)
    for p in [*model.parameters(), *vae.parameters()]:
        torch.nn.init.normal_(p, std=0.3)
    return model.eval()


def draw(model: VAR, batch: int, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(model.vocab_size, (batch, h * w), generator=generator) for h, w in model.grids]


def by_scale(model: VAR, labels: Tensor, ids: list[Tensor]) -> tuple[Tensor, Tensor]:
    state = model.begin(labels)
    logits = []
    for k, scale in enumerate(ids):
        logits.append(model.head(model.features(state, k)))
        model.advance(state, k, ids=scale)
    return torch.cat(logits, dim=1), model.decode(state)


@pytest.mark.parametrize("shared_aln", [False, True])
@pytest.mark.parametrize("l2", [False, True])
def test_cache_equals_teacher_forcing(shared_aln: bool, l2: bool) -> None:
    model, labels = tiny(shared_aln, l2), torch.tensor([0, 4, 2])
    ids = draw(model, 3)
    logits, _ = by_scale(model, labels, ids)
    with torch.no_grad():
        close(logits[:3], model(labels, ids), "cond")
        close(logits[3:], model(torch.full_like(labels, 5), model.vae.quantize.unroll(ids)[0]), "uncond")


def test_an_image_does_not_depend_on_its_batch() -> None:
    model, labels = tiny(), torch.tensor([0, 4, 2])
    ids = draw(model, 3)
    logits, images = by_scale(model, labels, ids)
    alone, image = by_scale(model, labels[1:2], [i[1:2] for i in ids])
    torch.testing.assert_close(alone, logits[[1, 4]], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(image, images[1:2], rtol=1e-5, atol=1e-5)


def test_hooks_change_what_flows_and_features_may_run_again() -> None:
    model = tiny()
    state = model.begin(torch.tensor([1]))
    plain = model.features(state, 0)
    doubled = model.features(state, 0, on_input=lambda x, i, n: x * 2 if i == 1 else x)
    assert not torch.allclose(plain, doubled)
    torch.testing.assert_close(model.features(state, 0), plain)


def test_without_unconditional_half() -> None:
    model, labels = tiny(), torch.tensor([3, 1])
    both, one = model.begin(labels), model.begin(labels, unconditional=False)
    for k, ids in enumerate(draw(model, 2)):
        a, b = model.features(both, k), model.features(one, k)
        assert a.shape[0] == 4 and b.shape[0] == 2
        torch.testing.assert_close(a[:2], b, rtol=1e-5, atol=1e-5)
        model.advance(both, k, ids=ids)
        model.advance(one, k, embeddings=model.codebook[ids])
    torch.testing.assert_close(both.f_hat, one.f_hat)


def test_empty_batch_and_half_precision() -> None:
    model = tiny()
    _, images = by_scale(model, torch.zeros(0, dtype=torch.int64), draw(model, 0))
    assert images.shape == (0, 1, 8, 8)
    exact, _ = by_scale(model, torch.tensor([1]), draw(model, 1))
    half, images = by_scale(model.bfloat16(), torch.tensor([1]), draw(model, 1))
    assert half.dtype == torch.bfloat16 and images.dtype == torch.float32
    assert (half.float() - exact).abs().max() < 0.1 * exact.abs().max()


def test_tokens_survive_encode_and_decode() -> None:
    model = tiny()
    vae = model.vae
    images = torch.rand(2, 1, 8, 8)
    quantized = vae.quantize.quantize(vae.latent(images))
    ids = vae.encode(images)
    assert [tuple(i.shape) for i in ids] == [(2, 1), (2, 6), (2, 16)]
    torch.testing.assert_close(vae.quantize.unroll(ids)[1], quantized.sums[-1])
    decoded = vae.decode_ids(ids)
    assert decoded.shape == images.shape and decoded.min() >= 0 and decoded.max() <= 1


def test_phi_choice() -> None:
    assert phi_choice(4, 10) == (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)
    assert phi_choice(4, 4) == (0, 1, 2, 3)
    assert phi_choice(4, 14) == (0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3)


@pytest.mark.parametrize(
    ("action", "error", "words"),
    [
        (lambda m: m.begin(torch.tensor([1.0])), TypeError, "labels: got torch.float32"),
        (lambda m: m.begin(torch.tensor([[1]])), ValueError, r"labels: got shape \(1, 1\)"),
        (lambda m: Sampler(m)(labels=[6], seeds=[0]), ValueError, "labels: got .6., needs 0 to 5"),
        (lambda m: m.features(m.begin(torch.tensor([1])), 1), ValueError, "scales run in order"),
        (lambda m: m.advance(m.begin(torch.tensor([1])), 0), ValueError, "exactly one of ids and embeddings"),
        (lambda m: m.advance(m.begin(torch.tensor([1])), 0, ids=torch.zeros(2, 1).long()), ValueError, "ids: got"),
        (lambda m: m.vae.encode(torch.zeros(1, 3, 8, 8)), ValueError, r"images: got shape \(1, 3, 8, 8\)"),
        (lambda m: VAR(VARConfig(m.grids, 12, 6, 5, 2, 24, 3), m.vae), ValueError, "vae: got"),
        (lambda m: VAR(VARConfig(m.grids, 11, 6, 5, 2, 24, 5), m.vae), ValueError, "heads: got 5"),
    ],
)
def test_wrong_input(action: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        action(tiny())


class TestCheckpoint:
    """Public checkpoints are two `.pth` files; ours is one safetensors file with the configs in it."""

    def upstream_files(self, folder: Path, **kwargs: Any) -> tuple[VAR, Path, Path]:
        """Two files as upstream writes them, its derived buffers included."""
        grids = tuple((n, n) for n in (1, 2, 3, 4, 6, 8))
        torch.manual_seed(0)
        vae = VQVAE(VQVAEConfig(grids, 11, 6, ch=32, ch_mult=(1, 2), num_res_blocks=1)).eval()
        model = VAR(VARConfig(grids, 11, 6, 5, 2, 128, 2, **kwargs), vae).eval()
        state = dict(model.state_dict())
        state |= {"lvl_1L": torch.zeros(1, 130), "attn_bias_for_masking": torch.zeros(1, 1, 130, 130)}
        state |= {f"blocks.{i}.attn.zero_k_bias": torch.zeros(128) for i in (0, 1)}
        torch.save(state, folder / "var.pth")
        torch.save(vae.state_dict() | {"quantize.ema_vocab_hit_SV": torch.zeros(6, 11)}, folder / "vae.pth")
        return model, folder / "var.pth", folder / "vae.pth"

    @pytest.mark.parametrize("kwargs", [{}, {"shared_aln": True}, {"attn_l2_norm": False}])
    def test_inferred_shape(self, tmp_path: Path, kwargs: dict[str, bool]) -> None:
        model, var, vae = self.upstream_files(tmp_path, **kwargs)
        loaded = models.load(var, vae)
        assert loaded.config == model.config and loaded.vae.config == model.vae.config
        assert not any(p.requires_grad or p.is_meta for p in [*loaded.parameters(), *loaded.vae.parameters()])
        ids, labels = draw(model, 2), torch.tensor([0, 3])
        for got, wanted in zip(by_scale(loaded, labels, ids), by_scale(model, labels, ids), strict=True):
            torch.testing.assert_close(got, wanted)

    def test_a_given_vae_goes_to_the_models_device(self, tmp_path: Path) -> None:
        model, var, _ = self.upstream_files(tmp_path)
        loaded = models.load(var, model.vae, device="meta")
        assert loaded.vae is model.vae and loaded.codebook.is_meta
        assert all(p.is_meta for p in [*loaded.parameters(), *loaded.vae.parameters()])

    def test_dtype_is_the_transformers(self, tmp_path: Path) -> None:
        _, var, vae = self.upstream_files(tmp_path)
        loaded = models.load(var, vae, dtype=torch.bfloat16)
        assert loaded.head.weight.dtype == torch.bfloat16 and loaded.codebook.dtype == torch.float32
        assert by_scale(loaded, torch.tensor([1]), draw(loaded, 1))[1].isfinite().all()

    def test_one_file_with_configs(self, tmp_path: Path) -> None:
        model = tiny()
        tensors = {f"var.{k}": v for k, v in model.state_dict().items()}
        tensors |= {f"vae.{k}": v for k, v in model.vae.state_dict().items()}
        save_file(tensors, tmp_path / "m.safetensors", write_metadata(model.vae.config, model.config))
        loaded = models.load(tmp_path / "m.safetensors")
        assert loaded.config == model.config and loaded.vae.config == model.vae.config
        given: dict[str, Any] = {"grids": map(list, model.grids), "heads": model.config.heads}
        assert models.load(tmp_path / "m.safetensors", **given).config == model.config
        for name, wrong in (("grids", model.grids[:-1]), ("heads", model.config.heads + 1)):
            with pytest.raises(ValueError, match=rf"{name}: got .*, but .*m\.safetensors states"):
                models.load(tmp_path / "m.safetensors", **{name: wrong})

    def test_heads_that_a_learned_scale_contradicts_are_refused(self, tmp_path: Path) -> None:
        _, var, vae = self.upstream_files(tmp_path)
        with pytest.raises(ValueError, match=r"heads: got 4, but .*var\.pth states 2"):
            models.load(var, vae, heads=4)

    def test_misfits_are_named(self, tmp_path: Path) -> None:
        _, var, vae = self.upstream_files(tmp_path)
        state = torch.load(var, weights_only=True)
        del state["blocks.1.ffn.fc1.weight"]
        state["odd.one"] = torch.zeros(1)
        state["head.bias"] = torch.zeros(7)
        torch.save(state, var)
        with pytest.raises(ValueError) as caught:
            models.load(var, vae)
        for words in ("missing blocks.1.ffn.fc1.weight", "unexpected odd.one", "head.bias (got (7,), needs (11,))"):
            assert words in str(caught.value)

    def test_other_mistakes(self, tmp_path: Path) -> None:
        _, var, vae = self.upstream_files(tmp_path)
        with pytest.raises(ValueError, match=r"vae: .* holds the transformer alone"):
            models.load(var)
        with pytest.raises(ValueError, match="not a VAR checkpoint"):
            models.load(vae, vae)
        with pytest.raises(ValueError, match="not a VAR-type VQ-VAE"):
            models.load(var, var)
        with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
            models.load(tmp_path / "absent.pth")
        with pytest.raises(ValueError, match=r"var-d16: .*download=True"):
            models.load("var-d16")
        for name in ("x.bin", "x.pth", "x.safetensors"):
            (tmp_path / name).write_bytes(b"nothing of the kind")
            with pytest.raises(ValueError, match=name):
                models.load(tmp_path / name)

    def test_code_in_a_pth_file_is_not_run(self, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> tuple[Any, ...]:
                return (os.mkdir, (str(tmp_path / "ran"),))

        torch.save({"a": Evil()}, tmp_path / "evil.pth")
        with pytest.raises(ValueError, match=r"evil\.pth"):
            read(tmp_path / "evil.pth")
        assert not (tmp_path / "ran").exists()

    def test_ambiguous_shapes(self) -> None:
        assert infer_grids(680, 10)[-1] == (16, 16) and infer_grids(30, 4)[-1] == (4, 4)
        with pytest.raises(ValueError, match="grids: no known schedule has 3 scales and 99 tokens"):
            infer_grids(99, 3)
        state = tiny(l2=False, grids=((1, 1), (2, 2), (3, 3))).state_dict()
        with pytest.raises(ValueError, match="heads: not stored"):
            infer_var(state)
        assert infer_var(state, heads=3).heads == 3

    def test_derived_buffers(self) -> None:
        assert DERIVED.search("blocks.3.attn.zero_k_bias") and not DERIVED.search("blocks.3.attn.q_bias")


def test_builtin_model_loads_and_draws() -> None:
    model = models.load()
    assert model.grids[-1] == (8, 8) and model.num_classes == 10
    assert model.codebook.shape == (model.vocab_size, model.config.z_channels)
    state = model.begin(torch.arange(10))
    for k in range(len(model.grids)):
        model.advance(state, k, ids=model.head(model.features(state, k))[:10].argmax(-1))
    images = model.decode(state)
    assert images.shape == (10, 1, 32, 32) and images.dtype == torch.float32
    assert images.std(dim=0).mean() > 0.05  # ten labels, ten different garments


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_is_torchs_whoever_computes_it(bias: bool, gelu: bool) -> None:
    torch.manual_seed(0)
    x, weight, offset = torch.randn(3, 5, 32)[:, ::2], torch.randn(24, 32), torch.randn(24) if bias else None
    wanted = F.linear(x, weight, offset)
    wanted = F.gelu(wanted, approximate="tanh") if gelu else wanted
    with torch.inference_mode():
        torch.testing.assert_close(linear(x, weight, offset, gelu), wanted)
        torch.testing.assert_close(
            linear(x.bfloat16(), weight.bfloat16(), None), F.linear(x.bfloat16(), weight.bfloat16())
        )
        assert linear(x[:0], weight, offset, gelu).shape == (0, 3, 24)
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(x, weight, offset).dtype == torch.bfloat16
    linear(x, weight.requires_grad_(), offset, gelu).sum().backward()
    assert weight.grad is not None


@pytest.mark.skipif(not ROWS_ALIKE, reason="the bits of this torch's products depend on the number of rows")
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("shape", [(160, 480), (640, 160), (160, 960), (8, 160), (72, 8), (1024, 384)])
def test_a_rows_bits_do_not_depend_on_the_rows_beside_it(shape: tuple[int, int], gelu: bool) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2304, shape[0]), torch.randn(shape[1], shape[0]), torch.randn(shape[1])
    with torch.inference_mode():
        together = linear(x, weight, bias, gelu)
        for rows in (1, 2, 3, 8, 36, 100, 128, 1000):
            assert torch.equal(linear(x[:rows].clone(), weight, bias, gelu), together[:rows])
        assert torch.equal(linear(x[None, 7], weight, bias, gelu), together[None, 7])


def test_the_quantizers_convolution_is_torchs_and_keeps_a_maps_bits() -> None:
    torch.manual_seed(0)
    maps, weight, bias = torch.randn(64, 8, 5, 7), torch.randn(8, 8, 3, 3), torch.randn(8)
    with torch.inference_mode():
        got = conv3x3(maps, weight, bias)
        torch.testing.assert_close(got, F.conv2d(maps, weight, bias, padding=1))
        assert not ROWS_ALIKE or all(
            torch.equal(conv3x3(one[None], weight, bias)[0], got[i]) for i, one in enumerate(maps)
        )
    weight.requires_grad_()
    torch.testing.assert_close(conv3x3(maps, weight, bias), got)
    assert conv3x3(maps[:0], weight.detach(), bias).shape == (0, 8, 5, 7)


def test_other_peoples_layers_keep_their_hooks() -> None:
    module, x, heard = torch.nn.Linear(8, 4), torch.randn(2, 8), []
    torch.testing.assert_close(apply(module, x), module(x))
    module.register_forward_hook(lambda *_: heard.append(1))
    apply(module, x)
    assert heard == [1]
