"""Images on disk: single PNG files and labelled pictures of many."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from varfast._extras import needs
from varfast._png import png, to_pixels
from varfast.files import atomic_write

with needs("cli", "pictures"):
    from PIL import Image, ImageDraw, ImageFont

INK, FAINT, PAPER = (24, 26, 32), (120, 124, 134), (255, 255, 255)
TILE = 64  # shortest side that a tile is enlarged to
GAP, GROUP_GAP, MARGIN = 3, 12, 20


@dataclass(frozen=True)
class Row:
    """One row of a picture: what it is called, a smaller line below that, and its tiles (N, channels, H, W)."""

    title: str
    details: str
    images: Tensor


def write_png(path: Path, image: Image.Image) -> None:
    """Writes a PNG so that a reader finds a whole file or none."""
    content = png(image)
    atomic_write(path, lambda target: target.write_bytes(content))


def picture(rows: Sequence[Row], columns: Sequence[str], title: str = "") -> Image.Image:
    """A labelled picture: one row of tiles each, columns in equal groups headed by `columns`."""
    count, height, width = rows[0].images.shape[0], *rows[0].images.shape[2:]
    if not columns or count % len(columns) or any(len(row.images) != count for row in rows):
        raise ValueError(f"rows must hold equally many images, a multiple of {len(columns)} columns, got {count}")
    group = count // len(columns)
    zoom = max(1, -(-TILE // min(height, width)))
    tile_w, tile_h = width * zoom, height * zoom
    large, small = ImageFont.load_default(17), ImageFont.load_default(12)
    # A label may take as many lines as fit beside a tile.
    lines_free = max(1, (tile_h - 22) // 15)
    wrapped = [textwrap.wrap(row.details, 30, max_lines=lines_free, placeholder=" …") for row in rows]
    label_w = int(max([large.getlength(r.title) for r in rows] + [small.getlength(x) for w in wrapped for x in w]))
    left = MARGIN + label_w + (MARGIN if label_w else 0)
    top = MARGIN + (34 if title else 0) + 24
    full_w = left + count * (tile_w + GAP) + (len(columns) - 1) * GROUP_GAP + MARGIN - GAP
    full_h = top + len(rows) * (tile_h + GROUP_GAP) - GROUP_GAP + MARGIN
    canvas = Image.new("RGB", (full_w, full_h), PAPER)
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((MARGIN, MARGIN - 4), title, INK, ImageFont.load_default(20))

    def x_of(column: int) -> int:
        return left + column * (tile_w + GAP) + (column // group) * GROUP_GAP

    for index, name in enumerate(columns):
        centre = (x_of(index * group) + x_of((index + 1) * group - 1) + tile_w) / 2
        draw.text((centre, top - 6), name, FAINT, small if small.getlength(name) > group * tile_w else large, "ms")
    for index, (row, lines) in enumerate(zip(rows, wrapped, strict=True)):
        y = top + index * (tile_h + GROUP_GAP)
        text_y = y + max(0, (tile_h - 22 - 15 * len(lines)) // 2)
        draw.text((MARGIN, text_y), row.title, INK, large)
        for n, line in enumerate(lines):
            draw.text((MARGIN, text_y + 24 + 15 * n), line, FAINT, small)
        for column, pixels in enumerate(to_pixels(row.images)):
            tile = Image.fromarray(pixels).resize((tile_w, tile_h), Image.Resampling.BICUBIC)
            canvas.paste(tile, (x_of(column), y))
    return canvas
