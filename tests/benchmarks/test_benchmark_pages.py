"""Protects: a page of figures says what the results beside it say."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_committed_pages_are_what_their_scripts_would_write():
    """`make pictures` changes none of them."""
    command = [sys.executable, str(BENCHMARKS / "redraw.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
