"""The rules of the house: every op in every room, who may import whom, file sizes, one table of variables."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import varfast
from varfast import _env, ops

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.source_tree

# What a room may import from varfast besides itself and modules that start with an underscore.
MAY_IMPORT = {
    "ops": {"checks", "reference", "triton_kernels"},
    "reference": set(),
    "triton_kernels": {"reference"},
    "sampler": {"checks", "guidance", "ops", "protocol", "reference"},
    "guidance": {"checks", "ops", "protocol"},
    "models": {"protocol"},
    "hosts": {"checks", "guidance", "models", "protocol", "sampler"},
    "metrics": set(),
    "builtin": {"metrics", "models", "sampler"},
    "generation": {"sampler"},
    "evaluation": {"Sampler", "builtin", "metrics", "models", "protocol"},
}
LIMITS = {
    "csrc/*/*": 400,
    "varfast/**/*.py": 300,
    "triton_kernels/*.py": 400,
    "tests/*.py": 400,
    "benchmarks/*.py": 300,
}


def tracked(pattern: str = "*") -> list[Path]:
    listed = subprocess.run(["git", "ls-files", pattern], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


@pytest.mark.parametrize("op", ops.__all__)
def test_an_op_has_its_file_in_every_room(op: str) -> None:
    rooms = [f"csrc/{op}/{op}_cpu.cpp", f"varfast/ops/{op}.py", f"varfast/reference/{op}.py", f"tests/test_{op}.py"]
    if op not in ("guided_sample", "sample"):  # their mathematics is guide's and that of a row (csrc/row)
        rooms.append(f"csrc/{op}/{op}.h")
    missing = [room for room in rooms if not (ROOT / room).is_file()]
    assert not missing
    assert op in re.search(r"set\(VARFAST_OPS ([^)]*)\)", (ROOT / "CMakeLists.txt").read_text())[1].split()  # type: ignore[index]


def test_no_room_holds_what_is_no_op() -> None:
    folders = {path.parent.name for path in tracked("csrc/*/*")} - {"common", "row", "simt"}
    kernels = {path.stem for path in tracked("triton_kernels/*.py") if not path.stem.startswith("_")}
    benches = {path.stem.removeprefix("bench_") for path in tracked("benchmarks/bench_*.py")} - {
        "sampler",
        "images",
        "hosts",
    }
    assert folders | kernels | benches <= set(ops.__all__)


def test_every_op_is_documented_in_full() -> None:
    for name in ops.__all__:
        text = getattr(ops, name).__doc__
        assert text and all(f"\n    {part}:" in text for part in ("Args", "Returns", "Raises", "Notes")), name


def imports(path: Path) -> set[str]:
    """Rooms of varfast that a file imports."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            whole = node.module == "varfast"
            names = [f"varfast.{alias.name}" for alias in node.names] if whole else [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("varfast.")}
    return {room for room in rooms if not room.startswith("_")}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    folder = "triton_kernels" if room == "triton_kernels" else f"varfast/{room}"
    for path in tracked(f"{folder}/*.py"):
        assert imports(path) <= MAY_IMPORT[room] | {room}, path.relative_to(ROOT)


def test_native_code_knows_no_python_and_mathematics_no_torch() -> None:
    for path in [*tracked("csrc/*.cpp"), *tracked("csrc/*.h"), *tracked("csrc/*.cu")]:
        included = re.findall(r'#include\s+[<"]([^>"]+)', path.read_text())
        if path.name != "info.cpp":
            assert not [name for name in included if "pybind11" in name or name == "Python.h"], path
        assert not [name for name in included if name.startswith(("ATen/", "c10/"))], path
        if path.stem in ops.__all__:
            assert not [name for name in included if name.startswith("torch/")], path


def names_of(text: str) -> tuple[list[str], list[str]]:
    """What a C++ text defines: types and constants of its namespace, then constants and template parameters within."""
    types = re.findall(r"^(?:struct|class|enum|enum class) (\w+)(?: : \w+)? \{", text, re.MULTILINE)
    constants = "\n".join(re.findall(r"^constexpr [^;]*;", text, re.MULTILINE))
    inner = "\n".join(re.findall(r"^ +(?:static )?constexpr [^;]*;", text, re.MULTILINE))
    templates = "\n".join(re.findall(r"template <[^>]*>", text))
    return (
        types + re.findall(r"\b(k[A-Z]\w*)(?:\[\w*\])? = ", constants),
        re.findall(r"\b(k[A-Z]\w*)(?:\[\w*\])? = ", inner) + re.findall(r"\b(k[A-Z]\w*)", templates),
    )


def test_a_name_of_native_code_means_one_thing() -> None:
    """Lanes have one name in every instruction set; apart from those, kChunk is not 16 here and 128 there."""
    assert names_of("struct A {\nconstexpr int kB = 1,\n  kC = kB;\n  constexpr int kD = 2;\ntemplate <int kE>\n") == (
        ["A", "kB", "kC"],
        ["kD", "kE"],
    )
    everywhere: dict[str, list[str]] = {}
    inner: dict[str, set[str]] = {}
    for path in [*tracked("csrc/*.cpp"), *tracked("csrc/*.h"), *tracked("csrc/*.cu")]:
        if path.parent.name == "simt" or path.name.startswith("lanes"):
            continue
        file = str(path.relative_to(ROOT))
        shared, local = names_of(path.read_text())
        for name in shared:
            everywhere.setdefault(name, []).append(file)
        for name in local:
            inner.setdefault(name, set()).add(file)
    twice = {name: [*files, *inner.get(name, ())] for name, files in everywhere.items()}
    assert not {name: files for name, files in twice.items() if len(files) > 1}


@pytest.mark.parametrize("pattern", LIMITS)
def test_files_are_short(pattern: str) -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in tracked(f":(glob){pattern}")
        if path.suffix in (".py", ".h", ".cpp", ".cu")
        and (count := len(path.read_text().splitlines())) > LIMITS[pattern]
    }
    assert not long


def test_readme_lists_the_environment_variables() -> None:
    rows = re.findall(r"^\| `(VARFAST_\w+)` \| (.+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert dict(rows) == _env.VARIABLES


def test_readme_lists_the_ops() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert [name for name in rows if not name.startswith("VARFAST")] == list(ops.__all__)


def test_every_variable_that_is_read_is_in_the_table() -> None:
    texts = [path.read_text() for path in tracked() if path.suffix in (".py", ".h", ".cpp", ".cu", ".txt", "")]
    found = {name for text in texts for name in re.findall(r"environ[^\n]*[\"'](VARFAST_\w+)", text)}
    assert found <= set(_env.VARIABLES)


def test_the_package_reads_its_variables_through_the_table() -> None:
    for path in tracked("varfast/*.py"):
        assert not re.search(r"environ[^\n]*VARFAST|getenv", path.read_text()), path.relative_to(ROOT)


def test_the_package_depends_on_what_it_imports() -> None:
    found = set()
    for path in [*tracked("varfast/*.py"), *tracked("triton_kernels/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
    found = {name.split(".")[0] for name in found} - set(sys.stdlib_module_names) - {"varfast"}
    text = (ROOT / "pyproject.toml").read_text()
    needed = re.findall(r"[\w-]+", re.search(r"^dependencies = \[(.*?)^\]", text, re.M | re.S)[1])  # type: ignore[index]
    needed = {"PIL" if name == "pillow" else name for name in needed if name[0].isalpha()}
    assert needed <= found <= needed | {"triton", "huggingface_hub", "torch_fidelity", "webdataset"}


def test_triton_launches_where_the_tensors_are() -> None:
    """Outside of `with torch.cuda.device_of(...)` a kernel starts on the current GPU, wherever its arguments are."""
    guarded, launches = set(), set()
    for path in tracked("triton_kernels/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.With) and "torch.cuda.device_of(" in ast.unparse(node.items[0]):
                guarded |= {(path.name, inner.lineno) for inner in ast.walk(node) if isinstance(inner, ast.Call)}
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript):
                launches.add((path.name, node.lineno))
    # make_prior and write_prior are called by guide and dse_prior, inside of theirs.
    assert launches and {place for place in launches - guarded if place[0] != "_prior.py"} == set()


def test_no_path_of_a_machine() -> None:
    """A path of somebody's own folders in a source file would mean nothing elsewhere."""
    pattern = re.compile(r"(?<![\w./])/(home|work|root|Users|opt|mnt)/\w")
    text_files = (".py", ".h", ".cpp", ".cu", ".toml", ".txt", ".md", ".json", ".cmake", "")
    for path in tracked():
        if path.suffix in text_files and path != Path(__file__).resolve():
            assert not pattern.search(path.read_text()), path.relative_to(ROOT)


def test_what_the_package_exports_is_there() -> None:
    assert all(hasattr(varfast, name) for name in varfast.__all__)


# What torch makes on the default device, and of the default dtype where the arguments are floats or none.
OF_DEFAULT_DTYPE = set("tensor as_tensor arange zeros ones full empty rand randn linspace logspace eye".split())  # noqa: SIM905
ON_DEFAULT_DEVICE = OF_DEFAULT_DTYPE | {"randint", "randperm", "Generator"}


def unnamed_defaults(text: str) -> list[str]:
    """The calls in a source text that make a tensor or generator as `torch.set_default_device` or `_dtype` say."""
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    # A module is made like torch's own modules; what loads one makes it on the meta device and assigns its tensors.
    modules = [call for call in calls if ast.unparse(call.func).endswith(("nn.Parameter", ".register_buffer"))]
    allowed = {inner for call in modules for inner in ast.walk(call)}
    wrong = []
    for call in calls:
        name, given = ast.unparse(call.func).removeprefix("torch."), {word.arg for word in call.keywords}
        if not ast.unparse(call.func).startswith("torch.") or name not in ON_DEFAULT_DEVICE or call in allowed:
            continue
        needed = {"device"} if not (name == "Generator" and call.args) else set()
        # A tensor or a list of whole numbers keeps its own: FlexVAR's invalid ids may be a mask.
        needed |= {"dtype"} if name in OF_DEFAULT_DTYPE and "invalid_ids" not in ast.unparse(call) else set()
        if needed - given:
            wrong.append(f"{call.lineno}: {ast.unparse(call)} lacks {', '.join(sorted(needed - given))}")
    return wrong


def test_every_tensor_names_its_dtype_and_device() -> None:
    assert unnamed_defaults("torch.zeros(3)") and unnamed_defaults("torch.Generator()")
    paths = [*tracked("varfast/*.py"), *tracked("triton_kernels/*.py")]
    assert not {str(path.relative_to(ROOT)): wrong for path in paths if (wrong := unnamed_defaults(path.read_text()))}
