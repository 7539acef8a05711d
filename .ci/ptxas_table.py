"""Turns ptxas' report (--ptxas-options=-v) into a table; exits with 1 where a kernel spills registers."""

import re
import subprocess
import sys
from pathlib import Path

KERNEL = re.compile(r"Compiling entry function '(\S+)' for '(sm_\w+)'")
SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


def short(mangled: str) -> str:
    """kernel<float, true> of a mangled name."""
    name = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout
    return re.sub(r"\(\w+\)|varfast::(\w+::)?", "", name.strip().removeprefix("void ").rsplit("(", 1)[0])


def main(report: str) -> int:
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
    return 1 if spilled else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).read_text()))
