"""The project for Hugging Face's kernel-builder: its layout, and the ops of what a builder would make of it."""

import importlib.util
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from native import ROOT, run, tool, torch_flags, torch_libraries
from torch.utils._pytree import tree_leaves

import varfast.ops

pytestmark = pytest.mark.source_tree
tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")

# What kernel-builder's registration.h gives: the library is a Python module of the stable ABI, without functions.
REGISTRATION = """
#pragma once
#include <Python.h>
#define VF_NAME_(name) PyInit_##name
#define VF_NAME(name) VF_NAME_(name)
#define VF_TEXT_(name) #name
#define VF_TEXT(name) VF_TEXT_(name)
#define REGISTER_EXTENSION(NAME)                                                                        \\
  PyMODINIT_FUNC VF_NAME(NAME)() {                                                                      \\
    static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, VF_TEXT(NAME), nullptr, 0, nullptr,      \\
                                        nullptr, nullptr, nullptr, nullptr};                            \\
    return PyModule_Create(&module);                                                                    \\
  }
"""
OPS = """
import torch
from . import {name}
ops = torch.ops.{name}
def add_op_namespace_prefix(op_name: str):
    return f"{name}::{{op_name}}"
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "varfast"
    run(sys.executable, ROOT / ".ci" / "hf_kernels.py", folder)
    return folder


def test_every_file_that_the_project_names_is_there_and_the_builders_keys_are_used(project):
    named = tomllib.loads((project / "build.toml").read_text())
    assert set(named["general"]) == {"name", "version", "edition", "license", "backends"}
    assert set(named["torch"]) == {"src", "minver", "stable-abi"}
    assert set(named["torch"]["stable-abi"]) == set(named["general"]["backends"]) == {"cpu", "cuda"}
    seen: dict[str, set[str]] = {"cpu": set(), "cuda": set()}
    for kernel in named["kernel"].values():
        flags = {"cxx-flags", "cuda-flags"} & set(kernel)
        assert set(kernel) == {"backend", "depends", "include", "src"} | flags and len(flags) == 1
        assert kernel["depends"] == ["torch"]
        assert all((project / name).is_file() for name in kernel["src"])
        sources = {name for name in kernel["src"] if not name.endswith(".h")}
        assert not sources & seen[kernel["backend"]], "flags belong to a file, so a file belongs to one kernel"
        seen[kernel["backend"]] |= sources
    ops = {path.parent.name for path in (ROOT / "csrc").glob("*/*_cpu.cpp")}
    assert {f"csrc/{op}/{op}_cpu.cpp" for op in ops} <= seen["cpu"] < seen["cuda"]
    assert {Path(name).parent.name for name in seen["cuda"] if name.endswith(".cu")} == ops
    assert (project / "torch-ext" / "varfast" / "__init__.py").is_file() and (project / "flake.nix").is_file()


def test_nothing_in_it_knows_the_packages_own_name_or_namespace(project):
    for file in (project / "torch-ext").rglob("*.py"):
        code = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
        text = "\n".join(code)
        compile(text, str(file), "exec")
        for wrong in (
            "from varfast",
            "import varfast",
            "torch.ops.varfast",
            '("varfast::',
            'f"varfast::',
            'Library("varfast"',
        ):
            assert wrong not in text, file
    for file in (project / "csrc").rglob("*"):
        assert not file.is_file() or "LIBRARY_IMPL(varfast" not in file.read_text()
        assert not file.is_file() or "LIBRARY_FRAGMENT(varfast" not in file.read_text()


def built(project: Path, name: str) -> Path:
    """What the builder makes for the CPU: a folder with the package in it."""
    (project / "registration.h").write_text(REGISTRATION)
    package = project / "build" / "varfast"
    package.mkdir(parents=True)
    subprocess.run(["cp", "-r", f"{project}/torch-ext/varfast/.", str(package)], check=True)
    (package / "_ops.py").write_text(OPS.format(name=name))
    named = tomllib.loads((project / "build.toml").read_text())
    common = ["-std=c++20", "-fPIC", "-fvisibility=hidden", f"-DTORCH_EXTENSION_NAME={name}", f"-I{project}"]
    common += [*torch_flags(), "-DPy_LIMITED_API=0x030a0000", f"-isystem{sysconfig.get_path('include')}"]
    jobs = [(["-c", project / "torch-ext" / "torch_binding.cpp"], project / "build" / "binding.o")]
    for title, kernel in named["kernel"].items():
        if kernel["backend"] == "cpu":
            flags = [*kernel["cxx-flags"], *(f"-I{project / folder}" for folder in kernel["include"])]
            sources = [file for file in kernel["src"] if file.endswith(".cpp")]
            outs = [project / "build" / f"{title}-{i}.o" for i in range(len(sources))]
            jobs += [([*flags, "-c", project / file], out) for file, out in zip(sources, outs, strict=True)]
    with ThreadPoolExecutor(2) as pool:
        list(
            pool.map(lambda job: run(tool("g++"), *common, *job[0], "-O1", "-o", job[1]), jobs)
        )  # half the time of -O3
    run(tool("g++"), "-shared", *(out for _, out in jobs), "-o", package / f"{name}.abi3.so", *torch_libraries())
    return package


@pytest.mark.slow
def test_what_a_builder_makes_gives_the_packages_bits_beside_the_package(project):
    package = built(project, "_varfast_cpu_abc1234")
    spec = importlib.util.spec_from_file_location("hub_of_varfast", package / "__init__.py")
    assert spec is not None and spec.loader is not None
    hub = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = hub  # as get_kernel does: of a name of its own
    spec.loader.exec_module(hub)
    assert set(hub.__all__) == set(varfast.ops.__all__)
    torch.manual_seed(0)
    x, u, prev = torch.randn(2, 36, 64), torch.randn(2, 36, 64), torch.randn(2, 16, 64)
    book = torch.randn(64, 8)
    seeds, grids = torch.tensor([3, 4]), {"prev_hw": (4, 4), "hw": (6, 6)}

    def results(ops) -> list:
        return tree_leaves([
            ops.dse_prior(prev, **grids),
            ops.guide(x, u, prev, t=1.5, beta=0.4, **grids),
            ops.guided_sample(x, u, prev, seeds=seeds, t=1.5, beta=0.4, top_k=9, **grids),
            ops.sample(x, seeds, top_k=8, top_p=0.9),
            ops.filter_logits(x, top_k=8),
            ops.smooth_embed(x, book, seeds, ratio=0.5, top_k=8),
            ops.gaussian_kde(x, bandwidth=1.0),
            ops.select_candidate(torch.linspace(0, 1, 32).reshape(2, 16), x[:, :16].unsqueeze(2).contiguous(), seeds),
            ops.spectral_reweight(x, beta=0.1),
        ])  # fmt: skip

    for got, want in zip(results(hub), results(varfast.ops), strict=True):
        assert torch.equal(got, want) if isinstance(want, torch.Tensor) else got == want
    leaf = prev.clone().requires_grad_()
    hub.dse_prior(leaf, **grids).sum().backward()  # derivatives and fakes are of the namespace too
    assert leaf.grad is not None
    compiled = torch.compile(lambda y: hub.dse_prior(y, **grids), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(prev), hub.dse_prior(prev, **grids))
