"""Protects what results say of the CPU that they were measured on."""

import pytest
import torch

from adafv.utils import machine

INFO = """processor\t: 0
model name\t: A CPU: of 2 cores
flags\t\t: fpu {flags}
"""


@pytest.mark.parametrize(
    ("flags", "of_bfloat16"),
    [("avx2", []), ("avx512_bf16", ["AVX512-BF16"]), ("avx512_bf16 amx_bf16", ["AMX"])],
)
def test_a_cpu_says_how_it_multiplies_bfloat16(tmp_path, monkeypatch, flags, of_bfloat16):
    """AMX is twice as fast as float32, and AVX2 three times slower: a table must tell them."""
    path = tmp_path / "cpuinfo"
    path.write_text(INFO.format(flags=flags))
    monkeypatch.setattr(machine, "CPUINFO", path)
    widest = torch.backends.cpu.get_cpu_capability()
    name = machine.machine_of(torch.device("cpu"))["name"]
    assert name == ", ".join(["A CPU: of 2 cores", widest, *of_bfloat16])


def test_elsewhere_than_on_linux(tmp_path, monkeypatch):
    """There is always a name."""
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "none")
    assert machine.processor_name()
