"""Protects answers after an update of weights: no encoding of the old ones is read again."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

from vllm.v1.worker.gpu_worker import Worker

from adafv.families.crop_layout import raster
from adafv.integrations.vllm.encoder_cache import Encoded, Encodings
from adafv.integrations.vllm.weight_updates import forget_with_vllm


@pytest.mark.parametrize("pruned", [True, False])
def test_encodings_go_with_those_of_vllm(pruned):
    """Whatever model the worker has."""
    forget_with_vllm()
    forget_with_vllm()
    encodings = Encodings(1e6)
    encodings.add("a", Encoded(torch.zeros(4, 8), torch.zeros(4), raster(2, 2)))
    model = SimpleNamespace(encodings=encodings) if pruned else SimpleNamespace()
    calls = []
    worker = Worker.__new__(Worker)
    worker.model_runner = SimpleNamespace(
        get_model=lambda: model, reset_encoder_cache=lambda: calls.append(1)
    )
    worker.reset_encoder_cache()
    assert calls == [1]
    assert (encodings.find("a") is None) is pruned
