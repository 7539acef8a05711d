"""Images that some program has drawn, judged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from varfast.evaluation.tables import groups
from varfast.metrics.clip import Clip
from varfast.metrics.diversity import within_groups
from varfast.metrics.images import ImageSet
from varfast.metrics.inception import InceptionJudge

Advance = Callable[[int], object]


@dataclass(frozen=True)
class Verdict:
    """Scores by name, whether larger is better (None: not known), and what was judged."""

    scores: dict[str, float] = field(default_factory=dict)
    larger: dict[str, bool | None] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def judge_images(
    images: ImageSet,
    judge: InceptionJudge,
    *,
    prompts: Sequence[str] | None = None,
    clip: Clip | None = None,
    scores: Mapping[str, float] | None = None,
    advance: Advance = lambda count: None,
) -> Verdict:
    """All that can be said of a set of images.

    Args:
        images: the images. judge: what knows the reference, if there is any.
        prompts: one an image. With several images of a prompt, the Vendi score among them and the mean cosine distance
            of their pairs, on Inception's pooled features, averaged over the prompts that have several.
        clip: what scores images by their prompts. scores: means that other programs wrote.
        advance: hears of every chunk of images, once for Inception and once for CLIP.

    Raises:
        ValueError: what cannot be read as an image, too few of them, or a score of a name that is taken.
    """
    features = judge.store.features(images, advance)
    files = getattr(features["pool"], "files", ())
    digest = hashlib.sha256("".join(file.stem for file in files).encode()).hexdigest()
    verdict = Verdict(facts={"images": images.path.name, "count": len(images), "images_sha256": digest, **judge.facts})

    def add(name: str, score: float, larger: bool | None) -> None:
        if name in verdict.scores:
            raise ValueError(f"scores: {name} is the name of a metric of ours; give the column another")
        verdict.scores[name], verdict.larger[name] = score, larger

    for name, score in judge.score(features).items():
        add(name, score, judge.metrics[name])
    if prompts is not None:
        inside = within_groups(features["pool"], groups(prompts))
        if inside is not None:
            add("prompt_vendi", inside[0], True)
            add("prompt_distance", inside[1], True)
        if clip is not None:
            add("clip", clip.score(clip.images.features(images, advance)["image"], prompts), True)
    for name, score in (scores or {}).items():
        add(name, score, None)
    return verdict
