"""Protects the workflows, which run elsewhere: they call targets that the Makefile has."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
SCANNED = ("browser", "served")
"""Whose requirements the audit's environments are made of, in tests/."""
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


def test_whatever_names_a_version_that_is_scanned_starts_the_audit():
    """A pattern of the workflow matches every constraint, requirement and image of a container."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "audit.yml").read_text())
    # YAML 1.1 reads `on` as true
    for event in ("push", "pull_request"):
        started = {path for name in workflow[True][event]["paths"] for path in ROOT.glob(name)}
        assert started >= {ROOT / "pyproject.toml", *ROOT.glob("constraints*.txt")}
        assert started >= {*ROOT.glob("deploy/Dockerfile*")}
        assert started >= {ROOT / "tests" / name / "requirements.txt" for name in SCANNED}


def test_what_names_versions_gets_newer_ones():
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    watched = {(update["package-ecosystem"], update["directory"]) for update in updates}
    assert watched >= {("pip", "/"), ("github-actions", "/"), ("docker", "/deploy")}
