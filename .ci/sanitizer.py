"""compute-sanitizer's four tools over tests/small_set.py, side by side; a tool that cannot run here is not a pass.

`python .ci/sanitizer.py [seconds]`: exit status 1 on a finding in varfast's kernels.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
DONE = "small set: done"  # tests/small_set.py ends so
OURS = "varfast::"


@dataclass(frozen=True)
class Verdict:
    tool: str
    state: str  # clean, finding or unavailable
    detail: str = ""


def blocks(report: str) -> list[str]:
    """A report's findings: lines that begin at the tool's margin, with the indented ones that follow."""
    found: list[str] = []
    for line in report.splitlines():
        if not line.startswith("========="):
            continue
        text = line.removeprefix("=========")
        if text.startswith("     ") and found:
            found[-1] += "\n" + text
        elif text.strip():
            found.append(text.strip())
    return found


def judge(tool: str, status: int | None, report: str) -> Verdict:
    """What a run of a tool says. `status` None: it did not end in time."""
    findings = [block for block in blocks(report) if OURS in block]
    if findings:
        return Verdict(tool, "finding", f"{len(findings)}, the first: {findings[0]}")
    if status is None:
        return Verdict(tool, "unavailable", "did not end in time")
    summary = re.search(r"(?:ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard)", report)
    if summary is None or DONE not in report:
        said = [b for b in blocks(report) if re.search(r"error|not supported|unable|fail", b, re.I)]
        return Verdict(tool, "unavailable", (said or [f"the program ended with status {status}"])[0])
    elsewhere = int(summary[1] or summary[2])
    return Verdict(tool, "clean", f"{elsewhere} reports outside of varfast's kernels" if elsewhere else "")


def command(tool: str) -> list[str]:
    return ["compute-sanitizer", "--tool", tool, "--print-limit", "20", sys.executable, "tests/small_set.py", "cuda"]


def main(seconds: float) -> int:
    if shutil.which("compute-sanitizer") is None:
        verdicts = [Verdict(tool, "unavailable", "no compute-sanitizer in PATH") for tool in TOOLS]
    else:
        # Without torch's cache every tensor is an allocation of its own, so that what lies beyond its end is noticed.
        environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "CUDA_LAUNCH_BLOCKING": "1"}
        folder = ROOT / "build" / "sanitizer"
        folder.mkdir(parents=True, exist_ok=True)
        running = {}
        for tool in TOOLS:
            with open(folder / f"{tool}.txt", "w") as out:
                running[tool] = subprocess.Popen(
                    command(tool), cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT
                )
        deadline = time.monotonic() + seconds
        verdicts = []
        for tool, process in running.items():
            try:
                status = process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                status = None
            verdicts.append(judge(tool, status, (folder / f"{tool}.txt").read_text(errors="replace")))
    for verdict in verdicts:
        print(f"compute-sanitizer {verdict.tool:10} {verdict.state:12} {verdict.detail}".rstrip())
    return 1 if any(verdict.state == "finding" for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 100.0))
