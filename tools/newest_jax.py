"""The unit tests on the newest JAX that works: python3.13 -m tools.newest_jax, with Python 3.12 or later and no lock.

Some releases hang in `fori_loop` on the CPU, which is why pyproject.toml leaves them out. Here each version, those too,
from the newest down, gets twenty seconds for a loop, and the first that returns runs the tests; what was passed over is
said.
"""

import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

from tools.unit import TESTS

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT / "_build" / "newest-jax"
PYTHON = PLACE / "bin" / "python"
PROBE = "import jax; print(jax.jit(lambda n: jax.lax.fori_loop(0, n, lambda i, x: 0.9 * x + i, 1.0))(1000))"
BELOW = (0, 13)  # the first version that nobody has looked at
UNIT = (*TESTS, "--ignore=tests/test_repository.py")


def main() -> None:
    if sys.version_info < (3, 12):
        raise SystemExit(f"the newest JAX needs Python 3.12 or later, and this is {sys.version.split()[0]}")
    venv.create(PLACE, with_pip=True, clear=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = next(need for need in project["dependencies"] if need.startswith("jax>"))
    tests = ["pytest", "pytest-timeout", "hypothesis", "cosmic-ray", "beartype", "scikit-ntk", "pyyaml"]
    _pip("install", "--quiet", *project["dependencies"], *project["optional-dependencies"]["chapters"], *tests)
    for version in _versions(needed):
        _pip("install", "--quiet", f"jax=={version}", f"jaxlib=={version}")
        if _loops():
            print(f"JAX {version} on Python {sys.version.split()[0]}", flush=True)
            raise SystemExit(subprocess.run([PYTHON, "-m", "pytest", "-q", *UNIT], cwd=ROOT).returncode)
        print(f"JAX {version} skipped: its loop did not return in 20 s", flush=True)
    raise SystemExit("no version has a loop that returns")


def _versions(needed: str) -> list[str]:
    """Versions from the lowest in our range up, the newest first, as pip lists them."""
    low = tuple(map(int, re.findall(r"[\d.]+", needed)[0].split(".")))
    listed = _pip("index", "versions", "jax").split("Available versions:")[1].splitlines()[0]
    versions = [version.strip() for version in listed.split(",")]
    return [v for v in versions if low <= tuple(map(int, v.split(".")[:2])) < BELOW]


def _loops() -> bool:
    try:
        return subprocess.run([PYTHON, "-c", PROBE], timeout=20, capture_output=True).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _pip(*arguments: str) -> str:
    return subprocess.run([PYTHON, "-m", "pip", *arguments], check=True, text=True, stdout=subprocess.PIPE).stdout


if __name__ == "__main__":
    main()
