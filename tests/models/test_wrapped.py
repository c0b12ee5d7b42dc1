"""Models loaded as people load them: adapters, offloading, compilation, quantisation, several
processes.
"""

import os
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from processes import fork
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig
from zoo.families import ask, show, tiny

from adafv import AdaFV, method
from adafv.app.server import free_port

pytestmark = pytest.mark.slow

QUESTION = "what color is the anchor ?"
INPUTS = ask("llava", (QUESTION, [show(80, 48)]))


def answer(model, inputs: dict) -> list[int]:
    out = model.generate(**inputs, do_sample=False, max_new_tokens=4)
    return out[0, inputs["input_ids"].shape[1] :].tolist()


def pruned(model) -> list[list[int]]:
    """Answers by a dict, attached, and pruned inside the language model."""
    answers = [answer(model, AdaFV(keep=0.3)(model, INPUTS))]
    for pruner in (AdaFV(keep=0.3), method("fastv", keep=0.6)):
        with pruner.attached(model):
            answers.append(answer(model, INPUTS))
    return answers


@pytest.fixture(scope="module")
def plain():
    return tiny("llava").model


@pytest.fixture(scope="module")
def folder(plain, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("llava")
    plain.save_pretrained(path)
    return path


def loaded(folder: Path, **options):
    model = AutoModelForImageTextToText.from_pretrained(folder, **options).eval()
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 1
    return model


def test_adapters_of_peft_around_a_model(plain):
    """A fresh adapter changes nothing; a trained one prunes by its own features."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    model = peft.get_peft_model(deepcopy(plain), config).eval()
    assert pruned(model) == pruned(plain)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    assert (
        answer(model, AdaFV(keep=1.0)(model, INPUTS))
        == answer(model, INPUTS)
        != answer(plain, INPUTS)
    )


@pytest.mark.parametrize("part", ["model.language_model", "model.vision_tower"])
def test_a_part_of_the_model_offloaded(plain, folder, tmp_path, part):
    """As device_map="auto" leaves it where memory is short: weights come from the disk when they
    are needed.
    """
    parts = ("model.vision_tower", "model.multi_modal_projector", "model.language_model", "lm_head")
    places = {p: "disk" if p == part else "cpu" for p in parts}
    assert pruned(loaded(folder, device_map=places, offload_folder=tmp_path)) == pruned(plain)


def test_device_map_auto(plain, folder):
    assert pruned(loaded(folder, device_map="auto")) == pruned(plain)


def test_a_compiled_model(plain):
    """Both ways: the module, and its forward.

    The eager backend traces all that inductor would compile.
    """
    torch._dynamo.reset()
    model = deepcopy(plain)
    model.forward = torch.compile(model.forward, backend="eager")
    assert answer(model, AdaFV(keep=0.3)(model, INPUTS)) == pruned(plain)[0]
    module = torch.compile(deepcopy(plain), backend="eager")
    with AdaFV(keep=0.3).attached(module):
        assert answer(module, INPUTS) == pruned(plain)[1]


@pytest.fixture(scope="module")
def wide(plain, tmp_path_factory) -> Path:
    """Wide enough for the blocks of 4-bit weights."""
    config = deepcopy(plain.config)
    config.text_config.hidden_size = config.text_config.intermediate_size = 128
    config.text_config.head_dim = config.vision_config.hidden_size = (
        config.vision_config.intermediate_size
    ) = 128
    path = tmp_path_factory.mktemp("wide")
    type(plain)(config).save_pretrained(path)
    return path


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_weights(wide, bits):
    """Weights of 4 and 8 bits: keeping everything is the identity, and pruning goes on in all three
    ways.
    """
    pytest.importorskip("bitsandbytes")
    config = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    model = loaded(wide, quantization_config=config, device_map="cpu")
    assert answer(model, AdaFV(keep=1.0)(model, INPUTS)) == answer(model, INPUTS)
    assert len(pruned(model)[0]) == 4


def half(folder: Path, expected: list[list[int]], rank: int, port: int) -> None:
    """Prune as one of two processes that hold half of the heads each."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo")
    model = loaded(folder, tp_plan="auto")
    projection = model.model.language_model.layers[0].self_attn.q_proj
    assert projection.weight.to_local().shape[0] == 16, "not split"
    assert pruned(model) == expected


def test_tensor_parallel_processes_choose_the_same_tokens(plain, folder):
    """Inside the language model they add up their attention."""
    expected, port = pruned(plain), free_port("127.0.0.1", 0)
    halves = [fork(half, folder, expected, rank, port) for rank in range(2)]
    for process in halves:
        process.join(timeout=240)
        assert process.exitcode == 0
