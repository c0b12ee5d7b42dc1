"""What the matrix of families proved in a run, and the record of it that ships with the package."""

import json
from importlib.resources import files
from pathlib import Path

import pytest
import transformers

from adafv.families import FAMILIES, family_of
from zoo.served_record import HOMES, architecture_of

CHECKS = {
    "batch",
    "budget",
    "cache",
    "hidden",
    "identity",
    "images",
    "inside",
    "layout",
    "m-rope",
    "methods",
}
CLIPS = "clips"
"""Proven of families that prune them."""
RECORD = Path(str(files("adafv.families"))) / "proven.json"

Outcomes = dict[str, dict[str, list[str]]]


def enter(outcomes: Outcomes, item: pytest.Item, report: pytest.TestReport) -> None:
    """One more outcome of a test that is marked with what it proves."""
    mark = item.get_closest_marker("proves")
    if mark and (report.when == "call" or report.outcome != "passed"):
        served = item.path.name in HOMES
        tried = architecture_of(item) if served else item.callspec.params["name"]
        outcomes.setdefault(tried, {}).setdefault(mark.args[0], []).append(report.outcome)


def summary(outcomes: Outcomes) -> dict[str, dict]:
    """For each family its model class, whose attention is its saliency, and how many tests of a
    kind passed.
    """
    from zoo.families import tiny

    found = {}
    for name in sorted(outcomes):
        model = tiny(name).model
        family = family_of(model)
        saliency = "distinctness"
        if family.attention_observable:
            saliency = (
                "attention received" if family.cls_position(model) is None else "attention of CLS"
            )
        passed = {
            check: results.count("passed") for check, results in sorted(outcomes[name].items())
        }
        found[name] = {"model": type(model).__name__, "saliency": saliency, "passed": passed}
    return found


def settle(outcomes: Outcomes, write: bool) -> str | None:
    """Write the record, or say how the run differs from it; a part of the matrix, or a red one,
    settles nothing.
    """
    if not outcomes or any(
        "failed" in results for found in outcomes.values() for results in found.values()
    ):
        return None
    from zoo.families import ZOO

    if set(outcomes) != set(ZOO):
        return None
    for name, found in outcomes.items():
        if set(found) != CHECKS | ({CLIPS} if FAMILIES[name].prunes_video else set()):
            return None
    families = summary(outcomes)
    if write:
        record = {"transformers": transformers.__version__, "families": families}
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
    elif json.loads(RECORD.read_text())["families"] != families:
        return (
            "adafv/families/proven.json is not what the tests proved: run "
            "pytest tests/families --record"
        )
    return None
