"""One wheel on many Pythons and torches: `nox -f .ci/noxfile.py` with the interpreters that are here.

Each session installs one torch and the wheel, of no Python and built once, and runs the tests far from the sources.
`nox -f .ci/noxfile.py -s "wheel(python='3.12', torch='2.13.0')"` runs one; a CUDA torch brings gigabytes along.
"""

import shutil
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent.parent
# The oldest and the newest of both, and what lies between; 2.13.0 is what the CPU's figures were measured with.
PAIRS = [("3.10", "2.10.0"), ("3.11", "2.11.0"), ("3.12", "2.13.0"), ("3.13", "2.14.1")]
TESTS = (
    "sample", "sample_draws", "sample_edges", "filter_logits", "guide", "dse_prior", "guided_sample", "smooth_embed",
    "gaussian_kde", "select_candidate", "spectral_reweight", "arguments", "refusals", "schemas", "registration",
    "compile", "derivatives", "defaults", "sampler", "guidance", "models", "hosts", "cli",
)  # fmt: skip

nox.options.error_on_missing_interpreters = False
nox.options.default_venv_backend = "venv"


def the_wheel(session: nox.Session) -> Path:
    """build/dist/varfast-*.whl; made where it is not there, by the environment that has a torch."""
    folder = ROOT / "build" / "dist"
    if not list(folder.glob("varfast-*.whl")):
        python = ROOT / ".venv" / "bin" / "python"
        session.run(
            str(python), "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT),
            external=True,
        )  # fmt: skip
    (wheel,) = folder.glob("varfast-*.whl")
    return wheel


@nox.session
@nox.parametrize(("python", "torch"), PAIRS)
def wheel(session: nox.Session, torch: str) -> None:
    session.install(f"torch=={torch}")
    session.install(f"{the_wheel(session)}[cli]", "pytest", "pytest-benchmark", "pytest-xdist", "hypothesis", "scipy")
    elsewhere = Path(session.create_tmp())
    shutil.copytree(ROOT / "tests", elsewhere / "tests", dirs_exist_ok=True)
    shutil.copy(ROOT / "pyproject.toml", elsewhere)
    session.chdir(elsewhere)
    files = [f"tests/test_{name}.py" for name in TESTS]
    session.run(
        "python", "-m", "pytest", "-q", "-n", "2", "-m", "not source_tree", *files, env={"OMP_NUM_THREADS": "1"}
    )
