"""Tiny random models of the real classes, with real processors; nothing is downloaded."""

import os
from functools import cache

import numpy as np
import pytest
import torch
import transformers
from hypothesis import settings
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, CLIPVisionConfig, PreTrainedTokenizerFast
from zoo import base, served_record
from zoo.family_record import enter, settle
from zoo.llava import PACKED, PINPOINTS, SIZE

from adafv import METHODS
from adafv.core.layerwise import LayerPruner
from adafv.speed.shapes import with_control_tokens

WORDS = base.WORDS[:-1]  # without the line break
SPECIAL = ("<unk>", "<pad>", "<s>", "</s>", "<image>")
CHAT = (
    "{% for m in messages %}{{ m['role'].upper() }} : {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image> {% else %}{{ c['text'] }} {% endif %}{% endfor %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT :{% endif %}"
)

INSIDE = tuple(name for name, cls in METHODS.items() if issubclass(cls, LayerPruner))
BEFORE = tuple(name for name in METHODS if name not in INSIDE)
BACKBONES = ("llama", "mistral", "qwen2")
FAMILIES = ("llava", "llava_next")

# on a machine that others use, too, any example may take long
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return with_control_tokens(words, {"image_token": "<image>"})


@cache
def tiny_processor(family: str):
    if family == "llava":
        images = transformers.CLIPImageProcessorPil(**SIZE)
        return transformers.LlavaProcessor(images, tokenizer(), **PACKED, chat_template=CHAT)
    images = transformers.LlavaNextImageProcessorPil(**SIZE, image_grid_pinpoints=PINPOINTS)
    return transformers.LlavaNextProcessor(images, tokenizer(), **PACKED, chat_template=CHAT)


def tiny_model(family: str, backbone: str = "llama", seed: int = 0):
    """36 patches per crop; LLaVA-NeXT: a thumbnail and two to four tiles."""
    torch.manual_seed(seed)
    options = dict(
        vision_config=CLIPVisionConfig(**base.vision(initializer_factor=4.0)),
        text_config=AutoConfig.for_model(backbone, **base.text(tokenizer())),
        image_token_id=SPECIAL.index("<image>"),
    )
    if family == "llava":
        config = transformers.LlavaConfig(**options)
        model = transformers.LlavaForConditionalGeneration(config)
    else:
        config = transformers.LlavaNextConfig(**options, image_grid_pinpoints=PINPOINTS)
        model = transformers.LlavaNextForConditionalGeneration(config)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 1
    return model.eval()


def fixtures_of(family: str):
    """Fixtures `model` and `processor` of a module that tries no other family."""

    @pytest.fixture(scope="module")
    def model():
        return tiny_model(family)

    @pytest.fixture(scope="module")
    def processor():
        return tiny_processor(family)

    return model, processor


@pytest.fixture(scope="session", params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def model(family):
    return tiny_model(family)


@pytest.fixture(scope="session")
def processor(family):
    return tiny_processor(family)


@pytest.fixture(autouse=True, scope="session")
def nothing_fetched(tmp_path_factory) -> None:
    """An empty folder for what is fetched: a photo model of the user's own plays no part."""
    os.environ["ADAFV_HOME"] = str(tmp_path_factory.mktemp("home"))


def picture(width: int = 48, height: int = 48, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def prompt(*questions: str, images: int = 1) -> str:
    return (
        "USER : "
        + "<image> " * images
        + " ".join(questions or ("what color is the anchor ?",))
        + " ASSISTANT :"
    )


def inputs_for(processor, *samples: tuple[str, list[Image.Image]], side: str = "left"):
    """A batch from (text, images) pairs."""
    images = [image for _, pictures in samples for image in pictures]
    processor.tokenizer.padding_side = side
    try:
        return dict(
            processor(
                text=[text for text, _ in samples],
                images=images or None,
                return_tensors="pt",
                padding=True,
            )
        )
    finally:
        # other tests have the same processor
        processor.tokenizer.padding_side = "left"


FEW = ("llava_next", "qwen2_5_vl")
"""Families that the fast lane tries."""


def pytest_addoption(parser):
    parser.addoption(
        "--record",
        action="store_true",
        help="write what tests/families and tests/served prove to proven.json of either",
    )
    parser.addoption(
        "--fast", action="store_true", help="leave out slow tests, and all but two families"
    )


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "proves(check): what a test of a family or an architecture proves, for a record"
    )
    config.addinivalue_line("markers", "slow: left out by --fast")
    config.addinivalue_line("markers", "compiled: compiles a model, which takes a minute")
    config.addinivalue_line("markers", "engines: starts engines of its own, which takes minutes")
    config.outcomes = {}
    config.served = {}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    # one test alone says nothing of its kind
    if not any("::" in argument for argument in config.args):
        config.served = served_record.collected(items)
    if not config.getoption("--fast"):
        return
    from zoo.families import ZOO

    left_out = [item for item in items if _is_slow(item, ZOO)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


def _is_slow(item: pytest.Item, families) -> bool:
    """Return whether a test is marked slow, or tries a family that is not among the few."""
    if item.get_closest_marker("slow"):
        return True
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    others = set(families) - set(FEW)
    return any(isinstance(value, str) and value in others for value in parameters)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    enter(item.config.outcomes, item, report)
    return report


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """Take over what a process of pytest-xdist has seen."""
    for family, found in getattr(node, "workeroutput", {}).get("outcomes", {}).items():
        for check, results in found.items():
            node.config.outcomes.setdefault(family, {}).setdefault(check, []).extend(results)
    # every process has collected all
    node.config.served |= getattr(node, "workeroutput", {}).get("served", {})


def pytest_sessionfinish(session):
    config = session.config
    if hasattr(config, "workeroutput"):
        config.workeroutput["outcomes"] = config.outcomes
        config.workeroutput["served"] = config.served
        return
    write = config.getoption("--record")
    complaints = (
        settle(config.outcomes, write),
        served_record.settle(config.served, config.outcomes, write) if config.served else None,
    )
    for complaint in filter(None, complaints):
        print(f"\n{complaint}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
