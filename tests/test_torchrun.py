"""`varfast sample` and `generate` on several processes: the same files, whatever their number and whoever is killed."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
from tiny import ROWS_ALIKE, tiny_var

from varfast import _processes
from varfast.builtin.training import export_builtin

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
# Images that follow from the seed, slowly; each process leaves its number.
DRAW = """
import os, sys, time
from pathlib import Path
import torch
from varfast.generation import generate
out, count, formats = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(",")
pids = Path(sys.argv[4])
(pids / str(os.getpid())).touch()
torch.set_num_threads(1)
def draw(labels, seeds):
    time.sleep(0.02)
    return torch.stack([torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(s)) for s in seeds])
done = generate(draw, out, [0] * count, list(range(count)), formats=formats, settings={"made by": "a test"})
print(done.drawn)
"""


def run(processes: int, *words: object) -> subprocess.CompletedProcess:
    """`python -m ...` or a script under torchrun; with 0 processes without it."""
    starter = [*TORCHRUN, f"--nproc-per-node={processes}"] if processes else [sys.executable]
    return subprocess.run([*starter, *map(str, words)], capture_output=True, text=True, env=ENVIRONMENT)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_processes_write_the_files_of_one(tmp_path: Path) -> None:
    export_builtin(tiny_var(), tmp_path)
    words = ("sample", "--model", tmp_path / "builtin.safetensors", "-n", 20, "--format", "png,npz,webdataset")
    for processes in (2, 0):
        done = run(processes, "-m", "varfast", *words, "-o", tmp_path / f"{processes}")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("200 images in") == 1  # one of them speaks
    assert contents(tmp_path / "2") == contents(tmp_path / "0") and len(contents(tmp_path / "0")) == 204


def test_every_start_has_a_session_of_its_own_in_a_store_that_outlives_it() -> None:
    """torchrun's store outlives the processes that it restarts, those that died in the middle of this too."""
    store, names = dist.HashStore(), set()
    for _ in range(20):
        for died in (1, 2):
            store.set(f"hello {died}", "a word of one that died")
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(lambda rank: _processes.session(store, rank, 3), range(3)))
        assert len(set(found)) == 1
        names.add(found[0])
    assert len(names) == 20


@pytest.mark.slow
def test_torchrun_restarts_what_died(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(DRAW)
    (tmp_path / "pids").mkdir()
    assert run(0, tmp_path / "program.py", tmp_path / "whole", 3000, "png", tmp_path / "pids").returncode == 0
    words = ["--max-restarts=2", "--nproc-per-node=2", "program.py", "out", "3000", "png", "pids"]
    agent = subprocess.Popen([*TORCHRUN, *words], cwd=tmp_path, env=ENVIRONMENT)
    seen = {path.name for path in (tmp_path / "pids").iterdir()}
    while len(list((tmp_path / "out").glob("*.png"))) < 200:
        time.sleep(0.05)
    victim = next(path.name for path in (tmp_path / "pids").iterdir() if path.name not in seen)
    os.kill(int(victim), signal.SIGKILL)
    assert agent.wait(timeout=300) == 0 and len(list((tmp_path / "pids").iterdir())) == 5
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_what_is_wrong_in_one_process_ends_all(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        DRAW.replace(
            "    time.sleep(0.02)", "    if os.environ['RANK'] == '1': raise ValueError('no luck')\n    time.sleep(0.3)"
        )
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**ENVIRONMENT, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    words = [sys.executable, *map(str, (program, tmp_path / "out", 1000, "png", tmp_path))]
    started = [  # not by torchrun, whose agent would end the other one by itself
        subprocess.Popen(words, env={**shared, "RANK": n, "LOCAL_RANK": n}, stderr=subprocess.PIPE, text=True)
        for n in "01"
    ]
    errors = [process.communicate(timeout=60)[1] for process in started]
    assert all(process.returncode for process in started)
    assert "rank 1 of 2 failed, so rank 0 stops: no luck" in errors[0] and "ValueError: no luck" in errors[1]


def kill_at_random(tmp_path: Path, formats: str, moments: int, processes: int, count: int) -> None:
    """Kills one process or all at random moments, restarting the run each time; its files are the undisturbed ones."""
    program, whole = tmp_path / "program.py", tmp_path / "whole"
    program.write_text(DRAW)
    assert run(0, program, whole, count, formats, tmp_path).returncode == 0
    chance, seen, out, killed = random.Random(0), tmp_path / "seen", tmp_path / "out", 0
    for moment in range(moments):
        pids = tmp_path / f"pids-{moment}"
        pids.mkdir()
        words = [*TORCHRUN, f"--nproc-per-node={processes}", program, out, count, formats, pids]
        agent = subprocess.Popen(
            list(map(str, words)), env=ENVIRONMENT, start_new_session=True, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while len(list(pids.iterdir())) < processes and agent.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.15 + 0.02 * count / 64 / processes))
        if agent.poll() is None:
            killed += 1
            if moment % 2:
                os.killpg(agent.pid, signal.SIGKILL)
                for pid in pids.iterdir():  # torchrun starts each in a session of its own
                    subprocess.run(["kill", "-9", pid.name], capture_output=True, check=False)
            else:
                os.kill(int(chance.choice(sorted(pids.iterdir())).name), signal.SIGKILL)
        agent.wait()
        if (out / "settings.json").exists():
            seen.touch()
        # What is there under an image's name is whole, at any time.
        for path in [*out.glob("*.png"), *out.glob("*.npz")]:
            assert path.read_bytes() == (whole / path.name).read_bytes(), path.name
    done = run(processes, program, out, count, formats, tmp_path)
    assert done.returncode == 0, done.stderr
    assert killed and seen.exists() and contents(out) == contents(whole)


def test_killed_at_random_moments_the_files_are_those_of_an_undisturbed_run(tmp_path: Path) -> None:
    kill_at_random(tmp_path, "png,npz", moments=2, processes=2, count=1000)


@pytest.mark.slow
@pytest.mark.parametrize("formats", ["png,npz", "npz,webdataset"])
def test_killed_at_twenty_random_moments(tmp_path: Path, formats: str) -> None:
    kill_at_random(tmp_path, formats, moments=20, processes=3, count=5000)


@pytest.mark.slow
@pytest.mark.skipif(not ROWS_ALIKE, reason="the bits of this torch's products depend on the number of rows")
def test_2000_images_of_the_builtin_model_on_0_to_3_processes(tmp_path: Path) -> None:
    words = ("-m", "varfast", "sample", "-n", 200, "--classes", "all", "--format", "png,npz")
    found = []
    for processes in range(4):
        done = run(processes, *words, "-o", tmp_path / f"{processes}")
        assert done.returncode == 0, done.stderr
        found.append(contents(tmp_path / f"{processes}"))
    assert all(files == found[0] for files in found) and len(found[0]) == 2003
    assert np.load(tmp_path / "3" / "samples.npz")["arr_0"].shape == (2000, 32, 32, 3)


@pytest.mark.slow
@pytest.mark.parametrize("formats", ["png,npz", "npz,webdataset"])
def test_a_disk_that_was_full_and_has_room_again(tmp_path: Path, formats: str) -> None:
    """On a tmpfs of its own, in a mount namespace."""
    program, pids = tmp_path / "program.py", tmp_path / "pids"
    program.write_text(DRAW)
    pids.mkdir()
    (tmp_path / "disk").mkdir()
    assert run(0, program, tmp_path / "whole", 3000, formats, pids).returncode == 0
    torchrun = " ".join([*TORCHRUN, "--nproc-per-node=2", "program.py", "disk/out", "3000", formats, "pids"])
    script = f"""
    mount -t tmpfs -o size=2m,nr_inodes=100k tmpfs disk || exit 99
    {torchrun} && exit 98
    find disk -name 'new-*' | grep . && exit 97
    mount -o remount,size=64m disk && {torchrun} && cp -r disk/out out
    """
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True
    )
    if done.returncode == 99:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr}")
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    assert "No space left on device" in done.stderr
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
