"""Builds stand-alone programs that run CUDA kernels through csrc/simt, and runs them."""

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ["-std=c++20", "-O1", "-DVF_SIMT", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
FLAGS += ["-U_FORTIFY_SOURCE"]  # which some compilers define: it takes a _longjmp to another stack for a fault
FAULT = 70  # exit code of csrc/simt's reports


def build(source: Path, *flags: str, kernels: Path = ROOT / "csrc", cache: Path = ROOT / "build" / "simt") -> Path:
    """Compiles `source` once per content of the folders that it may include; returns the program."""
    folders = [kernels, ROOT / "tests" / "simt"]
    digest = hashlib.sha256(" ".join([*FLAGS, *flags]).encode())
    for folder in folders:
        for file in sorted(p for p in folder.rglob("*") if p.suffix in (".h", ".cu", ".cpp")):
            digest.update(file.read_bytes())
    cache.mkdir(parents=True, exist_ok=True)
    program = cache / f"{source.stem}-{digest.hexdigest()[:16]}"
    if not program.exists():
        scratch = program.with_name(f"{program.name}.{os.getpid()}")
        command = [os.environ.get("CXX", "g++"), *FLAGS, *flags, *(f"-I{folder}" for folder in folders), str(source)]
        subprocess.run([*command, "-o", str(scratch)], check=True, timeout=900)
        scratch.replace(program)
    return program


def run(
    program: Path,
    *arguments: str,
    timeout: float = 300,
    device: str = "sm_90",
    record: Path | None = None,
    blocks: str = "all",
) -> subprocess.CompletedProcess:
    """Runs a program whose launches are for `device` (csrc/simt/limits.h).

    `record`: of what its kernels take, by default the ops'. `blocks` "some": the first, the last and one at random;
    "all,some": all of the first launch.
    """
    environment = {**os.environ, "SIMT_DEVICE": device, "SIMT_BLOCKS": blocks}
    environment["SIMT_PTXAS"] = str(record or ROOT / "csrc" / "simt" / "ptxas.txt")
    command = [str(program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=environment)


def call(
    program: Path, data: bytes, folder: Path, *arguments: str, device: str = "sm_90", blocks: str = "all"
) -> bytes:
    """Hands `data` to the program and returns what it writes; anything it complains of is a failure."""
    given, results = folder / "in", folder / "out"
    given.write_bytes(data)
    done = run(program, str(given), str(results), *arguments, device=device, blocks=blocks)
    assert done.returncode == 0, done.stderr[-4000:]
    return results.read_bytes()


_BARRIER = re.compile(r"\b(?:barrier|cluster_barrier|team\.sync)\(\);")


def barriers(file: str) -> int:
    """Barriers of a block or a team in a file of csrc."""
    return len(_BARRIER.findall((ROOT / "csrc" / file).read_text()))


def without_barrier(file: str, which: int, folder: Path) -> Path:
    """A copy of csrc in `folder` with one barrier of a file removed."""
    copy = folder / "csrc"
    shutil.copytree(ROOT / "csrc", copy)
    text = (copy / file).read_text()
    found = list(_BARRIER.finditer(text))[which]
    (copy / file).write_text(text[: found.start()] + text[found.end() :])
    return copy


def edited(file: str, old: str, new: str, folder: Path) -> Path:
    """A copy of csrc in `folder` with one piece of a file replaced."""
    copy = folder / "csrc"
    shutil.copytree(ROOT / "csrc", copy)
    text = (copy / file).read_text()
    assert text.count(old) == 1, (file, old)
    (copy / file).write_text(text.replace(old, new))
    return copy
