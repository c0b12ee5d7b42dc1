"""Protects: a burst has no more visual tokens encoded in a step than stock vLLM would, whatever is
kept of them, nobody waits for ever, and nobody reads anything else.
"""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

from checkpoints import save
from engine import Engine, Library, Request, check_equal, engine
from vllm.v1.core.encoder_cache_manager import EncoderCacheManager

from adafv.cli.serve import BUDGET
from adafv.integrations.vllm import encoder_budget, models
from adafv.integrations.vllm.encoder_budget import EncoderBudget, visual_tokens

COLOR, KNIGHT = "what color is the anchor ?", "is there a knight"
BURST = [Request(COLOR, (i,), keep=0.05) for i in (3, 7, 11, 0, 15, 1, 19, 23, 2, 4, 27, 31)]
MIXED = [
    Request(COLOR, (20,), keep=0.05),
    Request(COLOR, (21, 22, 23), keep=0.1),
    Request(KNIGHT, (23,), keep=1.0),
    Request(KNIGHT, (24, 24), keep=0.5),
    Request(COLOR, ()),
    Request(KNIGHT, (20,), keep=0.05),
    Request(COLOR, (27, 26), keep=1.0),
]


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Iterator[tuple[Engine, Library]]:
    folder = save("llava_next", tmp_path_factory.mktemp("llava_next"))
    options = {"max_num_batched_tokens": 128, "ec_manager_config": BUDGET}
    with engine("llava_next", folder, **options) as made:
        yield made, Library("llava_next", folder)


@pytest.fixture
def scheduler(both) -> Any:
    made, _ = both
    return made.llm.llm_engine.engine_core.engine_core.scheduler


@pytest.fixture
def steps(scheduler, monkeypatch) -> list[list[int]]:
    """Visual tokens of the images that each step encodes, where it encodes some."""
    found: list[list[int]] = []
    schedule = scheduler.schedule

    def noting(*args: Any, **options: Any) -> Any:
        output = schedule(*args, **options)
        encoded = []
        for name, indices in output.scheduled_encoder_inputs.items():
            features = scheduler.requests[name].mm_features
            encoded += [visual_tokens(features[i]) for i in indices]
        if encoded:
            found.append(encoded)
        return output

    monkeypatch.setattr(scheduler, "schedule", noting)
    return found


@pytest.mark.parametrize("asked", [BURST, MIXED], ids=["burst", "mixed"])
def test_a_step_encodes_what_stock_would(both, scheduler, steps, asked):
    made, library = both
    assert isinstance(scheduler.encoder_cache_manager, EncoderBudget)
    check_equal(made.say(*asked), library, asked)
    assert max(map(sum, steps)) <= scheduler.max_num_encoder_input_tokens
    # the bound is the largest image's, and there is room for two small ones
    assert max(map(len, steps)) == 2


def test_the_same_tokens_are_kept(both, steps, monkeypatch):
    made, library = both
    found = []
    select = models.select

    def noting(*args: Any, **options: Any) -> Any:
        kept = select(*args, **options)
        found.extend(image.kept.tolist() for image in kept)
        return kept

    monkeypatch.setattr(models, "select", noting)
    asked = [Request(KNIGHT, (40 + i,), keep=0.2) for i in range(4)]
    check_equal(made.say(*asked), library, asked)
    assert sorted(found) == sorted(k for one in asked for k in library.says(one).kept)
    assert len(steps) > 1


def test_by_kept_tokens_a_burst_is_encoded_at_once(both, scheduler, steps, monkeypatch):
    """The negative control: what vLLM's own manager lets through."""
    stock = EncoderCacheManager(scheduler.encoder_cache_manager.cache_size)
    monkeypatch.setattr(scheduler, "encoder_cache_manager", stock)
    made, _ = both
    made.say(*[Request(COLOR, (60 + i,), keep=0.05) for i in range(12)])
    assert max(map(sum, steps)) > 4 * scheduler.max_num_encoder_input_tokens


def request(*kept: int) -> Any:
    """A request with images of which nothing is known but the kept tokens, as another process's."""
    features = []
    for i, count in enumerate(kept):
        place = SimpleNamespace(get_num_embeds=lambda count=count: count)
        feature = SimpleNamespace(
            mm_position=place, data=None, modality="image", identifier=f"{kept}{i}"
        )
        features.append(feature)
    return SimpleNamespace(
        request_id=str(kept),
        mm_features=features,
        get_num_encoder_embeds=lambda i: kept[i],
    )


def test_what_is_allowed_and_not_used_is_not_charged():
    """An image is asked for, and then there is no room for its request."""
    manager = EncoderBudget(cache_size=1000)
    first, second = request(60), request(50, 50, 10)
    assert manager.can_allocate(first, 0, 100, 0)
    # the first was not scheduled
    assert manager.can_allocate(second, 0, 100, 0)
    assert manager.can_allocate(second, 1, 50, 50)
    assert not manager.can_allocate(second, 2, 100, 100)
    manager.allocate(second, 0)
    manager.allocate(second, 1)
    assert not manager.can_allocate(first, 0, 100, 0)
    # the next step
    manager.get_freed_mm_hashes()
    assert manager.can_allocate(first, 0, 100, 0)
    # vLLM's own bounds hold, too
    assert not manager.can_allocate(second, 2, 5, 0)


def test_an_image_larger_than_a_step_is_encoded_alone(monkeypatch):
    """Of 300 visual tokens 10 are kept, with room for 100 in a step."""
    manager = EncoderBudget(cache_size=1000)
    small, large = request(20), request(10)
    sizes = {"(20,)0": 20, "(10,)0": 300}
    monkeypatch.setattr(encoder_budget, "visual_tokens", lambda image: sizes[image.identifier])
    for first, second in ((large, small), (small, large)):
        assert manager.can_allocate(first, 0, 100, 0)
        manager.allocate(first, 0)
        assert not manager.can_allocate(second, 0, 90, 0)
        manager.free(first)
        manager.get_freed_mm_hashes()


def config(transfer: Any = None) -> Any:
    return SimpleNamespace(ec_transfer_config=transfer)


def test_images_that_come_encoded_are_counted_by_vllm():
    consumer = SimpleNamespace(is_ec_consumer=True)
    for transfer, cls in ((None, EncoderBudget), (consumer, EncoderCacheManager)):
        made = EncoderBudget.create_manager(cache_size=1000, vllm_config=config(transfer))
        assert type(made) is cls
        assert made.cache_size == 1000


def test_another_vllm_is_refused_when_an_engine_starts(monkeypatch):
    class Other(EncoderCacheManager):
        def allocate(self, request: Any, input_id: int, tokens: int) -> None: ...

    monkeypatch.setattr(encoder_budget, "EncoderCacheManager", Other)
    with pytest.raises(ValueError, match="another allocate"):
        EncoderBudget.create_manager(cache_size=1000, vllm_config=config())
