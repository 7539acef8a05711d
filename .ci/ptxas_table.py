"""Turns ptxas' report (--ptxas-options=-v) into a table; exits with 1 where a kernel spills registers, takes
more of them than the record that the emulation of launches goes by (csrc/simt/ptxas.txt), or differs from it otherwise.

`python .ci/ptxas_table.py REPORT [--record]`: with --record, a report of all architectures is written down there.
"""

import re
import subprocess
import sys
from pathlib import Path

RECORD = Path(__file__).resolve().parent.parent / "csrc" / "simt" / "ptxas.txt"
ARCHS = ("sm_80", "sm_90", "sm_100", "sm_120")  # as in csrc/simt/limits.h
ENTRY = re.compile(r"(.+) \| (\d+) (\d+) (\d+) (\d+) (\d+)")

KERNEL = re.compile(r"Compiling entry function '(\S+)' for '(sm_\w+)'")
SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


def short(mangled: str) -> str:
    """kernel<float, true> of a mangled name."""
    name = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout
    return re.sub(r"\(\w+\)|varfast::(\w+::)?", "", name.strip().removeprefix("void ").rsplit("(", 1)[0])


Limits = tuple[int, dict[str, int]]  # of a kernel: bytes of static shared memory, registers on each architecture


def limits(rows: list[dict[str, object]]) -> dict[str, Limits]:
    """Registers as a warp is given them, by the 8 for each thread: small changes of a compiler change nothing."""
    out: dict[str, Limits] = {}
    for row in rows:
        shared, registers = out.setdefault(str(row["kernel"]), (0, {}))
        registers[str(row["arch"])] = (int(str(row["registers"])) + 7) // 8 * 8
        out[str(row["kernel"])] = (max(shared, int(str(row["smem"]))), registers)
    return out


def record(found: dict[str, Limits]) -> None:
    lines = ["Written by .ci/ptxas_table.py: kernel | static shared memory, registers on sm_80, 90, 100, 120"]
    for kernel, (shared, registers) in sorted(found.items()):
        lines.append(f"{kernel} | {shared} {' '.join(str(registers[arch]) for arch in ARCHS)}")
    RECORD.write_text("\n".join(lines) + "\n")


def recorded() -> dict[str, Limits]:
    out = {}
    for name, shared, *registers in ENTRY.findall(RECORD.read_text()):
        out[name] = (int(shared), dict(zip(ARCHS, map(int, registers), strict=True)))
    return out


def differences(found: dict[str, Limits], known: dict[str, Limits]) -> list[str]:
    """What the record has wrong, or has too little of."""
    out = [f"{kernel} is recorded and not compiled" for kernel in sorted(known.keys() - found.keys())]
    for kernel, (shared, registers) in sorted(found.items()):
        if kernel not in known:
            out.append(f"{kernel} is not recorded")
            continue
        if shared != known[kernel][0]:
            out.append(f"{kernel} has {shared} bytes of static shared memory, recorded are {known[kernel][0]}")
        for arch, count in registers.items():
            most = known[kernel][1].get(arch)
            if most is not None and count > most:
                out.append(f"{kernel} has {count} registers on {arch}, recorded are {most}")
    return out


def main(report: str, write: bool = False) -> int:
    rows: list[dict[str, object]] = []
    for line in report.splitlines():
        if found := KERNEL.search(line):
            rows.append({"kernel": short(found[1]), "arch": found[2], "smem": 0})
        elif rows and (found := SPILLS.search(line)):
            rows[-1] |= {"stack": int(found[1]), "spills": int(found[2]) + int(found[3])}
        elif rows and (found := USED.search(line)):
            shared = SHARED.search(line)
            rows[-1] |= {"registers": int(found[1]), "smem": int(shared[1]) if shared else 0}
    if not rows:
        print("no kernel in ptxas' report")
        return 1
    print(f"{'kernel':48} {'arch':8} {'registers':>9} {'shared':>7} {'stack':>6} {'spills':>6}")
    for row in sorted(rows, key=lambda r: (str(r["kernel"]), len(str(r["arch"])), str(r["arch"]))):
        used = f"{row['registers']:9} {row['smem']:7} {row['stack']:6} {row['spills']:6}"
        print(f"{row['kernel']:48} {row['arch']:8} {used}")
    spilled = [f"{row['kernel']} on {row['arch']}" for row in rows if row["spills"]]
    if spilled:
        print("registers spill in " + ", ".join(spilled))
    if write:
        if {row["arch"] for row in rows} != set(ARCHS):
            print("a record needs a report of " + ", ".join(ARCHS))
            return 1
        record(limits(rows))
    stale = differences(limits(rows), recorded())
    if stale:
        print(f"{RECORD.name} is old; `python .ci/ptxas_table.py build/cuda/report.txt --record` writes it anew:")
        print("\n".join(stale))
    return 1 if spilled or stale else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).read_text(), "--record" in sys.argv[2:]))
