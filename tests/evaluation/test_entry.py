"""Entries of the leaderboard: whole, with possible numbers, and made by a command others can run.

A number without its n, or a result that nobody can repeat, must never reach the page.
"""

import json
import re
import shlex
import sys
from pathlib import Path

import leaderboard
import pytest
import typer
from fakes import FakeSuites

from adafv.cli import app, main
from adafv.evaluation import report
from adafv.evaluation.entry import (
    ENTRY,
    check_entry,
    check_meta,
    check_repeatable,
    check_rows,
    read_entry,
    write_entry,
)
from adafv.evaluation.evaluate import Evaluation
from adafv.evaluation.merge import merged

ROOT = Path(__file__).parents[2]
COMMITTED = sorted((ROOT / "benchmarks" / "leaderboard").glob(f"*/{ENTRY}"))
MACHINE = {"name": "a CPU", "threads": 2}


def results() -> dict:
    """Committed results, which have all that an entry needs but the machine."""
    return report.read(ROOT / "benchmarks" / "fresh" / "results.json")


@pytest.fixture
def entry() -> dict:
    found = results()
    return {"meta": found["meta"] | {"machine": MACHINE}, "rows": found["rows"]}


def parsed(command: str) -> dict:
    """Options of a command as the command line reads them; nothing runs."""
    click = typer.main.get_command(app).commands["eval"]
    return click.make_context("eval", shlex.split(command)[2:]).params


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_every_committed_entry_is_valid(path):
    """Whole, and its command is one that `adafv eval` takes, with the seed and model it names."""
    meta = read_entry(path)["meta"]
    options = parsed(meta["command"])
    assert options["seed"] == meta["seed"]
    assert (options["model"] or "embedded") == meta["model"]
    check_repeatable(options["model"], options["suite"].split(","), meta["split"])


def test_an_entry_is_read_as_it_was_written(entry, tmp_path):
    """What `--entry` writes is what the page reads."""
    found = results()
    path = write_entry(tmp_path / "new", found["meta"], found["rows"], MACHINE)
    assert path == tmp_path / "new" / ENTRY
    assert read_entry(path) == entry
    assert parsed(entry["meta"]["command"])["seed"] == entry["meta"]["seed"]


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("n", 0, "rests on n=0"),
        ("n", None, "lacks n"),
        ("accuracy", 1.5, "outside of its interval"),
        ("ci_low", 0.99, "outside of its interval"),
        ("kept_tokens", 721.0, "keeps 721.0 of 720.0"),
    ],
)
def test_impossible_rows_are_refused(entry, column, value, said):
    """The row is named, and what is wrong with it."""
    entry["rows"] = [dict(row) for row in entry["rows"]]
    entry["rows"][8][column] = value
    with pytest.raises(ValueError, match=said) as raised:
        check_entry(entry)
    assert entry["rows"][8]["method"] in str(raised.value)


def test_what_cannot_be_repeated_is_refused(entry, tmp_path, monkeypatch):
    """No version, hardware or rows, another command, and paths of one machine."""
    meta = entry["meta"]
    for name in ("machine", "command", "seed", "versions"):
        with pytest.raises(ValueError, match=f"{name}.* is missing"):
            check_meta({key: value for key, value in meta.items() if key != name})
    with pytest.raises(ValueError, match="not one of `adafv eval`"):
        check_meta(meta | {"command": "python own.py"})
    for path in ("--out /tmp/x", "--out=/tmp/x"):
        with pytest.raises(ValueError, match="a path of one machine"):
            check_meta(meta | {"command": f"adafv eval {path}"})
    with pytest.raises(ValueError, match="a path of one machine"):
        check_meta(meta | {"earlier": [{"command": "adafv eval --suite /tmp/own.jsonl"}]})
    with pytest.raises(ValueError, match="is of own questions"):
        check_entry({"meta": meta, "rows": [row | {"suite": "mine"} for row in entry["rows"]]})
    with pytest.raises(ValueError, match="rows is empty"):
        check_entry({"meta": meta, "rows": []})
    with pytest.raises(ValueError, match="no dense row"):
        check_entry(
            {"meta": meta, "rows": [row for row in entry["rows"] if row["method"] != "none"]}
        )
    with pytest.raises(ValueError, match="a folder of this machine"):
        check_repeatable(str(tmp_path), ["scenes"], "test")
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    with pytest.raises(ValueError, match="a folder of this machine"):
        check_repeatable(f"~/{tmp_path.name}", ["scenes"], "test")
    with pytest.raises(ValueError, match="is your own"):
        check_repeatable(None, ["mine.jsonl"], "test")
    with pytest.raises(ValueError, match="what choices are made on"):
        check_repeatable(None, ["scenes"], "validation")

    broken = tmp_path / ENTRY
    broken.write_text(json.dumps({"meta": {}, "rows": []}))
    with pytest.raises(ValueError, match="is not an entry of the leaderboard"):
        read_entry(broken)
    with pytest.raises(ValueError, match="cannot be read"):
        read_entry(tmp_path / "missing.json")


def test_the_command_refuses_before_it_loads_a_model(tmp_path, monkeypatch, capsys):
    """`--entry` of what cannot be repeated is one line and exit status 2, and writes no entry."""
    monkeypatch.chdir(tmp_path)
    command = ["eval", "--methods", "random", "--suite", "scenes", "--out", "out", "--entry", "new"]
    assert main([*command, "--split", "validation"]) == 2
    said = capsys.readouterr()
    assert "what choices are made on" in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_an_earlier_run_of_the_folder_is_checked_before_the_model_is_asked(
    tmp_path, monkeypatch, capsys
):
    """Its command names a path of this machine: the same one with another path replaces it."""
    FakeSuites(monkeypatch, 1)
    monkeypatch.chdir(tmp_path)

    def evaluate(methods: str, *places: str) -> tuple[int, str]:
        command = ["eval", "--methods", methods, "--keep", "0.5", *places]
        monkeypatch.setattr(sys, "argv", ["adafv", *command])
        status = main(command)
        return status, capsys.readouterr().err

    assert evaluate("uniform", "--out", str(tmp_path / "out"))[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "answer", lambda *_, **__: pytest.fail("asked"))
        status, said = evaluate("random", "--out", "out", "--entry", "new")
        assert status == 2
        assert "a path of one machine" in said
        assert not (tmp_path / "new" / ENTRY).exists()
    assert evaluate("uniform", "--entry", "new", "--out=out")[0] == 0
    assert "earlier" not in read_entry(tmp_path / "new" / ENTRY)["meta"]
    assert evaluate("random", "--out", "out", "--entry", "new")[0] == 0
    [run] = read_entry(tmp_path / "new" / ENTRY)["meta"]["earlier"]
    assert run["command"].endswith("--entry new --out=out")
    assert run["versions"]


def test_own_questions_of_an_earlier_run_are_refused_before_the_model_is_asked(
    entry, tmp_path, monkeypatch
):
    """They would stand in the entry."""
    kept, _ = merged(entry | {"pairs": []}, [], [], [("scenes", "adafv", 0.1)])
    check_rows(kept)
    with pytest.raises(ValueError, match="is of own questions"):
        check_rows([kept[0] | {"suite": "mine"}])


def test_the_page_shows_every_result_with_its_n():
    """A line for each method at each budget, and no cell of accuracy without its questions."""
    page = leaderboard.leaderboard_page()
    lines = page.split("<tbody>")[1].split("</tbody>")[0].strip().splitlines()
    expected = 0
    for source in leaderboard.sources():
        for row in source.rows:
            shown = row["question_type"] == "all" and row["method"] not in ("blind", "oracle")
            expected += shown
    assert len(lines) == expected
    for line in lines:
        assert line.count("<td") == len(leaderboard.COLUMNS)
    # nothing is fetched
    assert "http" not in page.split('<div id="board"')[1]
    assert set(leaderboard.FILTERS) <= set(leaderboard.COLUMNS)
    # the site gives headings their text as an id, and the script must find the table alone
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    taken = [heading.lower().replace(" ", "-") for heading in headings]
    for found in re.findall(r'getElementById\("(\w+)"\)', page):
        assert found not in taken
        assert page.count(f'id="{found}"') == 1


def test_a_budget_is_judged_by_all_tokens_of_its_own_evaluation():
    """Those below 5 % are of other questions than those above, and both stand in one decision."""
    [(_, rows)] = leaderboard._measured(leaderboard.KINDS["reading"])
    assert {0.25, 0.1, 0.05, 0.025, 0.0125} <= {row["keep"] for row in rows}
    for row in rows:
        if leaderboard._is_method(row):
            share = row["accuracy"] / row["dense"]["accuracy"]
            assert share == pytest.approx(row["retention"], abs=1e-5)
    assert len({row["dense"]["n"] for row in rows}) == 2


def test_both_models_stand_in_the_table_with_their_filter_and_times():
    """A column that is empty in every line would say nothing."""
    shown = leaderboard.lines()
    columns = {name: column for column, name in enumerate(leaderboard.COLUMNS)}
    models = {line[columns["model"]].text for line in shown}
    assert models == {"embedded", "photo"}
    filtered = [line for line in shown if line[columns["filter, %"]] != leaderboard.NOTHING]
    assert {line[columns["model"]].text for line in filtered} == {"photo"}
    assert all("n = " in line[columns["filter, %"]].text for line in filtered)
    timed = {
        line[0].text
        for line in shown
        if line[columns["selection at 5 %, ms"]] != leaderboard.NOTHING
    }
    assert {"adafv", "adafv+", "scope", "sfpruner", "divprune"} <= timed


def test_decisions_hold_what_they_say():
    """A budget is named only where the interval of the named method holds the target."""
    table = leaderboard.decisions().splitlines()
    assert len(table) >= 2 + len(leaderboard.KINDS)
    for words, kinds in leaderboard.KINDS.items():
        for _, rows in leaderboard._measured(kinds):
            name, budget, _, said = leaderboard._decision(rows)
            at = [row for row in rows if leaderboard.percent(row["keep"]) == budget]
            dense = at[0]["dense"]
            assert all(row["dense"] == dense for row in at)
            counts = [f"n = {row['dense']['n']})" for row in (rows if budget == "100 %" else at)]
            assert any(said.endswith(count) for count in counts)
            if name.startswith("`"):
                method = name.split("`")[1]
                (row,) = [row for row in at if row["method"] == method]
                assert row["ci_low"] >= leaderboard.TARGET * dense["accuracy"]
                holding = leaderboard._holding(rows)
                assert all(other["keep"] >= row["keep"] for other in holding)
            elif name.startswith("any of"):
                best = leaderboard._best(at)["accuracy"]
                on_top = [
                    row for row in at if leaderboard._is_method(row) and row["accuracy"] == best
                ]
                assert int(name.split()[2]) == len(on_top), words
                held = leaderboard.TARGET * dense["accuracy"]
                assert all(row["ci_low"] >= held for row in on_top), words
            else:
                assert budget == "100 %", words
