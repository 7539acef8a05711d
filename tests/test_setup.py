"""What setup.py decides: which torch and tools, CUDA or not, what CMake may remember, what a source archive holds."""

import os
import shutil
import sys
import tarfile
from pathlib import Path

import pytest
from native import ROOT, run, tool

pytestmark = pytest.mark.source_tree


def functions_of_setup() -> dict:
    names: dict = {"__file__": str(ROOT / "setup.py")}
    exec((ROOT / "setup.py").read_text().split("\nclass FreshBuild")[0], names)
    return names


def copy_of_the_sources(folder: Path) -> Path:
    """The repository's files as they are now, without anything that was built."""
    for name in run(tool("git"), "ls-files", cwd=ROOT).splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def fake_torch(folder: Path, version: str = "2.13.0+cpu", cuda: str = "None") -> Path:
    for name in ("include/torch/csrc/stable/library.h", "lib/libtorch_cpu.so", "lib/libc10.so", "__init__.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "version.py").write_text(f"__version__ = '{version}'\ncuda: Optional[str] = {cuda}\n")
    return folder


def environment(folder: Path, torch: bool = False) -> Path:
    """A virtual environment without anything, or with a torch alone."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    (site,) = folder.glob("lib/python3*/site-packages")
    if torch:
        fake_torch(site / "torch")
    return folder


@pytest.fixture
def isolated(tmp_path, monkeypatch) -> dict:
    """setup.py's functions as an isolated build sees them: an interpreter without torch, nothing active."""
    built_with = environment(tmp_path / "isolated")
    names = functions_of_setup()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "executable", str(built_with / "bin" / "python"))
    for variable in ("VARFAST_TORCH_DIR", "CONDA_PREFIX"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("VIRTUAL_ENV", str(built_with))  # uv sets it so
    monkeypatch.setenv("PATH", str(built_with / "bin"))
    monkeypatch.setenv("PWD", str(tmp_path / "somewhere" / "deep"))
    return names


def test_pip_s_isolated_build_takes_the_torch_of_the_environment_it_installs_into(isolated, tmp_path, monkeypatch):
    own = environment(tmp_path / "own env", torch=True)
    hidden = tmp_path / "pip-build-env"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys; sys.path = [p for p in sys.path if 'site-packages' not in p]")
    monkeypatch.setenv("PYTHONPATH", str(hidden))
    monkeypatch.setattr(sys, "executable", str(own / "bin" / "python"))
    assert isolated["find_torch"]().is_relative_to(own)
    # Of the environment's base, or of another folder that it reads: whatever its interpreter would import.
    overlay = environment(tmp_path / "overlay")
    (site,) = overlay.glob("lib/python3*/site-packages")
    (site / "base.pth").write_text(f"{next(own.glob('lib/python3*/site-packages'))}\n")
    monkeypatch.setattr(sys, "executable", str(overlay / "bin" / "python"))
    assert isolated["find_torch"]().is_relative_to(own)


@pytest.mark.parametrize("told", ["PATH", "CONDA_PREFIX", "PWD", "VARFAST_TORCH_DIR"])
def test_other_front_ends_take_the_torch_of_the_active_environment(told, isolated, tmp_path, monkeypatch):
    """uv and build make an environment of their own; what is active stands behind it."""
    active = environment(tmp_path / ("somewhere/.venv" if told == "PWD" else "active env"), torch=True)
    (torch,) = active.glob("lib/python3*/site-packages/torch")
    value = {
        "PATH": f"{os.environ['PATH']}{os.pathsep}{active / 'bin'}",
        "CONDA_PREFIX": active,
        "PWD": tmp_path / "somewhere" / "deep",
        "VARFAST_TORCH_DIR": torch,
    }[told]
    monkeypatch.setenv(told, str(value))
    assert isolated["find_torch"]() == torch


def test_without_a_torch_the_build_says_how_to_name_one(isolated, tmp_path, monkeypatch):
    with pytest.raises(
        SystemExit, match=r"torch >= 2\.10, and none is here: install torch first, activate .* --no-build-isolation"
    ):
        isolated["find_torch"]()
    old = environment(tmp_path / "old", torch=True)
    fake_torch(next(old.glob("lib/python3*/site-packages/torch")), version="2.9.1")
    monkeypatch.setenv("PATH", str(old / "bin"))
    with pytest.raises(SystemExit, match=r"none is here \(\S+torch is torch 2\.9\.1\): install"):
        isolated["find_torch"]()
    monkeypatch.setenv("VARFAST_TORCH_DIR", str(tmp_path))
    with pytest.raises(SystemExit, match=r"VARFAST_TORCH_DIR must name .* got '.*': it is no torch"):
        isolated["find_torch"]()


def test_no_front_end_is_told_to_fetch_a_torch(isolated, tmp_path, monkeypatch):
    """setup_requires, which a front end installs into the isolated environment."""
    asked = {}
    monkeypatch.setattr("setuptools.setup", lambda **named: asked.update(named))
    exec((ROOT / "setup.py").read_text(), {"__file__": str(ROOT / "setup.py"), "__name__": "setup"})
    assert asked["ext_modules"] and not asked.get("setup_requires")


def test_without_isolation_the_build_says_what_to_install(monkeypatch):
    names = functions_of_setup()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit) as caught:
        names["find_tools"]()
    assert str(caught.value) == (
        "building varfast without isolation needs cmake and ninja: pip install 'cmake>=3.20' ninja"
    )
    monkeypatch.setattr("setuptools.__version__", "65.5.0")
    with pytest.raises(SystemExit, match=r"needs setuptools >= 77, got 65\.5\.0"):
        functions_of_setup()


def test_an_empty_variable_is_an_unset_one(tmp_path, monkeypatch):
    configure = functions_of_setup()["configure"]
    for name in ("VARFAST_CUDA_ARCHS", "VARFAST_BUILD_DIR", "VARFAST_WERROR"):
        monkeypatch.delenv(name, raising=False)
    plain = configure(tmp_path, tmp_path, None)
    assert plain[0] == ROOT / "build" / "cmake"
    assert {"-UVARFAST_CUDA_ARCHS", "-DVARFAST_WERROR=OFF"} <= set(plain[1])
    monkeypatch.setenv("VARFAST_CUDA_ARCHS", "90")
    monkeypatch.setenv("VARFAST_BUILD_DIR", str(tmp_path))
    monkeypatch.setenv("VARFAST_WERROR", "on")
    tree, command = configure(tmp_path, tmp_path, "nvcc")
    assert tree == tmp_path
    assert {"-DVARFAST_CUDA_ARCHS=90", "-DCMAKE_CUDA_COMPILER=nvcc", "-DVARFAST_WERROR=ON"} <= set(command)
    for name in ("VARFAST_CUDA_ARCHS", "VARFAST_BUILD_DIR", "VARFAST_WERROR"):
        monkeypatch.setenv(name, "")
    assert configure(tmp_path, tmp_path, None) == plain


TINY = 'cmake_minimum_required(VERSION 3.20)\nproject(x CXX)\nadd_library(x STATIC x.cpp)\nset(A 1 CACHE STRING "")\n'


def test_cmake_forgets_what_was_found_for_another_build(tmp_path, monkeypatch, capfd):
    """Tools of pip's isolated environment that are gone, sources that moved, another compiler; objects stay."""
    prepare = functions_of_setup()["prepare"]
    monkeypatch.delenv("CXX", raising=False)
    source, tree = tmp_path / "a source", tmp_path / "tree"
    source.mkdir()
    (source / "CMakeLists.txt").write_text(TINY)
    (source / "x.cpp").write_text("int x() { return 1; }\n")

    def build(name: str, *options: str) -> str:
        """Builds with tools that lie elsewhere each time, and returns what was done."""
        ninja = tmp_path / name / "ninja"
        ninja.parent.mkdir(exist_ok=True)
        shutil.copy(shutil.which("ninja"), ninja)
        prepare(
            tree,
            [
                tool("cmake"),
                "-S",
                str(source),
                "-B",
                str(tree),
                "-G",
                "Ninja",
                f"-DCMAKE_MAKE_PROGRAM={ninja}",
                *options,
            ],
        )
        capfd.readouterr()
        run(tool("cmake"), "--build", tree)
        said = (tree / "CMakeCache.txt").read_text()
        shutil.rmtree(ninja.parent)
        return said

    assert "\nA:STRING=2\n" in build("first", "-DA=2")
    made = (tree / "CMakeFiles/x.dir/x.cpp.o").stat().st_mtime_ns
    assert "\nA:STRING=1\n" in build("second")  # nor does an option stay that nobody sets any more
    assert (tree / "CMakeFiles/x.dir/x.cpp.o").stat().st_mtime_ns == made
    source.rename(tmp_path / "moved")
    source = tmp_path / "moved"
    build("third")
    compiler = tmp_path / "other-c++"
    compiler.symlink_to(tool("c++"))
    monkeypatch.setenv("CXX", str(compiler))
    assert f"={compiler}\n" in build("third")
    # The same command again: nothing is looked for again.
    marker = tree / "CMakeCache.txt"
    marker.write_text(marker.read_text() + "KEPT:STRING=yes\n")
    assert "KEPT:STRING=yes\n" in build("third")


def test_cuda_is_built_for_a_torch_that_runs_it(tmp_path, monkeypatch):
    setup = functions_of_setup()
    torches = {
        "cpu": fake_torch(tmp_path / "cpu"),
        "12": fake_torch(tmp_path / "12", "2.10.0+cu128", "'12.8'"),
        "13": fake_torch(tmp_path / "13", "2.13.0", "'13.0'"),
    }
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.88'\n")
    nvcc.chmod(0o755)
    choose = setup["cuda_compiler"]
    cases = [  # VARFAST_CUDA, torch, is nvcc there: is it used, and why
        ("auto", "cpu", True, False, "this torch has no CUDA"),
        ("auto", "13", True, True, "this torch is for CUDA 13.0"),
        ("", "13", True, True, "this torch is for CUDA 13.0"),
        ("auto", "12", True, False, "is of CUDA 13, this torch of 12.8"),
        ("auto", "13", False, False, "there is no nvcc"),
        ("off", "13", True, False, "VARFAST_CUDA=off"),
        ("on", "cpu", True, True, "VARFAST_CUDA=on"),
        ("on", "12", True, True, "VARFAST_CUDA=on"),
    ]
    for choice, torch, there, used, why in cases:
        monkeypatch.setenv("VARFAST_CUDA", choice)
        setup["find_nvcc"] = lambda there=there: str(nvcc) if there else None
        compiler, reason = choose(torches[torch])
        assert (compiler == str(nvcc)) == used and why in reason, (choice, torch, reason)
    setup["find_nvcc"] = lambda: None
    with pytest.raises(SystemExit, match="VARFAST_CUDA=on needs nvcc"):
        choose(torches["13"])
    monkeypatch.setenv("VARFAST_CUDA", "perhaps")
    with pytest.raises(SystemExit, match="VARFAST_CUDA must be auto, on or off, got 'perhaps'"):
        choose(torches["cpu"])


def test_a_source_archive_is_the_repository_and_needs_no_torch(tmp_path):
    source = copy_of_the_sources(tmp_path / "a copy")
    (source / "varfast" / "_varfast_cpu.so").touch()
    hidden = {**os.environ, "VARFAST_TORCH_DIR": str(tmp_path / "none"), "PATH": "/usr/bin:/bin"}
    run(sys.executable, "setup.py", "-q", "sdist", "--formats=tar", cwd=source, env=hidden)
    (archive,) = (source / "dist").glob("varfast-*.tar")
    with tarfile.open(archive) as packed:
        held = {name.split("/", 1)[1] for name in packed.getnames() if "/" in name if packed.getmember(name).isfile()}
    made = {name for name in held if name in ("PKG-INFO", "setup.cfg") or name.startswith("varfast.egg-info/")}
    tracked = {name for name in run(tool("git"), "ls-files", cwd=ROOT).splitlines() if (ROOT / name).is_file()}
    assert held - made == tracked
