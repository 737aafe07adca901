"""Libraries to measure against, each in an environment of its own: none of them installs beside this project's JAX.

The environments are made where they are missing, in the user's cache folder or, where that is set, the folder named by
the environment variable WIDE_NETWORKS_PEERS.
"""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

from filelock import FileLock
from platformdirs import user_cache_path

ROOT = Path(__file__).parents[1]
VARIABLE = "WIDE_NETWORKS_PEERS"
PINS = {
    "neural-tangents": (
        "neural-tangents==0.6.5",
        "jax==0.4.24",
        "jaxlib==0.4.24",
        "numpy==1.26.4",
        "scipy==1.12.0",
        "ml_dtypes==0.5.4",
        "opt_einsum==3.4.0",
        "packaging==24.2",
        "frozendict==2.4.6",
    ),
    # From a registry whose wheel is for the CPU alone; one with CUDA needs packages that are not pinned here.
    "torch": (
        "torch==2.13.0",
        "numpy==2.4.6",
        "filelock==3.32.2",
        "fsspec==2026.9.0",
        "jinja2==3.1.6",
        "markupsafe==3.0.3",
        "mpmath==1.3.0",
        "networkx==3.6.1",
        "setuptools==81.0.0",
        "sympy==1.14.0",
        "typing_extensions==4.15.0",
    ),
}
# neural_tangents imports its experimental part, which needs TensorFlow and which no benchmark calls.
PRELUDE = """
import runpy, sys, types
sys.modules["neural_tangents.experimental"] = types.ModuleType("neural_tangents.experimental")
runpy.run_path(sys.argv[1], run_name="__main__")
"""


class PeerError(Exception):
    """A peer that could not be installed, or a script that failed in it; the message says how."""


def run(peer: str, script: Path, **task: Any) -> Any:
    """What a script prints on its last line, as JSON, run by the peer's own Python.

    Args:
        peer: "neural-tangents" or "torch".
        script: reads `task` as JSON from standard input. Of this project it can import what needs Python alone.
        task: what the script is to do.

    Raises:
        PeerError: when the peer cannot be installed, or the script fails.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "JAX_", "XLA_"))}
    clean["PYTHONPATH"] = str(ROOT)
    command = [environment(peer), "-c", PRELUDE, script]
    done = subprocess.run(command, input=json.dumps(task), env=clean, capture_output=True, text=True)
    if done.returncode != 0:
        raise PeerError(f"{script} failed under {peer}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def environment(peer: str) -> Path:
    """The Python of the peer's environment, which is made first where it is missing or made from other pins."""
    cache = Path(os.environ.get(VARIABLE) or user_cache_path("wide-networks-book", appauthor=False) / "peers")
    place, pins = cache / peer, "\n".join(PINS[peer])
    installed, python = place / "installed.txt", place / "bin" / "python"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{peer}.lock"):
        if not installed.exists() or installed.read_text(encoding="utf-8") != pins:
            print(f"Installing {peer} into {place}, once", file=sys.stderr, flush=True)
            venv.create(place, with_pip=True, clear=True)
            # Pins are complete; what they leave out, TensorFlow first, no benchmark needs.
            command = [python, "-m", "pip", "install", "--quiet", "--no-deps", *PINS[peer]]
            if (done := subprocess.run(command, capture_output=True, text=True)).returncode != 0:
                raise PeerError(f"{peer} cannot be installed for Python {sys.version.split()[0]}:\n{done.stderr}")
            installed.write_text(pins, encoding="utf-8")
    return python
