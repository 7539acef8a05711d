"""What the functions of triton_kernels would launch on a GPU that is not here, and that code compiled for it.

The functions run on meta tensors, which have shapes and strides and no memory, while JITFunction.run notes its
arguments. So what is compiled is what the code chooses, at any size, and no list of types can go stale.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel
from triton.runtime.jit import JITFunction
from varfast.triton_kernels import _chip, spectral_reweight

TYPES = {
    torch.float64: "*fp64", torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16",
    torch.int64: "*i64", torch.int32: "*i32",
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A GPU that code is compiled for, and what it gives a block."""

    gpu: GPUTarget
    chip: _chip.Chip
    shared: int  # bytes of LDS, or of shared memory


AMD = {
    "gfx90a": Target(GPUTarget("hip", "gfx90a", 64), _chip.AMD[64], 64 << 10),
    "gfx942": Target(GPUTarget("hip", "gfx942", 64), _chip.AMD[64], 64 << 10),
    "gfx950": Target(GPUTarget("hip", "gfx950", 64), _chip.AMD[64], 160 << 10),
    "gfx1100": Target(GPUTarget("hip", "gfx1100", 32), _chip.AMD[32], 64 << 10),
    "gfx1201": Target(GPUTarget("hip", "gfx1201", 32), _chip.AMD[32], 64 << 10),
}
NVIDIA = {
    "sm_80": Target(GPUTarget("cuda", 80, 32), _chip.NVIDIA, 163 << 10),
    "sm_90": Target(GPUTarget("cuda", 90, 32), _chip.NVIDIA, 227 << 10),
}


@dataclass
class Launch:
    kernel: JITFunction
    signature: dict[str, str]
    constants: dict[tuple[int], Any]
    attributes: dict[tuple[int], list]
    options: dict[str, Any]

    @property
    def warps(self) -> int:
        return self.options.get("num_warps", 4)

    def key(self) -> str:
        return f"{self.kernel.fn.__name__} {self.signature} {self.constants} {self.attributes} {self.options}"

    def compile(self, target: Target) -> CompiledKernel:
        source = ASTSource(self.kernel, self.signature, self.constants, self.attributes)
        return triton.compile(source, target=target.gpu, options=self.options)


def _described(kernel: JITFunction, args: tuple, kwargs: dict[str, Any]) -> Launch:
    """As Triton's launcher specialises them: 1 is a constant, multiples of 16 and pointers are known to be aligned."""
    given = dict(zip(kernel.arg_names, args, strict=False)) | kwargs
    out = Launch(kernel, {}, {}, {}, {k: v for k, v in kwargs.items() if k not in kernel.arg_names})
    for parameter in kernel.params:
        value, place = given[parameter.name], (parameter.num,)
        fixed = parameter.is_constexpr or value is None
        if isinstance(value, torch.Tensor):
            kind = TYPES[value.dtype]
            out.attributes[place] = [["tt.divisibility", 16]]
        elif parameter.annotation_type and not fixed:
            kind = parameter.annotation_type
        elif isinstance(value, bool) and not fixed:
            kind = "u1"
        elif isinstance(value, int) and not fixed:
            fixed = value == 1 and not parameter.do_not_specialize
            kind = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0 and not parameter.do_not_specialize:
                out.attributes[place] = [["tt.divisibility", 16]]
        else:
            kind = "fp32"
        out.signature[parameter.name] = "constexpr" if fixed else kind
        if fixed:
            out.constants[place] = value
    return out


def launches(monkeypatch: pytest.MonkeyPatch, chip: _chip.Chip, calls: list[Callable[[], object]]) -> list[Launch]:
    """The kernels that the calls launch on a chip, each configuration once."""
    found: dict[str, Launch] = {}

    def note(kernel: JITFunction, *args: object, grid: object, warmup: bool, **kwargs: object) -> None:
        launch = _described(kernel, args, kwargs)
        found[launch.key()] = launch

    with monkeypatch.context() as patch:
        for module in (_chip, spectral_reweight):
            patch.setattr(module, "chip_of", lambda device: chip)
        patch.setattr(JITFunction, "run", note)
        for call in calls:
            call()
    return list(found.values())


def amd_faults(launch: Launch, compiled: CompiledKernel, target: Target) -> list[str]:
    """What the target would refuse, or run from memory instead of registers; read from what was compiled for it."""
    text = compiled.asm["amdgcn"]

    def number(name: str) -> int:
        found = re.findall(rf"^\s+\.{name}:\s+(\d+)$", text, re.MULTILINE)
        assert len(found) == 1, (name, found)
        return int(found[0])

    out = []
    threads, most = launch.warps * number("wavefront_size"), number("max_flat_workgroup_size")
    if threads > most:
        out.append(f"{threads} threads, of at most {most}")
    # Scalar registers spill into lanes of a vector register; only scratch is memory.
    if scratch := number("private_segment_fixed_size"):
        out.append(f"{scratch} bytes of scratch, {number('vgpr_spill_count')} registers spilled")
    if compiled.metadata.shared > target.shared:
        out.append(f"{compiled.metadata.shared} bytes of LDS, of {target.shared}")
    return out


def narrow_products(ttir: str) -> list[str]:
    """Products of two variables in 32 bits that an address is made of: an index times a stride leaves them.

    A product with a constant is a block's first element, which is less than the vocabulary.
    """
    made: dict[str, tuple] = {}  # the latest of each name: a scope that has ended may have used it too
    addresses = []
    for name, operation, operands, kind in re.findall(r"(%[\w-]+) = ([\w.]+) ([^:\n]*?)(?: \{[^}\n]*\})? : (.*)", ttir):
        given = [made[one] for one in re.findall(r"%[\w-]+", operands) if one in made]
        made[name] = (operation, given, f"{name} = {operation} {operands} : {kind}")
        if operation == "tt.addptr":
            addresses.append(made[name])
    assert addresses
    seen, out, left = set(), [], [offset for _, given, _ in addresses for offset in given]
    while left:
        operation, given, text = left.pop()
        if text in seen or operation in ("tt.load", "arith.cmpi", "arith.cmpf"):  # an index that was read or counted
            continue
        seen.add(text)
        narrow = re.search(r"(\bi|xi)32\b", text.split(" : ")[-1].split(" loc")[0]) is not None
        constant = any(one[0] == "arith.constant" for one in given)
        if operation == "arith.muli" and narrow and not constant:
            out.append(text)
        left += given
    return out
