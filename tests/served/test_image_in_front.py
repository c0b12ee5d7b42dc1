"""PaliGemma, whose prompt has no mark of its image: kept indices and answers are the library's."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

from checkpoints import MARKER
from engine import Engine, Library, Request, engine
from on_a_cpu import as_on_a_gpu
from pairs import check
from stock import logprobs, stock
from test_architectures import kept
from wide import register, save_wide

__all__ = ["kept"]

FAMILY, ARCHITECTURE = "paligemma", "PaliGemmaForConditionalGeneration"
COLOR, KNIGHT = "what color is the anchor ?", "is there a knight"


@dataclass(frozen=True)
class Asked(Request):
    """A question behind its image, as PaliGemma was trained."""

    def prompt(
        self, family: str, marker: str | None = None, video_marker: str | None = None
    ) -> str:
        return f"{MARKER[family] if marker is None else marker}{self.question}"


class OneWay(Library):
    """The library on a model that reads its prompt's words one way, as vLLM does."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        prepare, image = self.processor, self.model.config.image_token_id

        def prepared(**given):
            inputs = prepare(**given)
            # 0 sees all that is 0, 1 what stands before it
            inputs["token_type_ids"] = (inputs["input_ids"] != image).long()
            return inputs

        self.processor = prepared


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Iterator[tuple[Engine, Library]]:
    register(ARCHITECTURE)
    folder = tmp_path_factory.mktemp(FAMILY)
    MARKER[FAMILY] = save_wide(FAMILY, ARCHITECTURE, folder)
    library = OneWay(FAMILY, folder)
    # vLLM's prompts have none
    MARKER[FAMILY] = ""
    options = {"limit_mm_per_prompt": {"image": 1}, "disable_chunked_mm_input": True}
    with as_on_a_gpu(both_ways=True), engine(FAMILY, folder, **options) as made:
        yield made, library


@pytest.mark.proves("indices")
def test_one_by_one(both, kept):
    """Exactly the library's indices, by a question that stands behind the image."""
    made, library = both
    for asked in (Asked(KNIGHT, (4,)), Asked(COLOR, (5,), keep=0.2), Asked(COLOR, (4,), keep=0.1)):
        kept.clear()
        expected = check(made.say(asked), library, [asked])
        assert list(kept.values()) == expected
    # the question counts
    asked = [Asked(question, (4,), method="t2i") for question in (KNIGHT, COLOR)]
    one, other = check(made.say(*asked), library, asked)
    assert one != other


@pytest.mark.proves("batch")
def test_in_a_batch(both):
    """Mixed budgets and methods, whole ones and text; then once more, from the caches."""
    made, library = both
    asked = [
        Asked(COLOR),
        Asked(KNIGHT, keep=0.6),
        Asked(KNIGHT, (2,), method="fastervlm"),
        Asked(COLOR, (3,), keep=0.5, method="adafv+"),
        Asked(COLOR, keep=1.0),
    ]
    check(made.say(*asked), library, asked)
    check(made.say(*asked), library, asked)


@pytest.mark.proves("identity")
def test_keep_1_is_stock_vllm(both):
    """Bit for bit: tokens and logprobs, with a budget of 1 and with none at all."""
    made, _ = both
    asked = [Asked(COLOR, (7,), keep=1.0), Asked(KNIGHT, (8,), keep=1.0)]
    with stock(made):
        expected = logprobs(made, plain=True, asked=asked)
    assert logprobs(made, plain=True, asked=asked) == expected
    assert logprobs(made, plain=False, asked=asked) == expected
