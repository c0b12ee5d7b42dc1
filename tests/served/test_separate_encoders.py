"""Encoders apart from language models (E/PD): what one engine chooses is what another one reads."""

import os
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

from checkpoints import save
from engine import Library, Request, engine
from vllm.distributed.ec_transfer.ec_transfer_state import ensure_ec_transfer_shutdown

pytestmark = pytest.mark.engines

COLOR, KNIGHT = "what color is the anchor ?", "is there a knight"
ASKED = [
    Request(COLOR, keep=0.25),
    Request(KNIGHT, keep=0.25),
    Request(KNIGHT, (1, 2), keep=0.1),
    Request(COLOR, keep=1.0),
]
WORDLESS = [Request(COLOR, keep=0.25, method="fastervlm"), Request(KNIGHT, method="divprune")]


@pytest.fixture(params=["llava_next", "qwen2_5_vl"])
def family(request) -> str:
    return request.param


@pytest.fixture
def folder(tmp_path, family) -> Path:
    return save(family, tmp_path)


@pytest.fixture
def in_role(tmp_path, family, folder):
    """Starts an engine that shares encodings with the others through a folder."""
    (tmp_path / "shared").mkdir()

    def start(role: str, **options):
        ensure_ec_transfer_shutdown()
        transfer = {
            "ec_connector": "ECExampleConnector",
            "ec_role": role,
            "ec_connector_extra_config": {"shared_storage_path": str(tmp_path / "shared")},
        }
        return engine(family, folder, ec_transfer_config=transfer, **options)

    yield start
    ensure_ec_transfer_shutdown()


def test_the_choice_is_made_where_the_words_are(family, folder, in_role, tmp_path):
    """An engine with both roles encodes and chooses; the other one only reads, and says the same.

    A picture that is asked about twice is encoded once.
    """
    library = Library(family, folder)
    expected = [library.says(asked).ids for asked in ASKED]
    with in_role("ec_both") as first:
        assert [said.ids for said in first.say(*ASKED)] == expected
        assert first.model.encodings.encoded == 3
    # one choice each; and what the engine measured its memory with
    assert len(os.listdir(tmp_path / "shared")) >= 5

    with in_role("ec_consumer") as second:
        assert [said.ids for said in second.say(*ASKED)] == expected
        assert second.model.encodings.encoded == 0
        # what nobody has encoded for it, it encodes itself
        other = Request(COLOR, (3,), keep=0.5)
        assert second.say(other)[0].ids == library.says(other).ids
        assert second.model.encodings.encoded == 1


def test_an_encoder_alone_refuses_what_needs_words(family, folder, in_role):
    """It has no language model: methods without words are done, others refused in one sentence."""
    library = Library(family, folder)
    with in_role("ec_producer") as encoder:
        assert [said.ids for said in encoder.say(*WORDLESS)] == [[], []]
        with pytest.raises(ValueError, match=r"pass another method, e\.g\. fastervlm, or ec_role"):
            encoder.say(Request(COLOR, keep=0.25))
        assert encoder.model.encodings.encoded == 1
    with in_role("ec_consumer") as second:
        said = second.say(*WORDLESS)
        assert [one.ids for one in said] == [library.says(asked).ids for asked in WORDLESS]
        assert second.model.encodings.encoded == 0
