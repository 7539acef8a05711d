"""Compiles a Triton kernel ahead of time, for machines that this one does not have."""

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel
from varfast.triton_kernels._exact import weight_of

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}


@triton.jit
def weight_kernel(x, out, BLOCK: tl.constexpr):
    """The weight function and nothing else, to be looked at as assembly."""
    i = tl.arange(0, BLOCK)
    tl.store(out + i, weight_of(tl.load(x + i)))


def compile_kernel(
    kernel: triton.JITFunction, types: dict[str, str], constants: dict[str, object], target: str, num_warps: int = 4
) -> CompiledKernel:
    """`types` names run-time arguments ("*fp32", "i32"), `constants` the constexpr ones; None is a missing pointer."""
    missing = set(kernel.arg_names) - set(types) - set(constants)
    assert not missing, f"neither type nor value for {sorted(missing)}"
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    source = ASTSource(kernel, signature, {(kernel.arg_names.index(name),): v for name, v in constants.items()})
    options = {"enable_fp_fusion": False, "num_warps": num_warps}
    return triton.compile(source, target=TARGETS[target], options=options)


def assembly(compiled: CompiledKernel) -> str:
    """PTX, or AMD's assembly."""
    return compiled.asm["ptx"] if "ptx" in compiled.asm else compiled.asm["amdgcn"]
