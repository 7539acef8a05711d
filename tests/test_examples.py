"""The scripts in examples/, on objects with the hosts' attributes and tiny text encoders.

Not tested here: upstream's own loading, real weights and encoders, 16 bits, the evaluators.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lookalike_infinity import SCHEDULE, UpstreamInfinity
from lookalikes import UpstreamHART
from PIL import Image
from tiny import tiny_var
from torch import Tensor, nn

import varfast

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.source_tree
WORDS = ["--device", "cpu", "--cfg", "2"]
PROMPTS = ["a red car", "two cats on a mat", "three dogs"]


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    for name in ("many_prompts", "sample_infinity", "sample_hart"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module


class Tokenizer:
    """A word is a token."""

    def __call__(self, text: list[str], max_length: int, **options: Any) -> SimpleNamespace:
        assert options == {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        ids = torch.zeros(len(text), 16, dtype=torch.int64)
        for row, words in zip(ids, text, strict=True):
            for n, word in enumerate(words.split()):
                row[n] = 1 + sum(map(ord, word)) % 29
        return SimpleNamespace(input_ids=ids, attention_mask=(ids > 0).long())


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.table = nn.Embedding(30, 6)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        return {"last_hidden_state": self.table(input_ids) * attention_mask[..., None]}


def infinity(scripts: Any, monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[ModuleType, list[str]]:
    script = scripts("sample_infinity")
    torch.manual_seed(0)
    model = UpstreamInfinity()
    monkeypatch.setattr(script, "load", lambda args: (model, model.vae, Tokenizer(), Encoder(), SCHEDULE))
    for name in ("model.pth", "vae.pth"):
        (folder / name).write_bytes(name.encode())
    words = ["--infinity", "x", "--t5", "tiny", "--vae-type", "8", "--scaling-scale", "1"]
    return script, [*words, "--model", str(folder / "model.pth"), "--vae", str(folder / "vae.pth")]


def hart(scripts: Any, monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[ModuleType, list[str]]:
    script = scripts("sample_hart")
    torch.manual_seed(0)
    model, text = UpstreamHART(tiny_var(channels=3)), Encoder()

    def encode(prompts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        tokens = Tokenizer()(prompts, 16, padding="max_length", truncation=True, return_tensors="pt")
        mask = tokens.attention_mask[:, :3]
        return text(tokens.input_ids[:, :3], mask)["last_hidden_state"], mask.cumsum(1) - 1, mask

    monkeypatch.setattr(script, "load", lambda args, device: (model, encode))
    (folder / "llm").mkdir()
    (folder / "llm" / "ema_model.bin").write_bytes(b"weights")
    return script, ["--hart", "x", "--text", "tiny", "--model", str(folder / "llm")]


HOSTS = pytest.mark.parametrize("host", [infinity, hart])


@HOSTS
def test_geneval(scripts: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: Any, capsys: Any) -> None:
    script, words = host(scripts, monkeypatch, tmp_path)
    lines = [{"tag": "counting", "prompt": prompt} for prompt in PROMPTS]
    file = tmp_path / "evaluation_metadata.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = [*words, *WORDS, "--layout", "geneval", "--prompts", str(file), "--out", str(tmp_path / "out")]
    script.main([*words, "--ssg", "0.3", "--diverse-var", "0.01", "--diverse-var-sides", "2", "--var-scaling", "20"])
    assert "12 images of 3 prompts" in (said := capsys.readouterr().out) and "evaluate_images.py" in said
    pictures = [tmp_path / "out" / f"{i:05d}" / "samples" / f"{j:05d}.png" for i in range(3) for j in range(4)]
    assert len({picture.read_bytes() for picture in pictures}) > 3  # of tiny images several are the same
    assert json.loads((tmp_path / "out" / "00002" / "metadata.jsonl").read_text()) == lines[2]
    # Again: nothing is drawn. Another strength: other images, refused.
    script.main([*words, "--ssg", "0.3", "--diverse-var", "0.01", "--diverse-var-sides", "2", "--var-scaling", "20"])
    assert "0 of them new" in capsys.readouterr().out
    with pytest.raises(ValueError, match="other settings"):
        script.main(
            [*words, "--ssg", "0.4", "--diverse-var", "0.01", "--diverse-var-sides", "2", "--var-scaling", "20"]
        )


@HOSTS
def test_dpg(scripts: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: Any, capsys: Any) -> None:
    script, words = host(scripts, monkeypatch, tmp_path)
    (tmp_path / "prompts").mkdir()
    for name, prompt in zip(("12", "partiprompts7", "8"), PROMPTS, strict=True):
        (tmp_path / "prompts" / f"{name}.txt").write_text(prompt + "\n")
    words = [*words, *WORDS, "--layout", "dpg", "--prompts", str(tmp_path / "prompts"), "--out", str(tmp_path / "out")]
    script.main([*words, "--limit", "2"])
    assert sorted(file.name for file in (tmp_path / "out" / "images").iterdir()) == ["12.png", "8.png"]
    assert "compute_dpg_bench.py" in (said := capsys.readouterr().out) and "--pic-num 4" in said


@HOSTS
def test_coco_is_scored_by_eval(
    scripts: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: Any, capsys: Any
) -> None:
    script, words = host(scripts, monkeypatch, tmp_path)
    captions = [(42, 9, PROMPTS[2]), (42, 3, PROMPTS[1]), (7, 5, PROMPTS[0])]  # image, number, caption
    notes = [{"image_id": image, "id": number, "caption": caption} for image, number, caption in captions]
    (tmp_path / "captions.json").write_text(json.dumps({"annotations": notes}))
    called: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda words, check: called.append(words))
    words = [*words, *WORDS, "--layout", "coco", "--prompts", str(tmp_path / "captions.json"), "--images", "1"]
    script.main([*words, "--out", str(tmp_path / "out"), "--reference", "val2014.npz"])
    lines = [json.loads(line) for line in (tmp_path / "out" / "prompts.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == PROMPTS[:2]
    assert [line["file"] for line in lines] == ["images/000000000007.png", "images/000000000042.png"]
    assert all((tmp_path / "out" / line["file"]).is_file() for line in lines)
    out = str(tmp_path / "out")
    (command,) = called
    assert command[1:5] == ["-m", "varfast", "eval", "--images"] and command[5:] == [
        out, "--reference", "val2014.npz", "--prompts", str(tmp_path / "out" / "prompts.jsonl"),
        "--out", str(tmp_path / "out" / "scores"), "--device", "cpu",
    ]  # fmt: skip


def test_an_image_of_the_script_is_the_host_s_own_of_that_seed(
    scripts: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Alone through upstream's method, with upstream's packed text, as in the script's batch of three prompts."""
    script, words = infinity(scripts, monkeypatch, tmp_path)
    words = [
        *words,
        *WORDS,
        "--layout",
        "dpg",
        "--prompts",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
    ]
    for n, prompt in enumerate(PROMPTS):
        (tmp_path / f"{n}.txt").write_text(prompt)
    script.main([*words, "--images", "2", "--seed", "100", "--batch", "5"])
    picture = np.asarray(Image.open(tmp_path / "out" / "images" / "1.png"))  # prompt 1, seeds 102 and 103, side by side
    model, vae, tokenizer, encoder, scales = script.load(None)
    features = script.encode(tokenizer, encoder, [PROMPTS[1]], torch.device("cpu"))
    assert [len(part) for part in features] == [5]
    _, _, alone = model.autoregressive_infer_cfg(
        vae=vae, scale_schedule=scales, label_B_or_BLT=script.pack(features), B=1, g_seed=[103], cfg_list=[2.0] * 3,
        tau_list=[0.5] * 3, top_k=900, top_p=0.97, cfg_insertion_layer=[0], returns_vemb=1, vae_type=8, ret_img=True,
    )  # fmt: skip
    width = picture.shape[1] // 2
    assert np.abs(picture[:, width:].astype(int) - alone[0].flip(2).numpy().astype(int)).max() <= 1


def test_a_list_of_seeds_is_a_seed_for_every_image() -> None:
    model = UpstreamHART(tiny_var())
    varfast.patch(model)
    mask = torch.ones(3, 3, dtype=torch.int64)
    call: dict[str, Any] = dict(context_position_ids=mask.cumsum(1) - 1, context_mask=mask, final_stage=1)
    features = torch.randn(1, 3, 6).expand(3, 3, 6)
    images = model.autoregressive_infer_cfg(B=3, label_B=features, g_seed=[5, 6, 5], **call)
    torch.testing.assert_close(images[0], images[2], rtol=1e-5, atol=1e-5)
    assert (images[0] - images[1]).abs().max() > 0.01
    with pytest.raises(ValueError, match="g_seed: got 2 seeds, needs one, or B=3"):
        model.autoregressive_infer_cfg(B=3, label_B=features, g_seed=[5, 6], **call)
