"""Triton's kernels keep what the PyTorch forms keep: order, split and gains are equal bit by bit.

Triton decides when it is imported whether it interprets, so the environment of the whole process
has to say it: `make test-kernels` does.
"""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from adafv.ops import kernels
from adafv.ops.coverage import coverage, plain_coverage
from adafv.ops.kernels import LONGEST, SWITCH, wanted
from adafv.ops.sacmam import mix

CPU = torch.device("cpu")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RUNS = find_spec("triton") is not None and (
    DEVICE.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
)
kernel = pytest.mark.skipif(
    not RUNS, reason="needs Triton, and a GPU or TRITON_INTERPRET=1: make test-kernels"
)
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in divide:RuntimeWarning")


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from adafv.ops.kernels import coverage, sacmam

def compiled(kernel, types, **constants):
    signature = dict(zip(kernel.arg_names, [*types.split(), *len(constants) * ["constexpr"]]))
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]

compiled(sacmam._mix, "*fp32 *fp32 *i1 *i64 *i32 *i64 *i64 i32", BEYOND=True, BLOCK=64)
compiled(coverage._gains, "*fp64 *fp64 *fp64 *i64 *fp64 i32 i32", TOKENS=16, ROWS=256)
"""


@pytest.fixture(autouse=True)
def off(monkeypatch):
    """Tests begin with the default, and with the same numbers."""
    monkeypatch.delenv(SWITCH, raising=False)
    torch.manual_seed(0)


def assert_same_mixture(monkeypatch, relevance, saliency, tokens, **options):
    relevance = torch.as_tensor(relevance, device=DEVICE)
    saliency = torch.as_tensor(saliency, device=DEVICE)
    tokens = torch.as_tensor(tokens)
    expected = mix(relevance, saliency, tokens, **options)
    monkeypatch.setenv(SWITCH, "triton")
    found = mix(relevance, saliency, tokens, **options)
    monkeypatch.delenv(SWITCH)
    for name in ("order", "text", "vision"):
        one = getattr(found, name)
        other = getattr(expected, name)
        assert one.dtype == other.dtype
        assert torch.equal(one, other), name


@kernel
@pytest.mark.parametrize(
    ("reserve", "mass"), [(0.0, "whole"), (0.3, "whole"), (0.3, "beyond"), (0.5, "beyond")]
)
def test_mixture_with_ties_and_padding(monkeypatch, reserve, mass):
    """Small integers: ties in and between the lists, exact sums; images of any length."""
    images, longest = 5, 29
    counts = torch.randint(1, longest + 1, (images,))
    budget = (torch.rand(images) * counts).long() + 1
    highest = torch.randint(1, 5, (2, images, 1))
    relevance, saliency = (torch.rand(2, images, longest) * (highest + 1)).floor()
    mask = torch.arange(longest) < counts[:, None]
    assert_same_mixture(
        monkeypatch,
        relevance,
        saliency,
        budget,
        reserve=reserve,
        mass=mass,
        mask=mask.to(DEVICE),
    )


@kernel
@pytest.mark.parametrize("count", [1, 2, 32, 33, 64])
def test_mixture_of_peaked_scores(monkeypatch, count):
    """Softmaxes, with the first and the last budget and one between; blocks that are full."""
    relevance, saliency = (torch.randn(2, 3, count) * 12).softmax(-1)
    assert_same_mixture(monkeypatch, relevance, saliency, [1, (count + 1) // 2, count])


@kernel
def test_mixture_of_576_tokens(monkeypatch):
    relevance, saliency = (torch.randn(2, 1, 576) * 3).softmax(-1)
    assert_same_mixture(monkeypatch, relevance, saliency, [58])


@kernel
def test_mixture_of_lists_that_say_nothing(monkeypatch):
    """Constant lists, lists without mass, one list twice, one list scaled, and 0 below 0."""
    rising = torch.arange(12.0)
    nothing = torch.zeros(12)
    flat = torch.full((12,), 0.1)
    either = torch.tensor([0.0, -0.0]).repeat(6)
    relevance = torch.stack([flat, nothing, rising, nothing, rising, rising, either])
    saliency = torch.stack([flat, rising, nothing, nothing, rising, rising / 3, rising])
    for tokens in (1, 7):
        budget = torch.full((len(relevance),), tokens)
        assert_same_mixture(monkeypatch, relevance, saliency, budget)


@kernel
def test_mixture_of_nan(monkeypatch):
    """Neither form refuses NaN, of either sign; both put it first."""
    nan = float("nan")
    relevance = torch.tensor([[0.1, nan, 0.4, 0.2, 0.3], [0.1, 0.2, 0.3, 0.4, 0.5]])
    saliency = torch.tensor([[0.3, 0.1, 0.2, -nan, nan], [0.1, -nan, 0.2, 0.4, 0.3]])
    assert_same_mixture(monkeypatch, relevance, saliency, [3, 1])


@kernel
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_mixture_of_other_precisions(monkeypatch, dtype):
    """From lists that don't lie one after the other in memory."""
    relevance, saliency = torch.rand(20, 2, 2, dtype=dtype).permute(1, 2, 0)
    assert_same_mixture(monkeypatch, relevance, saliency, [4, 9])


@kernel
def test_an_image_too_long_is_mixed_by_pytorch(monkeypatch):
    monkeypatch.setattr("adafv.ops.kernels.sacmam._mix", None)
    scores = torch.rand(1, LONGEST + 1)
    assert_same_mixture(monkeypatch, scores, scores, [7])


def gains(form, picks):
    """The gains before every pick."""
    found = [next(form)]
    for pick in picks:
        found.append(form.send(pick))
    return torch.stack(found)


@kernel
@pytest.mark.parametrize(("count", "rows"), [(1, 1), (7, 40), (36, 36), (64, 300)])
def test_coverage(monkeypatch, count, rows):
    """All picks of some images, with ties, weights of 0 and padding; tiles that are not full."""
    columns = torch.randint(5, (2, count, rows), device=DEVICE).double()
    columns[0, count // 2 :] = 0
    weight = torch.randint(4, (2, count), device=DEVICE).double()
    picks = torch.rand(2, count, device=DEVICE).argsort(1).split(1, dim=1)[:8]
    monkeypatch.setenv(SWITCH, "triton")
    for own in (weight, None):
        whole = torch.ones_like(weight) if own is None else own
        expected = gains(plain_coverage(columns, whole), picks)
        assert torch.equal(gains(coverage(columns, own), picks), expected)


@kernel
def test_coverage_of_576_tokens(monkeypatch):
    """Fractions of 2^-40, as cosines have them: sums in another order are the same."""
    columns = torch.rand(1, 576, 576, device=DEVICE, dtype=torch.float64)
    columns = columns.mul(2.0**40).round().mul(2.0**-40)
    weight = torch.rand(1, 576, device=DEVICE, dtype=torch.float64)
    picks = [torch.tensor([[pick]], device=DEVICE) for pick in (3, 575)]
    monkeypatch.setenv(SWITCH, "triton")
    found = gains(coverage(columns, weight), picks)
    assert torch.equal(found, gains(plain_coverage(columns, weight), picks))


@kernel
@pytest.mark.parametrize("pick", [2, 4])
def test_coverage_of_nan(monkeypatch, pick):
    """Neither form refuses NaN: it spreads from a token's gain to all once that token is picked."""
    columns = torch.randint(5, (1, 20, 20), device=DEVICE).double()
    columns[0, 4, 3] = float("nan")
    picks = [torch.tensor([[pick]], device=DEVICE)]
    expected = gains(plain_coverage(columns, torch.ones_like(columns[..., 0])), picks)
    monkeypatch.setenv(SWITCH, "triton")
    torch.testing.assert_close(
        gains(coverage(columns), picks), expected, rtol=0, atol=0, equal_nan=True
    )


@kernel
def test_they_compile_for_a_gpu(tmp_path):
    """With types and layouts, which the interpreter doesn't have; without a GPU."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", COMPILE], env=environment, check=True)


def test_pytorch_is_the_default(monkeypatch):
    """Unset, empty or by name; Triton is then not even looked for."""
    monkeypatch.setattr(kernels, "find_spec", None)
    assert not wanted(CPU)
    for choice in ("", "torch"):
        monkeypatch.setenv(SWITCH, choice)
        assert not wanted(CPU)


@pytest.mark.parametrize(
    ("choice", "installed", "interpreted", "device", "said"),
    [
        ("cuda", True, "1", "cpu", "pass one of 'torch', 'triton'"),
        ("triton", False, "1", "cuda", r"pip install 'adafv\[kernels\]'"),
        ("triton", True, "0", "cpu", "cannot run on cpu: move the model to CUDA, or unset"),
        ("triton", True, "1", "cpu", ""),
        ("triton", True, "0", "cuda", ""),
    ],
)
def test_where_no_kernel_can_run_one_sentence_says_why(
    monkeypatch, choice, installed, interpreted, device, said
):
    monkeypatch.setenv(SWITCH, choice)
    monkeypatch.setenv("TRITON_INTERPRET", interpreted)
    monkeypatch.setattr(kernels, "find_spec", lambda name: installed or None)
    if not said:
        assert wanted(torch.device(device))
        return
    with pytest.raises(ValueError, match=said) as refusal:
        wanted(torch.device(device))
    assert str(refusal.value).startswith(SWITCH)


def test_triton_is_not_imported_unasked():
    """Neither by the import of an op nor by a call."""
    code = (
        "import sys, torch\n"
        "before = 'triton' in sys.modules\n"
        "from adafv.ops.sacmam import mix\n"
        "mix(torch.rand(1, 9), torch.rand(1, 9), torch.tensor([3]))\n"
        "assert before or 'triton' not in sys.modules\n"
        "assert not any(name.startswith('adafv.ops.kernels.') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
