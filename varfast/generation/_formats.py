"""Files of many images: ADM's npz and webdataset's tar, written from blocks, never held as a whole."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from varfast._extras import needs
from varfast._png import png

with needs("cli", "files of images"):
    import numpy as np
    from PIL import Image


def check_webdataset() -> Any:
    """The module; ImportError, saying how to get it, where it is not installed."""
    with needs("shards", "formats: webdataset"):
        import webdataset
    return webdataset


def write_npz(path: Path, labels: Sequence[int], blocks: Iterable[np.ndarray]) -> None:
    """An uncompressed .npz as ADM's scripts write it: arr_0 uint8 (N, H, W, 3), arr_1 int64 (N,), the labels."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as file:
            for number, block in enumerate(blocks):
                if not number:
                    shape = (len(labels), *block.shape[1:])
                    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(np.ascontiguousarray(block).data)
        with archive.open("arr_1.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array(file, np.asarray(labels, dtype=np.int64))


def write_shard(path: Path, samples: Iterator[tuple[int, int, int, np.ndarray]]) -> None:
    """A tar file for webdataset, of (index, label, seed, pixels): the key is the index, with a .png, .cls and .json."""
    webdataset = check_webdataset()
    with open(path, "wb") as file, webdataset.TarWriter(file, mtime=0) as writer:
        for index, label, seed, pixels in samples:
            said = json.dumps({"label": label, "seed": seed})
            content = png(Image.fromarray(pixels))
            writer.write({"__key__": f"{index:08d}", "png": content, "cls": str(label).encode(), "json": said.encode()})
