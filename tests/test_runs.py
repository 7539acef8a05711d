"""Kept runs of an evaluation: believed while their fingerprint holds, resumed by the batch, of any model."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_var
from torch import Tensor

from varfast import Sampler
from varfast.evaluation.report import Report, Setting
from varfast.evaluation.runs import Experiment


class Brightness:
    """A judge that is small: the mean of the pixels."""

    metrics = {"mean": None}  # noqa: RUF012
    facts: dict[str, Any] = {}  # noqa: RUF012
    title = "nothing"
    factor = 1.0

    @property
    def probe(self) -> tuple[Tensor, Tensor]:
        return torch.full((2, 1, 4, 4), 100, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)

    def prepare(self, images: Tensor) -> dict[str, Tensor]:
        return {"means": images.double().mean((1, 2, 3))[:, None]}

    def score(self, prepared: Any, labels: Tensor) -> dict[str, float]:
        rows = torch.cat(list(prepared["means"].split(100)))
        assert len(rows) == len(labels) or len(labels) == 2
        return {"mean": self.factor * rows.mean().item()}


class Plain:
    """What of a model the protocol names, and no more."""

    def __init__(self, model: Any) -> None:
        for name in (
            "grids",
            "vocab_size",
            "num_classes",
            "codebook",
            "begin",
            "features",
            "head",
            "advance",
            "decode",
        ):
            setattr(self, name, getattr(model, name))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images drawn, by call, without the 16 of a fingerprint."""
    counts: list[int] = []
    own = Sampler.__call__

    def counted(self: Sampler, *args: Any, **kwargs: Any) -> Any:
        if "return_ids" not in kwargs:
            counts.append(len(kwargs["labels"]))
        return own(self, *args, **kwargs)

    monkeypatch.setattr(Sampler, "__call__", counted)
    return counts


def evaluate(folder: Path, judge: Any = None, model: Any = None, **options: Any) -> tuple[float, Experiment]:
    """The mean of 40 images of one method and seed, in batches of 10."""
    made = model or tiny_var()
    experiment = Experiment(made, {}, folder, images=40, batch=10, judge=judge or Brightness())
    report = Report(experiment, lambda count: None)
    report.add([Setting("plain", "plain", partial(Sampler, cfg=1.0, **options))], [0])
    return report.rows[0]["metrics"]["mean"][0], experiment


def test_a_kept_run_is_believed_and_what_it_was_drawn_with_is_asked(tmp_path: Path, drawn: list[int]) -> None:
    mean, _ = evaluate(tmp_path)
    assert drawn == [10] * 4
    again, experiment = evaluate(tmp_path)
    assert drawn == [10] * 4 and again == mean and not experiment.renewed
    assert [file.suffix for file in (tmp_path / "runs").iterdir()] == [".json"]


def test_other_tokens_renew_a_run(tmp_path: Path, drawn: list[int]) -> None:
    """Under one name: as if the code of sampling had changed."""
    mean, _ = evaluate(tmp_path)
    other, experiment = evaluate(tmp_path, top_k=2)
    assert drawn == [10] * 8 and other != mean
    assert "tokens" in experiment.renewed[0] and evaluate(tmp_path, top_k=2)[0] == other and len(drawn) == 8


def test_another_judge_or_torch_renews_a_run(tmp_path: Path, drawn: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate(tmp_path)
    judge = Brightness()
    judge.factor = 2.0
    _, experiment = evaluate(tmp_path, judge)
    assert len(drawn) == 8 and experiment.renewed == ["plain, seed 0: judge mean changed"]
    monkeypatch.setattr(torch, "__version__", "2.99.0")
    _, experiment = evaluate(tmp_path, judge)
    assert len(drawn) == 12 and experiment.renewed == ["plain, seed 0: torch changed"]


@pytest.mark.parametrize("smooth", [False, True])
def test_an_interruption_costs_a_batch(
    tmp_path: Path, drawn: list[int], monkeypatch: pytest.MonkeyPatch, smooth: bool
) -> None:
    (tmp_path / "whole").mkdir()
    whole, _ = evaluate(tmp_path / "whole", smooth=smooth)
    drawn.clear()
    own, kept = Experiment.keep_part, []

    def interrupted(self: Experiment, *args: Any) -> None:
        if len(kept) == 2:
            raise KeyboardInterrupt
        kept.append(1)
        own(self, *args)

    (tmp_path / "halves").mkdir()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Experiment, "keep_part", interrupted)
        evaluate(tmp_path / "halves", smooth=smooth)
    told = [16] if smooth else []  # smooth images have no tokens, so that these are drawn as images
    assert drawn == [*told, 10, 10, 10]
    drawn.clear()
    assert evaluate(tmp_path / "halves", smooth=smooth)[0] == whole and drawn == [*told, 10, 10]
    # Parts of other tokens are not gone on with.
    drawn.clear()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        kept.clear()
        patch.setattr(Experiment, "keep_part", interrupted)
        evaluate(tmp_path / "halves", smooth=smooth, top_k=3)
    drawn.clear()
    assert evaluate(tmp_path / "halves", smooth=smooth, top_k=4)[0] != whole and drawn == [*told, *[10] * 4]


def test_any_model_of_the_protocol_is_evaluated(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "plain").mkdir()
    assert evaluate(tmp_path / "plain", model=Plain(tiny_var()))[0] == evaluate(tmp_path / "ours")[0]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"metrics": {}}'])
def test_a_kept_run_that_is_damaged_or_anothers_is_named(tmp_path: Path, text: str) -> None:
    evaluate(tmp_path)
    (file,) = (tmp_path / "runs").iterdir()
    assert json.loads(file.read_text())["fingerprint"]["dtype"] == "torch.float32"
    file.write_text(text)
    with pytest.raises(ValueError, match=rf"{file.name}: not the result of 'plain' with seed 0; delete it"):
        evaluate(tmp_path)
