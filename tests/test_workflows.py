"""Protects the workflows, which run elsewhere: they call targets that the Makefile has."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def commands(workflow: dict) -> list[str]:
    """Return what the steps of a workflow run, once for each entry of a matrix of lanes."""
    found = []
    for job in workflow["jobs"].values():
        lanes = job.get("strategy", {}).get("matrix", {}).get("lane", [""])
        for step in job["steps"]:
            for lane in lanes:
                found.append(step.get("run", "").replace("${{ matrix.lane }}", lane))
    return [command for command in found if command]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_command_is_a_target_of_the_makefile(path):
    workflow = yaml.safe_load(path.read_text())
    for command in commands(workflow):
        target = re.fullmatch(r"make ([a-z-]+)(?: CONSTRAINTS=(\S+))?", command)
        assert target, command
        assert target[1] in TARGETS, command
        assert (ROOT / (target[2] or "constraints.txt")).is_file()


def test_a_release_is_tested_attested_and_published_without_a_password():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    assert "make test" in commands(workflow)
    assert workflow["jobs"]["publish"]["needs"] == "build"
    assert workflow["jobs"]["publish"]["permissions"]["id-token"] == "write"
    assert "password" not in str(workflow)
