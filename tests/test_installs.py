"""Real installs, as users make them, each build beginning in what the one before left. Needs a package index."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from native import run, tool
from test_setup import copy_of_the_sources

pytestmark = [pytest.mark.source_tree, pytest.mark.slow]

USE = """
import torch, varfast
ids = varfast.ops.sample(torch.arange(24.0).reshape(1, 2, 12), seeds=torch.tensor([3]), top_k=1)
print(varfast.__file__, ids.flatten().tolist())
"""


class Place:
    """A copy of the sources and an environment, both under a path with spaces; torch is this environment's."""

    def __init__(self, folder: Path) -> None:
        self.source = copy_of_the_sources(folder / "var fast")
        self.folder = folder
        run(sys.executable, "-m", "venv", folder / "my env")
        self.python = folder / "my env" / "bin" / "python"
        (site,) = (folder / "my env").glob("lib/python3*/site-packages")
        (site / "base.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")) + "\n")
        self.environment = {
            **os.environ,
            "VARFAST_CUDA": "off",
            "CCACHE_BASEDIR": str(self.source),
            "PYTHONPATH": "",
            "VARFAST_BUILD_DIR": "",
            "VARFAST_TORCH_DIR": "",
        }

    def pip(self, *arguments: object) -> str:
        """Runs pip, and returns all that it says: the words of the build are on stderr."""
        command = 'exec "$0" -m pip --disable-pip-version-check "$@" 2>&1'
        return run("sh", "-c", command, self.python, *arguments, cwd=self.source, env=self.environment)

    def installed(self) -> Path:
        """Where Python finds the package; that it draws is checked on the way."""
        said = run(self.python, "-c", USE, cwd=self.folder, env=self.environment).strip()
        file, ids = said.split("/__init__.py ")
        assert ids == "[11, 11]"
        return Path(file)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp("a b"))


def test_one_folder_can_be_installed_from_again_and_again(place):
    """pip deletes the environment of each build, which CMake's cache speaks of."""
    fetched = ""
    for arguments in (["."], ["."], ["-e", "."], ["."], ["--no-build-isolation", "-e", "."], ["."]):
        fetched += place.pip("install", "-v", *arguments)
        where = place.source / "varfast" if "-e" in arguments else place.folder / "my env"
        assert place.installed().is_relative_to(where), arguments
    assert "the CPU library alone (VARFAST_CUDA=off), with torch" in fetched
    assert "Collecting torch" not in fetched


def test_a_source_archive_installs(place, tmp_path):
    run(place.python, "setup.py", "-q", "sdist", "-d", tmp_path, cwd=place.source, env=place.environment)
    (archive,) = tmp_path.glob("varfast-*.tar.gz")
    place.pip("uninstall", "-q", "-y", "varfast")
    place.environment["CCACHE_BASEDIR"] = str(tmp_path)
    place.pip("install", "-q", archive)
    assert place.installed().is_relative_to(place.folder / "my env")


def test_a_git_repository_installs(place, tmp_path):
    repository = copy_of_the_sources(tmp_path / "var fast")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "all"]):
        run(tool("git"), *words, cwd=repository)
    place.pip("uninstall", "-q", "-y", "varfast")
    said = place.pip("install", "-v", "--no-deps", f"git+{repository.as_uri()}")
    assert place.installed().is_relative_to(place.folder / "my env") and "Collecting torch" not in said


def test_uv_installs_and_fetches_no_torch(place):
    """uv builds in an environment of its own, and does not see a torch that a .pth file lends: hence --no-deps."""
    uv = [tool("uv"), "pip", "install", "-v", "--no-deps", "--reinstall", "--python", place.python, "."]
    environment = {**place.environment, "VIRTUAL_ENV": str(place.python.parent.parent)}
    done = subprocess.run(uv, cwd=place.source, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert place.installed().is_relative_to(place.folder / "my env")
    fetched = [line for line in done.stderr.splitlines() if "torch-" in line and ".whl" in line]
    assert not fetched and "cmake" in done.stderr


def test_clang_builds_it(place, monkeypatch):
    monkeypatch.setitem(place.environment, "CXX", tool("clang++"))
    place.pip("install", "-q", "--force-reinstall", "--no-deps", ".")
    assert place.installed().is_relative_to(place.folder / "my env")
    said = run(place.python, "-c", "import varfast.build_info as b; print(b.build_compiler())", cwd=place.folder,
               env=place.environment)  # fmt: skip
    assert said.startswith("Clang")


def test_without_a_network_it_builds_with_what_is_there(place):
    if subprocess.run([tool("unshare"), "-rn", "true"], capture_output=True).returncode:
        pytest.skip("needs user namespaces")
    command = [
        place.python,
        "-m",
        "pip",
        "install",
        "-q",
        "--force-reinstall",
        "--no-deps",
        "--no-build-isolation",
        ".",
    ]
    run("unshare", "-rn", *command, cwd=place.source, env=place.environment)
    assert place.installed().is_relative_to(place.folder / "my env")


def test_sources_that_cannot_be_written_to_are_built_elsewhere(place):
    """A folder mounted read-only, in a namespace of its own."""
    inside = f'mount --bind -o ro "{place.source}" "{place.source}" && exec "$@"'
    if subprocess.run([tool("unshare"), "-rm", "true"], capture_output=True).returncode:
        pytest.skip("needs user namespaces")
    before = sorted(place.source.rglob("*"))
    command = [place.python, "-m", "pip", "install", "-q", "--force-reinstall", "--no-deps", "."]
    run("unshare", "-rm", "sh", "-c", inside, "sh", *command, cwd=place.source, env=place.environment)
    assert place.installed().is_relative_to(place.folder / "my env")
    assert sorted(place.source.rglob("*")) == before


def test_cuda_sources_compile_under_a_path_with_spaces(place):
    """nvcc hands the flags of the host's compiler to a shell; one architecture and one op will do."""
    tool("nvcc")
    tree = place.source / "build" / "cuda"
    object_file = "CMakeFiles/varfast_cuda.dir/csrc/smooth_embed/smooth_embed_cuda.cu.o"
    options = ["-DVARFAST_CUDA=ON", "-DVARFAST_WERROR=ON", "-DVARFAST_CUDA_ARCHS=90"]
    torch = Path(importlib.util.find_spec("torch").origin).parent
    run(tool("cmake"), "-S", place.source, "-B", tree, "-G", "Ninja", *options, f"-DTORCH_DIR={torch}")
    run(tool("ninja"), "-C", tree, object_file)
    made = (tree / object_file).read_bytes()
    assert b"\0csrc/smooth_embed/smooth_embed_cuda.cu\0" in made
    assert os.fsencode(place.folder) not in made
