"""The script for a GPU, on a CPU: it compares, and notices what is not the library's."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

import gpu
from engine import Request, Said

ASKED = [Request("is there a knight"), Request("what color", keep=1.0)]
SAID = [Said([1, 2], 9, [[0, 3]]), Said([3], 12, [[0, 1, 2, 3]])]
LIBRARY = SimpleNamespace(says=lambda asked: SAID[ASKED.index(asked)])


def test_what_is_equal():
    found = gpu.compare(SAID, [replace(SAID[0], cached=32), SAID[1]], [[0, 3]], LIBRARY, ASKED)
    assert found == gpu.Compared(4, 1, 4, 1, cached=32)
    assert found.equal


def test_another_answer_and_other_indices_are_noticed():
    wrong = [replace(SAID[0], ids=[1, 1]), SAID[1]]
    found = gpu.compare(SAID, wrong, [[0, 3]], LIBRARY, ASKED)
    assert (found.answers, found.of_answers) == (3, 4)
    assert not found.equal
    assert not gpu.compare(SAID, SAID, [[0, 2]], LIBRARY, ASKED).equal
    assert not gpu.compare(SAID, SAID, [], LIBRARY, ASKED).equal


@pytest.mark.parametrize(("module", "mode"), [("vllm.v1.worker.cpu", "FULL"), (gpu.V2, "NONE")])
def test_a_gpu_without_what_is_to_be_tried_is_refused(module, mode):
    runner = type("Runner", (), {"__module__": module})()
    worker = SimpleNamespace(worker=SimpleNamespace(model_runner=runner))
    core = SimpleNamespace(model_executor=SimpleNamespace(driver_worker=worker))
    graphs = SimpleNamespace(cudagraph_mode=SimpleNamespace(name=mode))
    engine = SimpleNamespace(
        engine_core=SimpleNamespace(engine_core=core),
        vllm_config=SimpleNamespace(compilation_config=graphs),
    )
    made = SimpleNamespace(llm=SimpleNamespace(llm_engine=engine), on_gpu=True)
    with pytest.raises(RuntimeError, match="where V2 and graphs were to be tried"):
        gpu.runner_of(made)
    made.on_gpu = False
    assert gpu.runner_of(made).endswith(f"graphs {mode}")


@pytest.mark.engines
def test_on_a_cpu(capsys):
    """All but the model runner and its graphs."""
    assert gpu.main(["--device", "cpu", "--only", "llava_next", "mistral3"]) == 0
    out = capsys.readouterr().out
    assert "llava_next" in out
    assert "as the library, in " in out
    assert "not as" not in out
