"""Every architecture in the table is proven: kept indices and greedy answers are the library's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

from checkpoints import FAMILIES, MARKER
from engine import Engine, Library, Request, Said, engine
from stock import logprobs
from wide import as_served, register, save_wide

from adafv.integrations.vllm import ARCHITECTURES, models

COLOR, KNIGHT = "what color is the anchor ?", "is there a knight"
APART = " and what color is the anchor there with the one of "
SEVERAL = [
    Request(COLOR),
    Request(KNIGHT, keep=0.6),
    Request(COLOR, (1,), keep=0.1),
    Request(KNIGHT, (2,), method="fastervlm"),
    Request(KNIGHT, (0, 1, 2), between=APART),
    Request(COLOR, (3, 3), keep=0.5, between=APART, method="adafv+"),
    Request(COLOR, keep=1.0),
    Request(COLOR, ()),
]
NEW = {name: one.family for name, one in ARCHITECTURES.items() if one.family not in FAMILIES}
OPTIONS = {"lfm2_vl": {"compilation_config": {"custom_ops": ["-rotary_embedding"]}}}
"""Of an engine: on a CPU that kernel leaves out some tokens of this language model."""
MODELS = [*NEW.items(), ("LlavaForConditionalGeneration", "pixtral")]


@pytest.fixture(scope="module", params=MODELS, ids="-".join)
def both(request, tmp_path_factory) -> Iterator[tuple[Engine, Library]]:
    """An engine, which reads prompts in chunks, and the library, of one checkpoint."""
    architecture, family = request.param
    register(architecture)
    folder = tmp_path_factory.mktemp(family)
    MARKER[family] = save_wide(family, architecture, folder)
    library = Library(family, folder)
    as_served(family, folder)
    options = OPTIONS.get(family, {})
    with engine(family, folder, long_prefill_token_threshold=24, **options) as made:
        yield made, library


@pytest.fixture
def kept(monkeypatch) -> dict[str, list[int]]:
    """What was kept of each image that was pruned, by its hash."""
    found: dict[str, list[int]] = {}
    select = models.select

    def noting(specs: Any, *rest: Any, **options: Any) -> Any:
        images = select(specs, *rest, **options)
        for spec, image in zip(specs, images, strict=True):
            if not spec.dense:
                found[spec.hash] = image.kept.tolist()
        return images

    monkeypatch.setattr(models, "select", noting)
    return found


def check(said: list[Said], library: Library, asked: list[Request]) -> list[list[int]]:
    """Compare answers with the library's, and return which indices it keeps."""
    kept = []
    for one, of in zip(said, asked, strict=True):
        expected = library.says(of)
        assert (one.ids, one.length) == (expected.ids, expected.length), of
        kept += expected.kept
    return kept


def test_one_by_one(both, kept):
    """Exactly the library's indices, image by image."""
    made, library = both
    for asked in (Request(KNIGHT, (4,)), Request(COLOR, (5, 6), keep=0.2, between=APART)):
        kept.clear()
        expected = check(made.say(asked), library, [asked])
        assert sorted(kept.values()) == sorted(expected)


def test_in_a_batch(both, kept):
    """Several and equal images, mixed budgets and methods, whole ones and text; then once more,
    from the caches.
    """
    made, library = both
    check(made.say(*SEVERAL), library, SEVERAL)
    assert kept
    check(made.say(*SEVERAL), library, SEVERAL)


@contextmanager
def stock(made: Engine) -> Iterator[None]:
    """The same engine with vLLM's own model and processor, as long as the context is open."""
    parts = (made.model, made.llm.llm_engine.renderer.mm_processor)
    ours = [type(part) for part in parts]
    for part, pruned in zip(parts, ours, strict=True):
        # the first that is vLLM's, in the order in which methods are looked up
        part.__class__ = next(cls for cls in pruned.__mro__ if cls.__module__.startswith("vllm."))
    forget(made)
    try:
        yield
    finally:
        for part, pruned in zip(parts, ours, strict=True):
            part.__class__ = pruned
        forget(made)


def forget(made: Engine) -> None:
    """Empty all caches."""
    made.llm.reset_prefix_cache()
    made.llm.reset_mm_cache()
    made.llm.llm_engine.reset_encoder_cache()


def test_keep_1_is_stock_vllm(both):
    """Bit for bit: tokens and logprobs, with a budget of 1 and with none at all."""
    made, _ = both
    with stock(made):
        assert not hasattr(made.model, "_encoded")
        expected = logprobs(made, plain=True)
    assert logprobs(made, plain=True) == expected
    forget(made)
    assert logprobs(made, plain=False) == expected


def test_the_prefix_cache(both):
    """Whole blocks of a prompt are read from the cache, those of its images too, and right."""
    made, library = both
    asked = Request(COLOR, (7, 8, 9), keep=0.9, between=APART)
    other = Request(f"{COLOR} {KNIGHT}", (7, 8, 9), keep=0.9, between=APART)
    check(made.say(asked), library, [asked])
    [again] = made.say(asked)
    check([again, *made.say(other)], library, [asked, other])
    assert again.cached >= 32
