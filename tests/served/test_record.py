"""The record of what is proven on vLLM claims nothing that no test tries."""

import pytest
from zoo import served_record

from adafv.cli.listing import PROVEN_SERVED


def test_every_kind_has_words_and_every_claim_tests(request):
    """Held against what pytest has collected, whichever of it this run leaves out."""
    there = request.config.served
    kinds = set().union(*there.values())
    if len(there) < len(served_record.ARCHITECTURES) or not kinds >= PROVEN_SERVED.keys():
        pytest.skip("a part of the matrix")
    for architecture, checks in served_record.read().items():
        assert checks.keys() <= PROVEN_SERVED.keys()
        for check, passed in checks.items():
            assert passed <= there[architecture].get(check, 0), (architecture, check)


def test_what_a_run_settles(monkeypatch, tmp_path):
    """All tests of a kind that ran and passed; not a part of them, nor a red one."""
    monkeypatch.setattr(served_record, "RECORD", tmp_path / "proven.json")
    monkeypatch.setattr(served_record, "version", lambda name: "1")
    there = {"LlavaForConditionalGeneration": {"batch": 2, "clips": 2, "ranks": 1, "prefix": 1}}
    found = {
        "batch": ["passed"] * 2,
        "clips": ["passed"],
        "ranks": ["failed"],
        "prefix": ["skipped"],
    }
    outcomes = {"LlavaForConditionalGeneration": found}
    complaint = served_record.settle(there, outcomes, write=False)
    assert "LlavaForConditionalGeneration, batch: 2)" in complaint
    assert served_record.settle(there, outcomes, write=True) is None
    assert served_record.read()["LlavaForConditionalGeneration"] == {"batch": 2}
    assert served_record.settle(there, outcomes, write=False) is None
    # a test that is gone takes its claim along
    found["batch"], there["LlavaForConditionalGeneration"]["batch"] = ["skipped"], 1
    served_record.settle(there, outcomes, write=True)
    assert served_record.read()["LlavaForConditionalGeneration"] == {}
