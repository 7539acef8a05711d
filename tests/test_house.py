"""The rules of the house: every op in every room, who may import whom, file sizes, one table of variables."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from modules import MODULES, ROOT, back_doors, circles, imports, lacking, private_names, tracked

import varfast
from varfast import _env, ops

pytestmark = pytest.mark.source_tree

# What a module or room may import from varfast besides its own room, by room or by module; the longest name that fits
# a module counts. Below come only names that stand above: a module that would need a later one belongs further down.
MAY_IMPORT: dict[str, set[str]] = {
    "_env": set(),
    "_extras": set(),
    "_autograd": set(),
    "checks": set(),
    "schemas": set(),
    "files": set(),
    "pixels": set(),
    "protocol": set(),
    "console": {"_extras"},
    "_processes": set(),
    "_png": {"_extras", "pixels"},
    "reference": {"schemas"},
    "triton_kernels": {"reference", "schemas"},
    "build_info": set(),
    "_library": {"_env", "build_info", "triton_kernels"},
    "ops": {"_autograd", "_library", "checks", "reference", "schemas"},
    "guidance": {"checks", "ops", "protocol"},
    "sampler": {"checks", "guidance", "ops", "protocol"},
    "sampler._cost": {"protocol"},
    "sampler._draws": {"ops", "protocol", "reference.philox"},
    "presets": {"guidance"},
    "calibration": {"guidance", "ops", "protocol", "sampler"},
    "models": {"_extras", "files", "protocol"},
    "hosts": {"checks", "guidance", "models", "protocol", "sampler"},
    "metrics": set(),
    "metrics.foreign": {"_extras"},
    "metrics.images": {"_extras", "files"},
    "metrics.inception": {"_extras", "files"},
    "metrics.rows": {"_extras"},
    "metrics.store": {"_extras", "files"},
    "verification": {"hosts", "protocol"},
    "builtin": {"_env", "_extras", "files", "metrics", "pixels"},
    "builtin.names": set(),
    "builtin.training": {"_extras", "_processes", "console", "files", "models", "pixels", "sampler"},
    "generation": {"_extras", "_png", "_processes", "console", "files", "sampler"},
    "generation.layouts": set(),
    "evaluation": {"builtin", "files", "metrics", "models", "pixels", "protocol", "sampler"},
    "cli": {
        "_env", "_extras", "build_info", "_library", "_png", "_processes", "builtin", "checks", "console", "evaluation",
        "files", "generation", "guidance", "hosts", "metrics", "models", "ops", "pixels", "presets", "protocol",
        "sampler", "verification",
    },
    "__main__": {"_extras", "cli"},
}  # fmt: skip
# Private modules that tests go to, because what they hold shows nowhere else, or only with much around it.
PROBED = {
    "aot.py": {"triton_kernels._exact"},
    "launches.py": {"triton_kernels._chip"},
    "test_triton_filter_logits.py": {"triton_kernels._chip"},
    "test_triton_sample.py": {"triton_kernels._chip"},
    "test_absent.py": {"_extras"},
    "test_arguments.py": {"cli._methods"},
    "test_cli.py": {"_library"},
    "test_controls.py": {"cli._controls", "cli._methods"},
    "test_generate.py": {"generation._folder"},
    "test_guidance.py": {"sampler._draws"},
    "test_extras.py": {"_extras"},
    "test_house.py": {"_env"},
    "test_lookalikes.py": {"hosts._patched"},
    "test_sampler.py": {"sampler._cost"},
    "test_shell.py": {"cli._models", "cli._options"},
    "test_strategies.py": {"cli._methods"},
    "test_torchrun.py": {"_processes"},
    "test_triton_guide.py": {"triton_kernels._prior"},
}
LIMITS = {
    "csrc/*/*": 400,
    "varfast/**/*.py": 300,
    "triton_kernels/*.py": 400,
    "tests/*.py": 400,
    "benchmarks/*.py": 300,
    "examples/*.py": 300,
}


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


# The reference and the Triton kernels carry out what varfast.ops says; a command's docstring is its help in the shell.
SPOKEN_FOR = ("varfast.reference", "varfast.triton_kernels", "varfast.cli")
SOURCED = ("varfast.guidance", "varfast.metrics", "varfast.ops")
NO_MATHEMATICS = ("varfast.metrics.rows", "varfast.metrics.store")  # files of features
OWN = {"filter_logits", "sample"}  # published nowhere: the reference of that name is the definition


def test_docstrings_of_the_public_tell_shapes_errors_and_sources() -> None:
    bare = """
def f(x: Tensor) -> Tensor:
    \"\"\"Says nothing.\"\"\"
    check_tensor("x", x, "B")
class C:
    \"\"\"Of maps (B, C).\"\"\"
    def forward(self, x: Tensor) -> Tensor: raise ValueError
    def told(self, x: Tensor) -> Tensor:
        \"\"\"Raises ValueError. Source: a paper.\"\"\"
        raise ValueError
    def _private(self, x: Tensor) -> Tensor: raise ValueError
"""
    assert lacking(bare, source=True) == {"f": ["shapes", "errors", "source"], "C.forward": ["errors", "source"]}
    found = {}
    for name, path in MODULES.items():
        if name.startswith(SPOKEN_FOR) or any(part.startswith("_") for part in name.split(".")):
            continue
        missing = lacking(path.read_text(), source=name.startswith(SOURCED) and name not in NO_MATHEMATICS)
        if name.startswith("varfast.ops."):  # beside its op, a module there has what the other ops share
            missing = {op: what for op, what in missing.items() if op in set(ops.__all__) - OWN}
        found |= {f"{name}: {public}": what for public, what in missing.items()}
    assert not found


def test_every_op_is_documented_in_full() -> None:
    for name in ops.__all__:
        text = getattr(ops, name).__doc__
        assert text and all(f"\n    {part}:" in text for part in ("Args", "Returns", "Raises", "Notes")), name


EDGES = {name: imports(path.read_text()) for name, path in MODULES.items() if name != "varfast"}


def covers(allowed: str, name: str) -> bool:
    return f"{name}.".startswith(f"varfast.{allowed}.")


@pytest.mark.parametrize("name", EDGES)
def test_a_module_imports_only_what_it_may(name: str) -> None:
    rows = [row for row in MAY_IMPORT if covers(row, name)]
    assert rows, f"{name} has no row in MAY_IMPORT"
    row = max(rows, key=len)
    own = name.split(".")[1]
    wrong = {to for to in EDGES[name] if not any(covers(allowed, to) for allowed in MAY_IMPORT[row] | {own})}
    assert not wrong
    unknown = {to for to in EDGES[name] if to not in MODULES}
    assert not unknown


def test_the_table_of_rooms_is_in_order_and_in_use() -> None:
    seen: set[str] = set()
    for row, allowed in MAY_IMPORT.items():
        assert {name.split(".")[0] for name in allowed} <= seen | {row.split(".")[0]}, row
        seen.add(row)
        users = [name for name in EDGES if max((r for r in MAY_IMPORT if covers(r, name)), key=len) == row]
        used = {name for name in allowed for user in users for to in EDGES[user] if covers(name, to)}
        assert used == allowed, row


def test_no_module_imports_itself_by_a_detour() -> None:
    """What a function imports, or a name made of a string, counts as what stands at the top."""
    text = "def f():\n    from varfast import Sampler\n    importlib.import_module(f'varfast.hosts.{name}')"
    assert {"varfast.sampler", "varfast.hosts.var"} <= imports(text)
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": {"e"}}) == [["a", "b", "c"], ["e"]]
    assert circles(EDGES) == []


def test_an_underscored_module_is_private_to_the_folder_it_lies_in() -> None:
    """At the top that folder is the whole package: no benchmark goes there, and no test but for a reason."""
    assert back_doors("varfast.guidance.ssg", "from varfast.ops import _rows") == {"varfast.ops._rows"}
    assert not back_doors("varfast.ops.sample", "from varfast.ops import _rows\nfrom varfast import _env")
    files = [path for room in ("tests", "benchmarks", ".ci") for path in tracked(f"{room}/*.py")]
    assert {name: doors for name, path in MODULES.items() if (doors := back_doors(name, path.read_text()))} == {}
    outside = {path.name: doors for path in files if (doors := back_doors(path.stem, path.read_text()))}
    assert outside == {name: {f"varfast.{module}" for module in modules} for name, modules in PROBED.items()}


def test_no_underscored_function_or_class_is_taken_from_another_module() -> None:
    assert private_names("from varfast.ops.guide import _fake") == {"varfast.ops.guide._fake"}
    paths = [*MODULES.values(), *tracked("benchmarks/*.py")]
    assert not {path.name: names for path in paths if (names := private_names(path.read_text()))}


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


def test_sizes_are_the_same_for_all_levels() -> None:
    """What a kernel of one level needs is not asked of another: it is dispatched, or in namespace varfast for all."""
    for path in [*tracked("csrc/*.h"), *tracked("csrc/*_cpu.cpp")]:
        if path.name != "simd.h":
            assert "portable::" not in path.read_text(), path
        if path.suffix == ".cpp":
            assert "VF_ISA::" not in path.read_text(), path


LONGEST_FUNCTION = 60


def functions_of(text: str) -> list[tuple[str, int]]:
    """First line and number of lines of the functions of a C++ text that clang-format has laid out.

    A line that is a closing brace alone ends what the last line of no deeper indentation began.
    """
    found, lines = [], text.split("\n")
    for end, line in enumerate(lines):
        if not re.fullmatch(r" *\}", line):
            continue
        depth = len(line) - 1
        inner = re.compile(rf"$|#| {{{depth + 1}}}|\s*(?:public|private|case .*|default):")
        begin = end - 1
        while inner.match(lines[begin]):
            begin -= 1
        if not re.match(r"\s*(?:namespace|struct|class|enum|for|while|if|do|switch|extern)\b", lines[begin]):
            found.append((lines[begin].strip(), end - begin + 1))
    return found


def test_functions_of_native_code_are_short() -> None:
    sample = "void f(int a,\n       int b) {\n  if (a) {\n    b();\n  }\n#if X\n\n  c();\n}\n"
    sample += "struct S {\n  int g() {\n  }\n};"
    assert functions_of(sample) == [("void f(int a,", 9), ("int g() {", 2)]
    paths = [*tracked("csrc/*.h"), *tracked("csrc/*.cpp"), *tracked("csrc/*.cu"), *tracked("tests/simt/*")]
    everything = {path: functions_of(path.read_text()) for path in paths}
    assert sum(map(len, everything.values())) > 500
    long = {(path.name, *found) for path, each in everything.items() for found in each if found[1] > LONGEST_FUNCTION}
    assert not long


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
