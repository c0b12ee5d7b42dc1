"""Protects: rules of a budget for each question rise with their number, keep as many tokens as they
are told to, and are compared with one budget of the same size.
"""

import importlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def rules(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS / "budget-rules")
    return importlib.import_module("rules")


@pytest.fixture
def measure(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS / "budget-rules")
    # other benchmarks have a script of this name, too
    script = BENCHMARKS / "budget-rules" / "measure.py"
    spec = importlib.util.spec_from_file_location("budget_rules", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def questions(rules):
    """Images whose lists and spectra are peaked by different degrees."""
    random = np.random.default_rng(0)
    found = []
    for i in range(40):
        lists = [np.exp(random.normal(0, 0.5 + i / 20, 720)) for _ in range(2)]
        text = "how many are there?" if i % 4 == 0 else "what color is it?"
        found.append(rules.Seen(text, *lists, np.sort(np.exp(random.normal(0, 3, 256)))[::-1]))
    return found


@pytest.mark.parametrize("rule", ["captured", "spread", "asked", "both", "rank", "above"])
def test_a_rule_keeps_what_it_is_told_to(rules, questions, rule):
    """On the mean, and no fewer with a larger number."""
    numbers = [rules.calibrated(rule, questions, target) for target in (12, 27, 54)]
    kept = [rules.budgets(rule, questions, number) for number in numbers]
    assert (kept[0] <= kept[1]).all()
    assert (kept[1] <= kept[2]).all()
    for given, target in zip(kept, (12, 27, 54), strict=True):
        assert given.mean() == pytest.approx(target, abs=1.5)
        assert given.min() >= rules.LEAST
        assert given.max() <= rules.MOST


def test_the_same_budget_for_all_gains_nothing(measure):
    """And a rule that gives tokens to who needs them does."""
    keys = [("scenes", str(i), 0) for i in range(30)]
    right = {count: count >= 36 for count in measure.MEASURED}
    found = {key: {"type": "count", "right": right} for key in keys[:15]}
    easy = dict.fromkeys(measure.MEASURED, True)
    found |= {key: {"type": "color", "right": easy} for key in keys[15:]}
    same = measure.compared(keys, found, np.full(30, 21.0))
    assert same["difference"] == 0
    assert same["p"] == 1
    wise = measure.compared(keys, found, np.where(np.arange(30) < 15, 36.0, 6.0))
    assert wise["difference"] > 0.2
    assert wise["p"] < 0.01
    ceiling = measure.least(found)
    assert ceiling["by_type"] == {"color": 6, "count": 36}
    assert ceiling["accuracy"] == 1


def test_accuracy_between_budgets(measure):
    """Linear in the logarithm."""
    right = {count: count >= 13 for count in measure.MEASURED}
    assert measure.at(right, 9) == 0
    assert measure.at(right, 13) == 1
    assert measure.at(right, np.sqrt(9 * 13)) == pytest.approx(0.5)


def test_what_a_rule_saves(measure):
    """Tokens of one budget for all that is as accurate, and none where the rule is no better."""
    fixed = {count: 0.5 + 0.1 * np.log2(count / 6) for count in measure.MEASURED}
    row = {"tokens": 18.0, "difference": 0.1}
    assert measure.saved(row, fixed) == pytest.approx(1 / 2)
    assert measure.saved(row | {"difference": 0.0}, fixed) == pytest.approx(0)
    assert measure.saved(row | {"difference": -0.1}, fixed) == pytest.approx(-1)


def test_the_page_is_what_the_committed_results_say(measure):
    """Nobody edited a figure of it by hand."""
    folder = BENCHMARKS / "budget-rules"
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert (folder / "README.md").read_text(encoding="utf-8") == measure.page(results)
