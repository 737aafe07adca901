"""What this machine lends us: its device, cores and memory."""

import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import jax

CONTAINER = Path("/sys/fs/cgroup")


def device() -> str:
    """The default JAX device in words: platform, kind, how many."""
    first = jax.devices()[0]
    if first.platform == "cpu":
        return f"cpu: {_processor()}, {cores()} cores"
    return f"{first.platform}: {jax.device_count()} × {first.device_kind}"


def device_memory() -> int | None:
    """Bytes of memory of the default device; for a CPU those of `memory`."""
    return (jax.devices()[0].memory_stats() or {}).get("bytes_limit") or memory()


def cores() -> int:
    """The processor cores that we may use: of the machine, less what our affinity and our container leave out."""
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = next(_lines(CONTAINER / "cpu.max"), "max").partition(" ")
    return min(ours, max(1, int(quota) // int(period))) if quota.isdigit() else ours


def memory() -> int | None:
    """Bytes of main memory that we may use: of the machine, or of our container; None where the system does not say."""
    if not hasattr(os, "sysconf"):  # Windows
        return None
    container = next(_lines(CONTAINER / "memory.max"), "max")
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(machine, int(container)) if container.isdigit() else machine


def peak_memory() -> dict[str, int | None]:
    """The most bytes that this process has held at a time, of the host and of the device; None where nobody says."""
    try:
        import resource
    except ImportError:  # Windows
        host = None
    else:  # ru_maxrss counts kilobytes on Linux and bytes on macOS
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"host": host, "device": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")}


def _processor() -> str:
    named = (line.partition(":")[2].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _lines(path: Path) -> Iterator[str]:
    return iter(path.read_text(encoding="utf-8").splitlines() if path.exists() else ())
