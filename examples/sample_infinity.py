"""Infinity with varfast: many images of many prompts, on any number of GPUs.

    torchrun --nproc-per-node 8 examples/sample_infinity.py --infinity Infinity --model infinity_2b_reg.pth \\
        --vae infinity_vae_d32reg.pth --t5 flan-t5-xl --layout geneval --prompts evaluation_metadata.jsonl \\
        --ssg 0.3 --out geneval

`--infinity` is a checkout of github.com/FoundationVision/Infinity, whose own functions load its objects.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from many_prompts import device_of, distinct, guidance, parser, run
from torch import Tensor

import varfast


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; the defaults are of the 2B model at a megapixel, as upstream's scripts run it."""
    made = parser("Infinity with varfast", batch=4)
    made.add_argument("--infinity", type=Path, required=True, help="checkout of the upstream repository")
    made.add_argument("--model", required=True, help="infinity_2b_reg.pth")
    made.add_argument("--vae", required=True, help="infinity_vae_d32reg.pth")
    made.add_argument("--t5", required=True, help="google/flan-t5-xl, a folder or its name")
    made.add_argument("--model-type", default="infinity_2b")
    made.add_argument("--vae-type", type=int, default=32, help="bits of a code")
    made.add_argument("--patchify", type=int, default=0)
    made.add_argument("--pn", default="1M", help="0.06M, 0.25M or 1M pixels")
    made.add_argument("--ratio", type=float, default=1.0, help="height by width, one of upstream's")
    made.add_argument("--scaling-scale", type=int, default=3, help="the scale of --var-scaling, from 0")
    made.add_argument("--cfg", type=float, default=4.0)
    made.add_argument("--tau", type=float, default=0.5)
    made.add_argument("--top-k", type=int, default=900)
    made.add_argument("--top-p", type=float, default=0.97)
    return made.parse_args(words)


def load(args: argparse.Namespace) -> tuple[Any, Any, Any, Any, list[tuple[int, int, int]]]:
    """Upstream's model, VAE, tokenizer, text encoder and scales, on the current GPU."""
    sys.path.insert(0, str(args.infinity))
    from infinity.utils.dynamic_resolution import dynamic_resolution_h_w
    from tools.run_infinity import load_tokenizer, load_transformer, load_visual_tokenizer

    theirs = argparse.Namespace(
        model_path=args.model, vae_path=args.vae, model_type=args.model_type, vae_type=args.vae_type, pn=args.pn,
        apply_spatial_patchify=args.patchify, text_channels=2048, use_bit_label=1, use_flex_attn=0, bf16=1,
        add_lvl_embeding_only_first_block=1, rope2d_each_sa_layer=1, rope2d_normalized_by_hw=2,
        use_scale_schedule_embedding=0, checkpoint_type="torch", enable_model_cache=0, cache_dir="",
    )  # fmt: skip
    tokenizer, encoder = load_tokenizer(t5_path=args.t5)
    vae = load_visual_tokenizer(theirs)
    model = load_transformer(vae, theirs)
    scales = [(1, h, w) for _, h, w in dynamic_resolution_h_w[args.ratio][args.pn]["scales"]]
    return model, vae, tokenizer, encoder, scales


@torch.no_grad()
def encode(tokenizer: Any, encoder: Any, prompts: list[str], device: torch.device) -> list[Tensor]:
    """Features (T, C) float32 of each prompt, T its number of tokens."""
    tokens = tokenizer(text=prompts, max_length=512, padding="max_length", truncation=True, return_tensors="pt")
    ids, mask = tokens.input_ids.to(device), tokens.attention_mask.to(device)
    features = encoder(input_ids=ids, attention_mask=mask)["last_hidden_state"].float()
    return [row[:length] for row, length in zip(features, mask.sum(1).tolist(), strict=True)]


def pack(parts: list[Tensor]) -> tuple[Tensor, list[int], Tensor, int]:
    """Upstream's packed text: features one after the other, lengths, where each ends, the longest."""
    lengths = [len(part) for part in parts]
    ends = torch.tensor(lengths, device=parts[0].device).cumsum(0).to(torch.int32)
    return torch.cat(parts), lengths, F.pad(ends, (1, 0)), max(lengths)


def make_draw(args: argparse.Namespace, objects: Any, device: torch.device) -> Callable[[list[str]], Callable]:
    """What draws images of prompts by their numbers, through upstream's own method."""
    model, vae, tokenizer, encoder, scales = objects
    varfast.patch(model, guidance=guidance(args, scales=args.scaling_scale, rule="infinity"))

    def of(prompts: list[str]) -> Callable[..., Tensor]:
        def draw(labels: list[int], seeds: list[int]) -> Tensor:
            which = distinct(labels)
            features = dict(zip(which, encode(tokenizer, encoder, [prompts[i] for i in which], device), strict=True))
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                _, _, images = model.autoregressive_infer_cfg(
                    vae=vae, scale_schedule=scales, label_B_or_BLT=pack([features[i] for i in labels]), B=len(labels),
                    g_seed=seeds, cfg_list=[args.cfg] * len(scales), tau_list=[args.tau] * len(scales),
                    top_k=args.top_k, top_p=args.top_p, cfg_insertion_layer=[0], returns_vemb=1, vae_type=args.vae_type,
                    ret_img=True,
                )  # fmt: skip
            return images.flip(3).permute(0, 3, 1, 2).float() / 255  # upstream's are uint8 and blue first

        return draw

    return of


def main(words: Sequence[str] | None = None) -> None:
    """Draws and scores."""
    args = arguments(words)
    device = device_of(args.device)
    options = (
        "model_type",
        "vae_type",
        "patchify",
        "pn",
        "ratio",
        "cfg",
        "tau",
        "top_k",
        "top_p",
        "t5",
        "scaling_scale",
    )
    run(args, make_draw(args, load(args), device), [args.model, args.vae], options)


if __name__ == "__main__":
    main()
