"""Encoders apart from language models (E/PD): what one engine chooses is what another one reads."""

import os
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

from engine import Library, Request, engine
from pairs import save_tiny
from vllm.distributed.ec_transfer.ec_transfer_state import ensure_ec_transfer_shutdown
from wide import register

from adafv.integrations.vllm import ARCHITECTURES

pytestmark = pytest.mark.engines

COLOR, KNIGHT = "what color is the anchor ?", "is there a knight"
ASKED = [
    Request(COLOR, keep=0.25),
    Request(KNIGHT, keep=0.25),
    Request(KNIGHT, (1, 2), keep=0.1),
    Request(COLOR, keep=1.0),
]
CLIP = Request(KNIGHT, (), keep=0.25, clips=(1,))
WORDLESS = [Request(COLOR, keep=0.25, method="fastervlm"), Request(KNIGHT, method="divprune")]


# features of one layer; rows and columns kept; of several layers; tokens between an image's own
STRUCTURE = "Mistral3ForConditionalGeneration"
PLAIN = (
    "LlavaNextForConditionalGeneration",
    "Qwen2_5_VLForConditionalGeneration",
    "Qwen3VLForConditionalGeneration",
)


@pytest.fixture(params=(*PLAIN, STRUCTURE))
def architecture(request) -> str:
    return request.param


@pytest.fixture
def family(architecture) -> str:
    return ARCHITECTURES[architecture].family


@pytest.fixture
def asked(architecture) -> list[Request]:
    return [*ASKED, CLIP] if ARCHITECTURES[architecture].videos else ASKED


@pytest.fixture
def folder(tmp_path, architecture, family) -> Path:
    register(architecture)
    save_tiny(family, architecture, tmp_path)
    return tmp_path


@pytest.fixture
def in_role(tmp_path, architecture, family, folder):
    """Starts an engine that shares encodings with the others through a folder."""
    (tmp_path / "shared").mkdir()
    limits = {"image": 4, "video": int(ARCHITECTURES[architecture].videos)}

    def start(role: str, **options):
        ensure_ec_transfer_shutdown()
        transfer = {
            "ec_connector": "ECExampleConnector",
            "ec_role": role,
            "ec_connector_extra_config": {"shared_storage_path": str(tmp_path / "shared")},
        }
        options["limit_mm_per_prompt"] = limits
        return engine(family, folder, ec_transfer_config=transfer, **options)

    yield start
    ensure_ec_transfer_shutdown()


def test_the_choice_is_made_where_the_words_are(family, folder, in_role, tmp_path, asked):
    """An engine with both roles encodes and chooses; the other one only reads, and says the same.

    A picture that is asked about twice is encoded once.
    """
    library = Library(family, folder)
    expected = [library.says(one).ids for one in asked]
    with in_role("ec_both") as first:
        assert [said.ids for said in first.say(*asked)] == expected
        assert first.model.encodings.encoded == 3 + (CLIP in asked)
    # one choice each; and what the engine measured its memory with
    assert len(os.listdir(tmp_path / "shared")) >= 5

    with in_role("ec_consumer") as second:
        assert [said.ids for said in second.say(*asked)] == expected
        assert second.model.encodings.encoded == 0
        # what nobody has encoded for it, it encodes itself
        other = Request(COLOR, (3,), keep=0.5)
        assert second.say(other)[0].ids == library.says(other).ids
        assert second.model.encodings.encoded == 1


@pytest.mark.parametrize("architecture", PLAIN, indirect=True)
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


@pytest.mark.parametrize("architecture", [STRUCTURE], indirect=True)
def test_an_encoder_alone_refuses_images_with_text_among_their_tokens(in_role):
    """Row breaks are words, which it cannot embed: not even methods without words are done."""
    with (
        in_role("ec_producer") as encoder,
        pytest.raises(ValueError, match="text among the visual tokens of an image cannot be"),
    ):
        encoder.say(*WORDLESS)
