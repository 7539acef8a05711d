"""What prompts and tables of other programs add to judged images: CLIP score, diversity, merged means."""

from __future__ import annotations

import json
import string
import sys
from pathlib import Path
from typing import Any

import judged
import numpy as np
import pytest
import torch
from evaluators import vendi
from judged import folder, pictures
from torch import Tensor

from varfast import cli
from varfast.evaluation.tables import groups, read_prompts, read_scores
from varfast.metrics import foreign, inception, store
from varfast.metrics.clip import Clip
from varfast.metrics.diversity import pairwise_distance, vendi_score
from varfast.metrics.store import Store

NAMES = ["0/a.png", "0/b.png", "1/a.png", "1/b.png"]


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("p.txt", "a dog\na cat\n", ["a dog", "a dog", "a cat", "a cat"]),
        ("p.txt", "a\nb\nc\nd\n\n", ["a", "b", "c", "d"]),
        ("p.jsonl", '{"prompt": "a", "tag": "x"}\n{"prompt": "b"}\n', ["a", "a", "b", "b"]),
        (
            "p.csv",
            'file,prompt\n1/b.png,"four, with\na comma"\n1/a.png,three\n0/a.png,one\n0/b.png,two\n',
            ["one", "two", "three", "four, with\na comma"],
        ),
    ],
)
def test_prompts_are_of_images_or_of_folders(tmp_path: Path, name: str, text: str, expected: list[str]) -> None:
    assert read_prompts(written(tmp_path / name, text), NAMES) == expected


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("p.txt", "a\nb\nc\n", "3 prompts for 4 images in 2 folders"),
        ("p.txt", "a\n\nb\nc\n", "p.txt, line 2: no prompt"),
        ("p.jsonl", '{"prompt": "a"}\nprompt\n', "line 2: not JSON"),
        ("p.jsonl", '{"text": "a"}\n', "line 1: no prompt"),
        ("p.csv", "file,prompt\n0/a.png,one\n", "no row for 3 of 4 images, the first 0/b.png"),
        ("p.csv", "file,prompt\n0/a.png,one\n0/a.png,two\n", "names 0/a.png twice"),
        ("p.xml", "", "needs a .txt"),
    ],
)
def test_prompts_that_do_not_fit_are_named(tmp_path: Path, name: str, text: str, named: str) -> None:
    with pytest.raises(ValueError, match=named.replace("(", r"\(")):
        read_prompts(written(tmp_path / name, text), NAMES)


def test_scores_of_other_programs_are_averaged_over_the_images(tmp_path: Path) -> None:
    table = "file,image_reward,aesthetic\n" + "".join(f"{name},{n},{n / 3}\n" for n, name in enumerate(NAMES))
    assert read_scores(written(tmp_path / "s.csv", table), NAMES) == {"aesthetic": 0.5, "image_reward": 1.5}
    for text, named in (
        (table.replace("3,1.0", "nan,1.0"), "row 4: image_reward must be a finite number, got 'nan'"),
        (table.replace("3,1.0", "3"), "row 4: aesthetic must be a finite number, got None"),
        (table + "x.png,1,1\n", "names 1 files that are none of the images, x.png"),
        ("image,score\n", "needs a .csv with a column `file`"),
    ):
        with pytest.raises(ValueError, match=named.replace("[", r"\[")):
            read_scores(written(tmp_path / "s.csv", text), NAMES)


def test_distance_of_pairs_and_groups() -> None:
    rows = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    pairs = [1 - torch.cosine_similarity(rows[i], rows[j], dim=0).item() for i in range(7) for j in range(i)]
    assert pairwise_distance(rows) == pytest.approx(np.mean(pairs), rel=1e-6)
    assert groups(["b", "a", "b", "c"]) == [[0, 2], [1], [3]]


@pytest.mark.parametrize(("count", "width"), [(40, 90), (300, 30)])
def test_vendi_score_from_one_to_the_number_of_rows(count: int, width: int) -> None:
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(0)) + 0.3
    assert vendi_score(rows) == pytest.approx(vendi(rows), rel=1e-9)
    assert vendi_score(rows[:1].repeat(9, 1)) == pytest.approx(1.0)
    assert vendi_score(torch.eye(12)) == pytest.approx(12.0)
    with pytest.raises(ValueError, match="no row may be zero"):
        vendi_score(torch.zeros(3, 4))


@pytest.mark.needs_peers
@pytest.mark.parametrize(("count", "width"), [(400, 2048), (2500, 300)])
def test_the_vendi_score_is_that_of_its_authors_package(count: int, width: int) -> None:
    from vendi_score import vendi as theirs

    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(1)).clamp(min=0)
    for function in (theirs.score_X, theirs.score_dual):
        assert vendi_score(rows) == pytest.approx(function(rows.double().numpy()), rel=1e-9)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP of a tiny configuration with random weights, as `save_pretrained` leaves it."""
    foreign.clip()  # which lets torchvision in
    import transformers as package

    path = tmp_path_factory.mktemp("clip")
    letters = [c + end for c in string.ascii_lowercase + string.digits for end in ("", "</w>")]
    vocabulary = [*letters, "c a", "<|startoftext|>", "<|endoftext|>"]
    vocabulary[len(letters)] = "ca"
    (path / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate(vocabulary)}))
    (path / "merges.txt").write_text("#version: 0.2\nc a\n")
    tokenizer = package.CLIPTokenizer(str(path / "vocab.json"), str(path / "merges.txt"), model_max_length=16)
    end = len(vocabulary) - 1
    text = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = text | {"image_size": 32, "patch_size": 8}
    text |= {"vocab_size": len(vocabulary), "max_position_embeddings": 16, "eos_token_id": end, "bos_token_id": end - 1}
    config = package.CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = package.CLIPModel(config)
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.3)
        model.text_projection.weight.data.neg_()  # of this seed the mean cosine is negative, its score 0
    model.save_pretrained(path)
    images = package.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    package.CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(path)
    return path


def prompts_of(count: int) -> list[str]:
    words = ("a cat", "two dogs", "cab 9", "the car")
    return [f"{words[n % 3]} {n % 5}" for n in range(count)]


@pytest.mark.needs_peers
def test_the_clip_score_is_that_of_torchmetrics(clip_folder: Path, tmp_path: Path) -> None:
    import transformers as package
    from torchmetrics.multimodal import CLIPScore

    images, prompts = pictures(40, size=40), prompts_of(40)

    def load() -> tuple[Any, Any]:
        """Version 5 of transformers gives objects where torchmetrics knows tensors."""
        model = package.CLIPModel.from_pretrained(clip_folder)
        for name in ("get_image_features", "get_text_features"):
            own = getattr(model, name)
            setattr(model, name, lambda *given, own=own: tensor_of(own(*given)))
        return model, package.CLIPProcessor.from_pretrained(clip_folder)

    theirs = CLIPScore(model_name_or_path=load)  # type: ignore[arg-type]
    theirs.update(list(images), prompts)
    clip = Clip(clip_folder, "cpu", 9, tmp_path)
    embedded = clip.images.features(judged_source(tmp_path / "images", images))["image"]
    assert clip.score(embedded, prompts) == pytest.approx(theirs.compute().item(), rel=1e-5)
    assert len(embedded) == 40 and clip.score(embedded, prompts[::-1]) != clip.score(embedded, prompts) > 1
    assert clip.score(embedded, ["z 7"] * 40) >= 0  # never below, as theirs


def tensor_of(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.pooler_output


def judged_source(path: Path, images: Tensor) -> Any:
    from varfast.metrics.images import open_images

    return open_images(folder(path, images))


@pytest.mark.needs_peers
def test_a_long_prompt_is_cut_with_its_end_kept(clip_folder: Path, tmp_path: Path) -> None:
    clip = Clip(clip_folder, "cpu", 9, tmp_path)
    long = "a b c d e f g h i j k l m n"  # 14 words and two ends: all 16 places
    fits, cut = (clip._embed_texts([text])["text"] for text in (long, long + " o p q"))
    torch.testing.assert_close(cut, fits)


@pytest.mark.needs_peers
def test_eval_scores_prompts_and_merges_what_others_wrote(
    clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, width in judged.WIDTHS.items():
        monkeypatch.setattr(inception, name, width)
    (tmp_path / "inception.pth").touch()
    monkeypatch.setattr(inception, "load_network", lambda *_: judged.network)
    monkeypatch.setattr(store, "CHUNK", 20)
    images = pictures(48)
    folder(tmp_path / "fake", images, per_folder=4)
    prompts = prompts_of(12)
    written(tmp_path / "p.jsonl", "".join(json.dumps({"prompt": text}) + "\n" for text in prompts))
    rows = "".join(f"{n // 4:05d}/samples/{n:05d}.png,{n}\n" for n in range(48))
    written(tmp_path / "s.csv", "file,image_reward\n" + rows)

    def run(*words: object) -> tuple[int, str]:
        given = ("eval", "--images", tmp_path / "fake", "--inception", tmp_path / "inception.pth", "-o", tmp_path / "o")
        monkeypatch.setattr(sys, "argv", ["varfast", *map(str, (*given, *words))])
        with pytest.raises(SystemExit) as error:
            cli.main()
        captured = capfd.readouterr()
        return int(error.value.code or 0), captured.out + captured.err

    words = ("--prompts", tmp_path / "p.jsonl", "--scores", tmp_path / "s.csv")
    code, text = run(*words, "--clip", clip_folder)
    assert code == 0, text
    found = json.loads((tmp_path / "o" / "results.json").read_text())["metrics"]
    assert list(found) == ["is", "vendi", "prompt_vendi", "prompt_distance", "clip", "image_reward"]
    pool = judged.network(images)[:, : judged.WIDTHS["POOL"]]
    each = [pool[n : n + 4] for n in range(0, 48, 4)]
    assert found["prompt_vendi"] == pytest.approx(np.mean([vendi(rows) for rows in each]), rel=1e-6)
    assert found["prompt_distance"] == pytest.approx(np.mean([pairwise_distance(rows) for rows in each]), rel=1e-6)
    assert found["image_reward"] == 23.5
    # Both stores are there now: CLIP looks at its probe alone.
    seen: list[int] = []
    own = Clip._embed_images
    monkeypatch.setattr(Clip, "_embed_images", lambda self, x: seen.append(len(x)) or own(self, x))
    assert run(*words, "--clip", clip_folder)[0] == 0 and seen == [2]
    code, text = run(*words, "--clip", tmp_path / "nothing")
    assert code == 1 and "no CLIP weights at" in text and "hf download" in text
    code, text = run(*words, "--clip", "none")
    assert code == 0 and "clip" not in json.loads((tmp_path / "o" / "results.json").read_text())["metrics"]
    rows = rows.replace("file,image_reward", "file,is")
    written(tmp_path / "s.csv", "file,is\n" + rows)
    code, text = run(*words, "--clip", "none")
    assert code == 2 and "--scores: is is the name of a metric of ours" in text


def test_a_store_is_of_one_network(tmp_path: Path) -> None:
    probe = torch.ones(2, 3)
    first = Store(tmp_path, "x", lambda items: {"a": items}, probe)
    again = Store(tmp_path, "x", lambda items: {"a": items * (1 + 1e-6)}, probe)
    other = Store(tmp_path, "x", lambda items: {"a": items * 2}, probe)
    wider = Store(tmp_path, "x", lambda items: {"a": items, "b": items}, probe)
    assert first.folder == again.folder and len({first.folder, other.folder, wider.folder}) == 3
