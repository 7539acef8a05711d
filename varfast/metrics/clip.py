"""CLIP score: how well images show what their prompts say, by the cosine of CLIP's two embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from varfast.metrics.foreign import clip
from varfast.metrics.rows import BLOCK, Rows, blocks
from varfast.metrics.store import Parts, Store, Texts

NAME = "openai/clip-vit-large-patch14"  # what torchmetrics takes by default
PROBE = ["a photo of a cat", "trousers"]


class Clip:
    """CLIP of transformers, with its own preprocessing of images and texts.

    Args:
        weights: a folder as `save_pretrained` leaves it; by default openai/clip-vit-large-patch14 in Hugging Face's
            cache. Nothing is downloaded.
        device: where it runs. batch: images or texts per run. folder: where embeddings are kept.

    Raises:
        ImportError: no transformers. FileNotFoundError: no weights there; the messages say how to get them.

    Notes:
        Source: Hessel et al., arXiv 2104.08718; `CLIPScore` of torchmetrics, whose number this is: 100 times the mean
        cosine, at least 0 (papers that print 0.31 leave out the 100). A text of more than 77 tokens is cut with its end
        token kept, as OpenAI's tokenizer cuts it; torchmetrics cuts that off too.
    """

    def __init__(self, weights: Path | None, device: torch.device | str, batch: int, folder: Path) -> None:
        (model, processor), source = clip(), str(weights or NAME)
        try:
            self._model: Any = model.from_pretrained(source, local_files_only=True)
            self._processor: Any = processor.from_pretrained(source, local_files_only=True)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"no CLIP weights at {source}: run `hf download {NAME}` where there is a network, and give its folder, "
                f"or any that save_pretrained wrote, as --clip ({error})"
            ) from error
        self._model.to(device=device, dtype=torch.float32).eval()
        self._device, self._batch = device, batch
        generator = torch.Generator("cpu").manual_seed(0)
        images = torch.randint(256, (2, 3, 64, 64), generator=generator, dtype=torch.uint8, device="cpu")
        self.images = Store(folder, "clip-images", self._embed_images, images)
        self.texts = Store(folder, "clip-texts", self._embed_texts, PROBE)

    @torch.no_grad()
    def _embed_images(self, images: Tensor) -> Parts:
        found = []
        for some in images.split(self._batch):
            pixels = self._processor(images=list(some.expand(-1, 3, -1, -1)), return_tensors="pt")["pixel_values"]
            with torch.backends.cudnn.flags(
                enabled=True, allow_tf32=False
            ):  # as for Inception: one score on any device
                found.append(_embeddings(self._model.get_image_features(pixel_values=pixels.to(self._device))))
        return {"image": torch.cat(found)}

    @torch.no_grad()
    def _embed_texts(self, texts: Sequence[str]) -> Parts:
        longest = self._model.config.text_config.max_position_embeddings
        found = []
        for start in range(0, len(texts), self._batch):
            some = list(texts[start : start + self._batch])
            words = self._processor(text=some, return_tensors="pt", padding=True, truncation=True, max_length=longest)
            words = {name: words[name].to(self._device) for name in ("input_ids", "attention_mask")}
            found.append(_embeddings(self._model.get_text_features(**words)))
        return {"text": torch.cat(found)}

    def score(self, images: Rows, prompts: Sequence[str], advance: Callable[[int], object] = lambda n: None) -> float:
        """Of embeddings (N, D), as the store `images` gives them, and N prompts."""
        different = list(dict.fromkeys(prompts))
        numbers = {text: n for n, text in enumerate(different)}
        texts = self.texts.features(Texts(different), advance)["text"]
        total, start = 0.0, 0
        for rows in blocks(images, BLOCK):
            there = texts.take([numbers[text] for text in prompts[start : start + len(rows)]]).double()
            total += torch.cosine_similarity(rows, there, dim=1).sum().item()
            start += len(rows)
        return max(100 * total / len(images), 0.0)


def _embeddings(output: Any) -> Tensor:
    """(N, D): transformers gives the tensor, from version 5 on an object that holds it."""
    return (output if isinstance(output, Tensor) else output.pooler_output).float().cpu()
