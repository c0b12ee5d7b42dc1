"""What goes wrong for one request stays with it."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

from checkpoints import save
from engine import Request, engine
from transformers import Blip2Config, Blip2Processor, BlipImageProcessor
from vllm import SamplingParams
from vllm.config import ModelConfig
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.utils.argparse_utils import FlexibleArgumentParser
from zoo.base import words

from adafv.integrations.vllm import register, request_cost
from adafv.integrations.vllm.server import main
from adafv.methods import AdaFV

GOOD, BAD = Request("what color is the anchor ?"), Request("is there a knight")


def test_a_method_that_fails_ends_its_request_alone(tmp_path, monkeypatch):
    """The engine goes on, neighbours get their answers, and who asks again reads no zeros."""
    words = []
    pick = AdaFV.pick

    def fails(self, tokens, budget):
        words.append(int(tokens.text_mask.sum(1).max()))
        if words[-1] == length:
            raise RuntimeError("out of luck")
        return pick(self, tokens, budget)

    def finished(*asked, max_tokens=4):
        greedy = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
        found = made.llm.generate(list(map(made.request, asked)), greedy, use_tqdm=False)
        return [(o.outputs[0].finish_reason, list(o.outputs[0].token_ids)) for o in found]

    monkeypatch.setattr(AdaFV, "pick", fails)
    with engine("llava", save("llava", tmp_path)) as made:
        length = 0
        [good] = finished(GOOD)
        [other] = finished(BAD)
        made.llm.reset_prefix_cache()
        # the second question's words are counted, and fail
        length = words[1]
        assert words[0] != length
        assert finished(GOOD, Request(BAD.question, keep=0.4), GOOD)[::2] == [good, good]
        assert finished(Request(BAD.question, keep=0.4))[0][0] == "error"
        # a token that is the last one is one of zeros, too
        assert finished(Request(BAD.question, keep=0.2), max_tokens=1) == [("error", [])]
        length = 0
        assert finished(Request(BAD.question, keep=0.4))[0][0] == "error"
        assert finished(BAD) == [other]


@pytest.mark.engines
@pytest.mark.parametrize(
    ("ranks", "at"),
    [(1, None), (2, None), (2, 1)],
    ids=["a worker", "two ranks", "one of two ranks"],
)
def test_a_method_that_fails_in_another_process(tmp_path, monkeypatch, ranks, at):
    """The engine's core hears of it from its worker; all ranks fail where one does."""
    greedy = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
    options = {"worker_extension_cls": "faulty.Faulty", "tensor_parallel_size": ranks}
    # else the tests' folder is known to the first process alone
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    if ranks > 1:
        monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    with engine("llava", save("llava", tmp_path), in_process=False, **options) as made:

        def finished(*asked):
            found = made.llm.generate(list(map(made.request, asked)), greedy, use_tqdm=False)
            return [(o.outputs[0].finish_reason, list(o.outputs[0].token_ids)) for o in found]

        assert made.llm.llm_engine.vllm_config.parallel_config.distributed_executor_backend == "mp"
        [good] = finished(GOOD)
        assert good[0] == "length"
        bad = Request(BAD.question, keep=0.5)
        made.llm.collective_rpc("fail_at", args=(18, at))
        assert finished(GOOD, bad, GOOD) == [good, ("error", []), good]
        made.llm.collective_rpc("fail_at", args=(0,))
        # what the caches hold of it are zeros
        assert finished(bad, GOOD) == [("error", []), good]
        assert finished(BAD)[0][0] == "length"


def test_images_of_a_request_share_what_choosing_may_cost(tmp_path, monkeypatch):
    """Those that vLLM's cache knows count, too, and what is refused leaves it as it was."""
    monkeypatch.setattr(request_cost, "MOST_STEPS", 300)
    both, first, second = [
        Request(GOOD.question, images, keep=0.2, method="divprune")
        for images in ((0, 1), (0,), (1,))
    ]
    options = {"adafv_methods": "divprune"}
    with engine("llava", save("llava", tmp_path), mm_processor_kwargs=options) as made:
        for _ in range(2):
            with pytest.raises(ValueError, match=r"of 2 images takes .*: send at most 1 of this"):
                made.say(both)
            assert len(made.say(first, second)) == 2


def test_a_name_that_a_client_gives_a_picture_does_not_say_which_it_is(tmp_path):
    """Two pictures of one name are two, whatever is kept; one by its name alone is refused."""
    greedy = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
    asked = (
        Request(GOOD.question, (0,)),
        Request(BAD.question, (1,)),
        Request(BAD.question, (3,)),
        Request(GOOD.question, (0,), keep=1.0),
        Request(GOOD.question, (1,), keep=1.0),
    )
    with engine("llava_next", save("llava_next", tmp_path)) as made:
        plain = [made.request(one) for one in asked]
        named = [request | {"multi_modal_uuids": {"image": ["x"]}} for request in plain]
        found = []
        for requests in (named, plain):
            answers = made.llm.generate(requests, greedy, use_tqdm=False)
            found.append([list(answer.outputs[0].token_ids) for answer in answers])
        assert found[0] == found[1]

        alone = named[0] | {"multi_modal_data": {"image": [None]}}
        with pytest.raises(ValueError, match="by its uuid alone is not looked up"):
            made.llm.generate([alone], greedy, use_tqdm=False)


@pytest.fixture(scope="module")
def unpruned(tmp_path_factory) -> Path:
    """A checkpoint of a family that cannot be pruned, without weights."""
    folder = tmp_path_factory.mktemp("blip-2")
    config = Blip2Config(architectures=["Blip2ForConditionalGeneration"])
    config.save_pretrained(folder)
    Blip2Processor(BlipImageProcessor(), words("<image>")).save_pretrained(folder)
    return folder


def test_a_server_of_a_model_that_is_not_pruned_takes_no_budget(unpruned):
    """It would answer from the whole picture."""
    register()
    for options in ({"adafv_keep": 0.1}, {"adafv_method": "random"}):
        config = ModelConfig(str(unpruned), mm_processor_kwargs=options, max_model_len=64)
        with pytest.raises(ValueError, match="Blip2ForConditionalGeneration is not pruned"):
            MULTIMODAL_REGISTRY.create_processor(config)


def test_nor_does_it_for_a_request(unpruned):
    register()
    processor = MULTIMODAL_REGISTRY.create_processor(ModelConfig(str(unpruned), max_model_len=64))
    asked = SimpleNamespace(hf_processor_mm_kwargs={"adafv_keep": 0.1})
    with pytest.raises(ValueError, match="adafv's options have no effect"):
        processor.apply(asked, None)


def test_a_flag_that_nobody_knows(monkeypatch, capsys):
    """One sentence with the nearest, not vLLM's usage."""
    # which `main` replaces for the server that it starts
    monkeypatch.setattr(FlexibleArgumentParser, "error", FlexibleArgumentParser.error)
    monkeypatch.setattr("sys.argv", ["server", "--kep", "0.1", "--port", "1"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "neither adafv serve nor vLLM has --kep: did you mean '--keep'?" in said
    assert "usage" not in said
