"""HART with varfast: many images of many prompts, on any number of GPUs.

    torchrun --nproc-per-node 8 examples/sample_hart.py --hart hart --model hart-0.7b-1024px/llm \\
        --text Qwen2-VL-1.5B-Instruct --layout dpg --prompts dpg_bench/prompts --ssg 0.3 --out dpg

`--hart` is a checkout of github.com/mit-han-lab/hart, installed with its kernels, whose own functions load its objects.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from many_prompts import device_of, distinct, guidance, parser, run
from torch import Tensor

import varfast

Encode = Callable[[list[str]], tuple[Tensor, Tensor, Tensor]]  # features (N, T, C), position ids and mask (N, T)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; the defaults are those of upstream's script."""
    made = parser("HART with varfast")
    made.add_argument("--hart", type=Path, required=True, help="checkout of the upstream repository")
    made.add_argument("--model", type=Path, required=True, help="folder llm of hart-0.7b-1024px")
    made.add_argument("--text", required=True, help="Qwen2-VL-1.5B-Instruct, a folder or its name")
    made.add_argument("--tokens", type=int, default=300, help="of a prompt")
    made.add_argument("--cfg", type=float, default=4.5)
    made.add_argument("--smooth", action=argparse.BooleanOptionalAction, default=True, help="upstream's more_smooth")
    made.add_argument("--ema", action=argparse.BooleanOptionalAction, default=True, help="averaged weights")
    return made.parse_args(words)


def load(args: argparse.Namespace, device: torch.device) -> tuple[Any, Encode]:
    """Upstream's model, and what encodes prompts for it."""
    sys.path.insert(0, str(args.hart))
    from hart.modules.models.transformer import HARTForT2I  # noqa: F401 - tells transformers of the model's class
    from hart.utils import encode_prompts, llm_system_prompt
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(args.model).to(device).eval()
    if args.ema:
        model.load_state_dict(torch.load(args.model / "ema_model.bin", map_location=device))
    tokenizer, text = AutoTokenizer.from_pretrained(args.text), AutoModel.from_pretrained(args.text).to(device).eval()

    def encode(prompts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        _, mask, ids, features = encode_prompts(prompts, text, tokenizer, args.tokens, llm_system_prompt, True)
        return features, ids, mask

    return model, encode


def make_draw(args: argparse.Namespace, objects: Any, device: torch.device) -> Callable[[list[str]], Callable]:
    """What draws images of prompts by their numbers, through upstream's own method."""
    model, encode = objects
    varfast.patch(model, guidance=guidance(args))

    def of(prompts: list[str]) -> Callable[..., Tensor]:
        @torch.no_grad()
        def draw(labels: list[int], seeds: list[int]) -> Tensor:
            which = distinct(labels)
            rows = torch.tensor([which.index(label) for label in labels], device=device)
            torch.manual_seed(seeds[0])  # of the residual diffusion's noise, which upstream draws for a batch as one
            with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
                features, ids, mask = (part[rows] for part in encode([prompts[i] for i in which]))
                images = model.autoregressive_infer_cfg(
                    B=len(labels), label_B=features, g_seed=seeds, cfg=args.cfg, more_smooth=args.smooth,
                    context_position_ids=ids, context_mask=mask,
                )  # fmt: skip
            return images.float()

        return draw

    return of


def main(words: Sequence[str] | None = None) -> None:
    """Draws and scores."""
    args = arguments(words)
    device = device_of(args.device)
    run(args, make_draw(args, load(args, device), device), [args.model], ("text", "tokens", "cfg", "smooth", "ema"))


if __name__ == "__main__":
    main()
