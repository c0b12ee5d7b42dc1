"""Model Runner V2, vLLM's default where Triton is, gives the language model what the library does.

No CPU runs it whole, so its own classes are driven here: they encode a request's images, cut its
prompt into chunks, and put embeddings in place; then the model's `forward` adds rows and columns.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

from engine import Engine, Library, Request, picture
from pairs import pair
from torch import Tensor
from vllm.v1.worker.gpu import buffer_utils
from vllm.v1.worker.gpu.mm import rope
from vllm.v1.worker.gpu.mm.encoder_cache import EncoderCache
from vllm.v1.worker.gpu.mm.encoder_runner import EncoderRunner

from adafv import method

CHUNK = 24
INDEX = 1
"""Of the request among those that the runner holds."""
ASKED = [
    Request("what color is the anchor ?"),
    Request("is there a knight", (1, 2), keep=0.4, method="adafv+"),
    Request("is there a knight", (0, 0), keep=1.0),
]
TRIED = {
    # positions in a row, and M-RoPE
    "llava_next": "LlavaNextForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    # features of deeper layers, and structure between tokens
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    "mistral3": "Mistral3ForConditionalGeneration",
}


@dataclass
class Read:
    """What a language model reads: embeddings (L, D) and positions (L,) or (3, L), and what is
    added in its first layers, (L, D) each (DeepStack).
    """

    embeddings: Tensor
    positions: Tensor
    levels: list[Tensor] = field(default_factory=list)


class Launched:
    """In place of a kernel of Triton, a function that runs for each program of its grid."""

    def __init__(self, program: Callable[..., None]) -> None:
        self.program = program

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        def launch(*args: Any, **options: Any) -> None:
            for index in range(grid[0]):
                self.program(index, *args, **options)

        return launch


def write_row(
    index: int,
    output: Tensor,
    stride: int,
    rows: Tensor,
    starts: Tensor,
    contents: Tensor,
    ends: Tensor,
    groups: None,
    **sizes: Any,
) -> None:
    """Write what is staged for a row, as `_apply_write_kernel` does."""
    first = int(ends[index - 1]) if index else 0
    found = contents[first : int(ends[index])]
    start = int(starts[index])
    output[int(rows[index]), start : start + len(found)] = found


def place(
    index: int,
    positions: Tensor,
    stride: int,
    staged: Tensor,
    of_request: int,
    of_axis: int,
    delta: Tensor,
    requests: Tensor,
    starts: Tensor,
    lengths: Tensor,
    computed: Tensor,
    *,
    NUM_DIMS: int,
    **sizes: Any,
) -> None:
    """Write the positions of a request's tokens, as `_prepare_rope_positions_kernel` does."""
    request = int(requests[index])
    start, end = starts[index : index + 2].tolist()
    first = int(computed[request])
    if first < lengths[request]:
        axes = staged.view(-1, NUM_DIMS, of_axis)[request]
        positions[:, start:end] = axes[:, first : first + end - start]
    else:
        positions[:, start:end] = torch.arange(first, first + end - start) + delta[request]


@pytest.fixture(scope="module", params=TRIED)
def both(request, tmp_path_factory) -> Iterator[tuple[Engine, Library]]:
    """An engine and the library, of one checkpoint."""
    family = request.param
    with pair(TRIED[family], family, tmp_path_factory.mktemp(family)) as made:
        yield made


@pytest.fixture
def kernels(monkeypatch) -> None:
    """Kernels that run on a CPU."""
    monkeypatch.setattr(buffer_utils, "_apply_write_kernel", Launched(write_row))
    monkeypatch.setattr(rope, "_prepare_rope_positions_kernel", Launched(place))


def prepared(made: Engine, asked: Request) -> Any:
    """Return the request that reaches vLLM's scheduler."""
    scheduler = made.llm.llm_engine.engine_core.engine_core.scheduler
    found = []
    add = scheduler.add_request
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "add_request", lambda one: (found.append(one), add(one)))
        made.say(asked, max_tokens=1)
    [one] = found
    return one


class Runner:
    """What Model Runner V2 does with one request, by its own classes.

    Args:
        one: the request as it reaches the scheduler.
    """

    def __init__(self, made: Engine, one: Any) -> None:
        self.model = made.model
        self.one = one
        config = made.llm.llm_engine.model_config
        device = torch.device("cpu")
        cache = EncoderCache()
        self.runner = EncoderRunner(
            self.model, CHUNK, config.get_inputs_embeds_size(), cache, torch.float32, device
        )
        self.ids = one.prompt_token_ids

        # encode all images
        cache.add_request(one.request_id, one.mm_features)
        hashes, images = self.runner.prepare_mm_inputs(
            {one.request_id: list(range(len(one.mm_features)))}
        )
        # the same image twice is encoded once
        unique = dict(zip(hashes, images, strict=True))
        outputs = self.runner.execute_mm_encoder(list(unique.values()))
        cache.encoder_outputs.update(zip(unique, outputs, strict=True))

        # number all of the prompt
        self.rope = rope.get_rope_state(config, self.model, INDEX + 1, CHUNK, 1024, device)
        if self.rope is not None:
            self.rope.init_prefill_positions(INDEX, self.model, self.ids, one.mm_features)
            self.rope.apply_staged_writes()

    def positions(self, start: int, count: int) -> Tensor:
        """Return vLLM's own buffer of positions (CHUNK,) or (3, CHUNK), as filled for a step."""
        if self.rope is None:
            return torch.arange(start, start + CHUNK)
        self.rope.prepare_positions(
            torch.tensor([INDEX]),
            torch.tensor([0, count]),
            torch.tensor([0] * INDEX + [len(self.ids)]),
            torch.tensor([0] * INDEX + [start]),
        )
        return self.rope.get_positions(CHUNK)

    def embeddings(self, ids: list[int], start: int) -> Tensor:
        """Return vLLM's own buffer of embeddings (CHUNK, D), as filled for a step."""
        count = len(ids)
        embeds, at = self.runner.gather_mm_embeddings(
            [self.one.request_id],
            count,
            np.array([count]),
            np.array([0, count]),
            np.array([len(self.ids)]),
            np.array([start]),
        )
        self.runner.get_inputs_embeds(torch.tensor(ids), embeds, at)
        return self.runner.inputs_embeds

    def step(self, ids: list[int], start: int) -> Read:
        """Read tokens, as many as there are, at the length of a step that CUDA graphs pad."""
        embeddings = self.embeddings(ids, start)
        positions = self.positions(start, len(ids))
        found = self.forward(positions, embeddings)
        # another step in the same buffers, for which nothing has been noted
        again = self.forward(positions, embeddings)
        assert torch.equal(again.positions, found.positions)
        assert not any(level.any() for level in again.levels)

        count = len(ids)
        levels = [level[:count] for level in found.levels]
        return Read(found.embeddings[:count], found.positions[..., :count], levels)

    def forward(self, positions: Tensor, embeddings: Tensor) -> Read:
        """Run vLLM's model, and return what it hands on to its layers."""
        read: list[Read] = []

        def noting(
            input_ids: None,
            positions: Tensor,
            intermediate_tensors: None = None,
            inputs_embeds: Tensor | None = None,
            deepstack_input_embeds: Any = None,
        ) -> Tensor:
            added = deepstack_input_embeds.tensors.values() if deepstack_input_embeds else ()
            levels = [level.clone() for level in added]
            read.append(Read(inputs_embeds.clone(), positions.clone(), levels))
            return inputs_embeds

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.model.get_language_model().model, "forward", noting)
            self.model.forward(None, positions, inputs_embeds=embeddings)
        [found] = read
        return found


@torch.no_grad()
def read_by_library(library: Library, asked: Request) -> Read:
    """Return what its language model reads."""
    images = [[picture(i) for i in asked.images]]
    prompt = asked.prompt(library.family)
    inputs = dict(library.processor(text=[prompt], images=images, return_tensors="pt"))
    short = method(asked.method, keep=asked.keep)(library.model, inputs)
    read: dict[str, Any] = {}
    decoder = library.model.get_decoder()
    hook = decoder.register_forward_pre_hook(
        lambda module, args, options: read.update(options), with_kwargs=True
    )
    library.model(**short)
    hook.remove()
    embeddings = read["inputs_embeds"][0]  # (L, D)
    levels = []
    for visual in read.get("deepstack_visual_embeds") or ():
        added = torch.zeros_like(embeddings)
        added[read["visual_pos_masks"][0]] = visual
        levels.append(added)
    positions = read.get("position_ids")
    if positions is None or positions.dim() < 3:
        return Read(embeddings, torch.arange(len(embeddings)), levels)
    # transformers puts the text's positions before the three of M-RoPE: (4, 1, L) → (3, L)
    return Read(embeddings, positions[-3:, 0], levels)


def check_close(found: Tensor, expected: Tensor) -> None:
    """Compare embeddings, which come from two implementations of a tower."""
    assert found.shape == expected.shape
    rows = expected.any(dim=-1)
    assert not found[~rows].any()
    assert torch.cosine_similarity(found[rows], expected[rows]).min() > 0.9999


@pytest.mark.parametrize("asked", ASKED, ids=["one", "two", "whole"])
def test_what_the_language_model_reads(both, asked, kernels):
    """In chunks that cut images, then one token more: all that it reads is the library's."""
    made, library = both
    runner = Runner(made, prepared(made, asked))
    ids = runner.ids
    steps = [runner.step(ids[i : i + CHUNK], i) for i in range(0, len(ids), CHUNK)]
    expected = read_by_library(library, asked)
    check_close(torch.cat([step.embeddings for step in steps]), expected.embeddings)
    positions = torch.cat([step.positions for step in steps], dim=-1)
    assert torch.equal(positions, expected.positions)
    assert bool(expected.levels) == (made.family == "qwen3_vl")
    levels = [torch.cat(chunks) for chunks in zip(*(step.levels for step in steps), strict=True)]
    for level, of_library in zip(levels, expected.levels, strict=True):
        check_close(level, of_library)

    # the answer's first token follows whatever stands last in the prompt
    following = runner.step(ids[-1:], len(ids))
    assert torch.equal(following.positions, positions[..., -1:] + 1)
