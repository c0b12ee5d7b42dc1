"""Images that are prepared once give the processor's own inputs, to the bit, in every family."""

from copy import copy

import pytest
import torch
from zoo.families import ZOO, show, tiny

from adafv.core.inputs import PIXEL_NAMES
from adafv.evaluation.prepared_images import PreparedImages
from adafv.models.prompting import build_batch

QUESTIONS = ("what color is the anchor ?", "is there a red knight left of it ?", "how many ?")
CHAT = (
    "{% for m in messages %}{{ m['role'].upper() }} : {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}MARKER {% else %}{{ c['text'] }} {% endif %}{% endfor %}"
    "{% endfor %}ASSISTANT :"
)


@pytest.fixture(params=sorted(ZOO))
def processor(request):
    """A family's processor, with a chat template."""
    found = copy(tiny(request.param).processor)
    found.chat_template = CHAT.replace("MARKER", tiny(request.param).marker)
    return found


@pytest.fixture
def prepared_sizes(processor, monkeypatch) -> list[int]:
    """How many images each call of the image processor prepares."""
    sizes: list[int] = []
    cls = type(processor.image_processor)
    plain = cls.__call__

    def counted(self, images, *args, **options):
        sizes.append(
            sum(len(of_prompt) for of_prompt in images)
            if isinstance(images[0], list)
            else len(images)
        )
        return plain(self, images, *args, **options)

    monkeypatch.setattr(cls, "__call__", counted)
    return sizes


def same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.dtype == other[name].dtype, name
        assert torch.equal(value, other[name]), name


def test_the_inputs_are_the_processors(processor, prepared_sizes):
    """Images of several shapes, each in several prompts of several lengths; their pixels may be
    left out.
    """
    images = [show(80, 48), show(48, 48, seed=1), show(30, 90, seed=2)]
    prepared = PreparedImages(processor, images)
    found = []
    for shown, asked in (([0, 1, 2], [0, 1, 2]), ([0, 0, 2, 1], [1, 2, 0, 2]), ([1], [1])):
        texts = [QUESTIONS[i] for i in asked]
        found.append((shown, texts, prepared.ask(shown, texts, "cpu", torch.float64)))
        few = prepared.ask(shown, texts, "cpu", torch.float64, pixels=False)
        assert found[-1][2].keys() - few.keys() == found[-1][2].keys() & {*PIXEL_NAMES["image"]}
    assert prepared_sizes == [1, 1, 1]
    for shown, texts, inputs in found:
        same(
            inputs, build_batch(processor, [images[i] for i in shown], texts, "cpu", torch.float64)
        )
