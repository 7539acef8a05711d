"""compute-sanitizer's four tools over tests/small_set.py, side by side; a tool that cannot run here is not a pass.

`python .ci/sanitizer.py [seconds]`: exit status 1 on a finding, and where the small set itself fails under a tool.
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
# What the tools say where it is the machine that will not have them.
REFUSED = re.compile(
    "not supported|unable to|no attachable process|terminated before first instrumented|internal sanitizer error", re.I
)


@dataclass(frozen=True)
class Verdict:
    tool: str
    state: str  # clean, finding, failed or unavailable
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
    said = blocks(report)
    refused = [block for block in said if REFUSED.search(block)]
    summary = re.search(r"(?:ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard)", report)
    count = int(summary[1] or summary[2]) if summary else 0
    # Whoever's kernel it is in: Triton's carry no name of ours, and torch's are given what we give them.
    findings = [block for block in said if "\n" in block and block not in refused]
    if findings or count:
        return Verdict(tool, "finding", f"{max(count, len(findings))}, the first: {(findings or said)[0]}")
    if status is None:
        return Verdict(tool, "unavailable", "did not end in time")
    if status == 0 and summary and DONE in report:
        return Verdict(tool, "clean")
    if refused or not said:
        return Verdict(tool, "unavailable", (refused or [f"no report, status {status}"])[0])
    own = [line for line in report.splitlines() if line.strip() and not line.startswith("=========")]
    return Verdict(tool, "failed", f"status {status}: {own[-1] if own else 'no output'}")


def command(tool: str) -> list[str]:
    # A call of the driver that torch only tries is no finding; one that matters ends the program.
    options = ["--report-api-errors", "no"] if tool == "memcheck" else []
    program = [sys.executable, "tests/small_set.py", "cuda"]
    return ["compute-sanitizer", "--tool", tool, *options, "--print-limit", "20", *program]


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
    return 1 if any(verdict.state in ("finding", "failed") for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 100.0))
