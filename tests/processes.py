"""Processes, seen from outside."""

import subprocess
from pathlib import Path


def alive(pid):
    """Whether a process runs; one that nobody has asked for its exit status does not."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self").exists():
        return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX"
    return subprocess.run(("ps", "-p", str(pid)), capture_output=True, check=False).returncode == 0
