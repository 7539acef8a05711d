"""The op library built for aarch64 and run under emulation: real kernels and real registrations, and in place of torch
a program that hands calls over (tests/aarch64/host.cpp)."""

import fcntl
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from native import ROOT, run, tool, torch_flags
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

FOLDER = ROOT / "build" / "aarch64"
DTYPES = {
    3: torch.int32, 4: torch.int64, 5: torch.float16, 6: torch.float32, 7: torch.float64, 11: torch.bool,
    15: torch.bfloat16,
}  # fmt: skip
NUMBERS = {dtype: number for number, dtype in DTYPES.items()}


def build() -> tuple[Path, Path]:
    """The program and the op library, by the project's own CMakeLists.txt; made again where their sources changed."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:  # until it is closed: two workers would build in one folder
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _build()


def _build() -> tuple[Path, Path]:
    compiler = tool("aarch64-linux-gnu-g++")
    torch_folder, include = FOLDER / "torch", Path(torch.__file__).parent / "include"
    (torch_folder / "lib").mkdir(parents=True, exist_ok=True)
    (torch_folder / "include").unlink(missing_ok=True)
    (torch_folder / "include").symlink_to(include)
    (FOLDER / "none.cpp").touch()
    for name in ("libtorch_cpu.so", "libc10.so"):  # the program has what the library looks for in them
        library = torch_folder / "lib" / name
        if not library.exists():
            run(compiler, "-shared", FOLDER / "none.cpp", f"-Wl,-soname,{name}", "-o", library)
    cmake, ninja = (shutil.which(name, path=Path(sys.executable).parent) or tool(name) for name in ("cmake", "ninja"))
    run(
        cmake, "-S", ROOT, "-B", FOLDER / "cmake", "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}",
        "-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={compiler}", f"-DTORCH_DIR={torch_folder}", f"-DVARFAST_OUTPUT={FOLDER}",
        "-DVARFAST_WERROR=ON",
    )  # fmt: skip
    run(cmake, "--build", FOLDER / "cmake", "-j", "2")
    source, program = ROOT / "tests" / "aarch64" / "host.cpp", FOLDER / "host"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        warnings = ("-Wall", "-Wextra", "-Werror")
        run(compiler, "-std=c++20", "-O2", *warnings, "-rdynamic", *torch_flags(), source, "-o", program, "-ldl")
    return program, FOLDER / "_varfast_cpu.so"


def _value(kind: str, value: Any) -> bytes:
    """An argument behind its letter."""
    if kind == "t":
        storage = value.as_strided((_reach(value),), (1,)) if value.numel() else value.reshape(0)
        data = storage.contiguous().view(torch.uint8).numpy().tobytes()
        shape = b"".join(
            struct.pack(f"<Q{value.dim()}q", value.dim(), *numbers) for numbers in (value.shape, value.stride())
        )
        return struct.pack("<i", NUMBERS[value.dtype]) + shape + struct.pack("<Q", len(data)) + data
    if kind == "s":
        return struct.pack("<Q", len(value)) + value.encode()
    if kind == "l":
        return struct.pack(f"<Q{len(value)}q", len(value), *value)
    return struct.pack("<d" if kind == "f" else "<q", value)


def _reach(x: Tensor) -> int:
    return 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))


KINDS = {"Tensor": "t", "int": "i", "float": "f", "bool": "b", "str": "s", "List[int]": "l", "List[Tensor]": "m"}


def _argument(type_name: str, value: Any) -> bytes:
    inner = type_name.removeprefix("Optional[")
    if inner == type_name:
        return KINDS[type_name].encode() + _value(KINDS[type_name], value)
    kind = KINDS[inner.removesuffix("]")]
    return b"-" if value is None else kind.upper().encode() + _value(kind, value)


class Host:
    """The program, at one instruction set."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process = process
        self.calls = 0
        self.level, self.built = (self._many().decode() for _ in range(2))

    def _read(self, count: int) -> bytes:
        assert self.process.stdout is not None
        data = self.process.stdout.read(count)
        assert len(data) == count, f"the emulated program ended: {self.process.wait()}"
        return data

    def _many(self, each: int = 1) -> bytes:
        return self._read(each * struct.unpack("<Q", self._read(8))[0])

    def _tensor(self) -> Tensor:
        dtype = DTYPES[struct.unpack("<i", self._read(4))[0]]
        shape = self._many(8)
        sizes, data = struct.unpack(f"<{len(shape) // 8}q", shape), self._many()
        return torch.frombuffer(bytearray(data), dtype=dtype).view(sizes) if data else torch.empty(sizes, dtype=dtype)

    def _result(self, kind: str) -> Any:
        if kind == "t":
            return self._tensor()
        (number,) = struct.unpack("<q", self._read(8))
        return [self._tensor() for _ in range(number)] if kind == "m" else number

    def call(self, schema: torch._C.FunctionSchema, values: tuple) -> Any:
        """What the op's kernel makes of the arguments; RuntimeError with its text where it refuses them."""
        self.calls += 1
        name, kinds = schema.name.split("::")[1], [KINDS[str(result.type)] for result in schema.returns]
        values += tuple(argument.default_value for argument in schema.arguments[len(values) :])
        data = struct.pack("<Q", len(name)) + name.encode()
        data += struct.pack("<Q", len(kinds)) + "".join(kinds).encode() + struct.pack("<Q", len(values))
        data += b"".join(_argument(str(a.type), value) for a, value in zip(schema.arguments, values, strict=True))
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()
        if self._read(1) == b"n":
            raise RuntimeError(self._many().decode())
        results = [self._result(kind) for kind in kinds]
        return results[0] if len(results) == 1 else tuple(results)


class Emulated(TorchDispatchMode):
    """Inside of it varfast's ops are the host's; what is torch's own stays here."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self.host = host

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func.namespace != "varfast":
            return func(*args, **kwargs or {})
        assert not kwargs
        with torch.utils._python_dispatch._disable_current_modes():
            return self.host.call(func._schema, args)


@contextmanager
def host(level: str | None) -> Iterator[Host]:
    """A running program, at an instruction set or at the one that it chooses."""
    program, library = build()
    environment = {**os.environ, "LD_LIBRARY_PATH": str(FOLDER / "torch" / "lib")}
    environment |= {} if level is None else {"VARFAST_SIMD": level}
    command = [tool("qemu-aarch64"), "-L", "/usr/aarch64-linux-gnu", str(program), str(library)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        yield Host(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0
