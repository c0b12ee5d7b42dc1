"""Models of vLLM's Transformers backend: as `adafv serve` starts them, on two ranks, compiled."""

from collections.abc import Iterator

import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

from checkpoints import MARKER
from engine import Library, Request, check_equal, engine
from stock import not_compiled
from wide import register, save_wide

from adafv.integrations.vllm import ARCHITECTURES
from adafv.models.processors import processor_class

COLOR, KNIGHT = "what color is the anchor ?", "is there a knight"
ASKED = [
    Request(COLOR),
    Request(KNIGHT, (1, 2), keep=0.5, between=" and the other "),
    Request(COLOR, (3,), keep=0.2, method="adafv+"),
    Request(KNIGHT, (0,), keep=1.0),
    Request(COLOR, ()),
]
NAMES = [name for name, one in ARCHITECTURES.items() if one.module == "transformers"]


@pytest.fixture(scope="module", params=NAMES)
def library(request, tmp_path_factory) -> Iterator[Library]:
    """The library, of a checkpoint of one of the models."""
    family = ARCHITECTURES[request.param].family
    register(request.param)
    folder = tmp_path_factory.mktemp(family)
    MARKER[family] = save_wide(family, request.param, folder)
    made = Library(family, folder)
    with not_compiled(made.model.get_decoder()):
        yield made


def check(library: Library, **options) -> None:
    """Ask an engine with options, and the library, the same.

    Of images: vLLM fails to measure memory with clips of these models.
    """
    options["limit_mm_per_prompt"] = {"image": 4, "video": 0}
    with engine(library.family, library.folder, **options) as made:
        assert made.llm.llm_engine.model_config.using_transformers_backend()
        check_equal(made.say(*ASKED), library, ASKED)


def test_prepared_with_pillow(library, monkeypatch):
    """`adafv serve` asks for it, and some processors keep options that they are told for good."""
    kind = processor_class(library.model.config)
    pil = kind.from_pretrained(library.folder, backend="pil")
    monkeypatch.setattr(library, "processor", pil)
    check(library, mm_processor_kwargs={"adafv_methods": "all", "backend": "pil"})


def test_refused_where_vllm_is_told_to_run_its_own_class(library):
    """`--model-impl transformers` goes past the plugin."""
    given = {"adafv_keep": 0.2}
    with pytest.raises(ValueError, match="not pruned with --model-impl transformers"):
        check(library, model_impl="transformers", mm_processor_kwargs=given)


@pytest.mark.engines
def test_two_ranks(library, monkeypatch):
    """Each sees half of the heads of the tower; both choose as one would."""
    if library.family == "video_llama_3":
        pytest.skip("its tower counts whole heads, in transformers 5.19")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    check(library, tensor_parallel_size=2)


@pytest.mark.engines
def test_torch_compile(library):
    """VLLM compiles transformers' class of the language model in place."""
    check(library, enforce_eager=False)
