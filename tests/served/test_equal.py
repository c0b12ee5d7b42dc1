"""On vLLM the kept indices and the greedy answers are the library's, whatever is batched, cached,
cut or recomputed.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

from checkpoints import FAMILIES, save
from engine import Engine, Library, Request, check_equal, engine
from stock import logprobs

from adafv.integrations.vllm import models
from adafv.integrations.vllm.prune_spec import PruneSpec

TWO = ("llava_next", "qwen2_5_vl")
"""One family of each kind of positions, where all four would say the same."""
COLOR, KNIGHT, COUNT = (
    "what color is the anchor ?",
    "is there a knight",
    "how many red . left of the anchor ?",
)
SEVERAL = [
    Request(COLOR),
    Request(KNIGHT),
    Request(COUNT),
    Request(COLOR),
    Request(COLOR, keep=0.1),
    Request(COLOR, keep=1.0),
    Request(COLOR, keep=0.5, method="adafv+"),
    Request(COLOR, (1,)),
    Request(KNIGHT, (2,), method="fastervlm"),
    Request(COUNT, (3,), method="random"),
    Request(COLOR, (0, 0)),
    Request(KNIGHT, (0, 1, 2)),
    Request(COLOR, (1, 1), keep=0.6, method="divprune"),
    Request(f"{COLOR} ASSISTANT : red USER : {KNIGHT}"),
    Request(
        f"{COLOR} ASSISTANT : red USER : {KNIGHT} ASSISTANT : a USER : {COUNT}", method="adafv+"
    ),
    Request(COLOR, ()),
    Request(KNIGHT, before="compare red and blue . "),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict:
    return {family: save(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


@pytest.fixture(scope="module")
def libraries(folders) -> dict[str, Library]:
    return {family: Library(family, folder) for family, folder in folders.items()}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def served(family, folders) -> Iterator[Engine]:
    with engine(family, folders[family]) as made:
        yield made


@pytest.fixture(scope="module")
def stock(folders) -> dict:
    """What vLLM says where the plugin is left out, in a process of its own."""
    command = [sys.executable, Path(__file__).with_name("stock.py")]
    command += [f"{family}={folders[family]}" for family in TWO]
    said = subprocess.run(
        command, env=os.environ | {"VLLM_PLUGINS": ""}, stdout=subprocess.PIPE, check=True
    )
    return json.loads(said.stdout.splitlines()[-1])


@pytest.fixture
def kept(monkeypatch) -> dict[tuple, list[int]]:
    """What was kept of each image, by image, method, budget and words."""
    found: dict[tuple, list[int]] = {}
    select = models.select

    def noting(tickets, *rest, **options):
        stay = select(tickets, *rest, **options)
        found.update(
            {
                (t.image, t.method, t.keep, t.text_ids): s.kept.tolist()
                for t, s in zip(tickets, stay, strict=True)
            }
        )
        return stay

    monkeypatch.setattr(models, "select", noting)
    return found


def test_all_kinds_of_questions_in_one_batch(served, family, libraries, kept):
    """Several and repeated questions, equal images twice, several images, turns, mixed keeps
    and methods, text.
    """
    check_equal(served.say(*SEVERAL), libraries[family], SEVERAL)
    wanted = sorted(k for a in SEVERAL if 0 < a.keep < 1 for k in libraries[family].says(a).kept)
    assert kept
    assert all(k in wanted for (_, method, *_), k in kept.items() if method != "none")


def test_kept_indices(served, family, libraries, kept):
    """Alone, too: exactly the library's indices, image by image."""
    for asked in (
        Request(KNIGHT, (4, 5)),
        Request(COUNT, (6,), method="adafv+"),
        Request(COLOR, (7,), keep=0.15),
    ):
        kept.clear()
        check_equal(served.say(asked), libraries[family], [asked])
        assert sorted(kept.values()) == sorted(libraries[family].says(asked).kept)


def test_the_prefix_cache(served, family, libraries):
    """A prompt that begins with whole blocks of one before, images included, is read from the
    cache, and right.
    """
    long = [Request(COLOR, (0, 1), keep=0.9), Request(f"{COLOR} {KNIGHT}", (0, 1), keep=0.9)]
    check_equal(served.say(long[0]), libraries[family], long[:1])
    again, other = served.say(long[0])[0], served.say(long[1])[0]
    assert again.cached >= 32
    assert other.cached < 32
    check_equal([again, other], libraries[family], long)


def test_a_picture_is_encoded_once(served, family, libraries):
    """A second question about an image costs a selection, not an encoding."""
    before = served.model.encodings.encoded
    asked = [
        Request(COLOR, (8,)),
        Request(KNIGHT, (8,)),
        Request(COUNT, (8, 8)),
        Request(COUNT, (8,), keep=0.7),
    ]
    for one in asked:
        check_equal(served.say(one), libraries[family], [one])
    assert served.model.encodings.encoded == before + 1


def test_encodings_stay_within_their_memory(served, family, libraries, monkeypatch):
    """What doesn't fit is let go, the oldest first, and encoded again when it is asked about."""
    encodings = served.model.encodings
    served.say(Request(COLOR, (10,)))
    monkeypatch.setattr(encodings, "bytes", encodings.used)
    evicted = encodings.evicted
    asked = [Request(COLOR, (i,)) for i in (11, 12, 13)] + [
        Request(KNIGHT, (10,)),
        Request(COUNT, (13,)),
    ]
    check_equal([served.say(a)[0] for a in asked], libraries[family], asked)
    assert encodings.evicted > evicted
    assert encodings.used <= encodings.bytes


def test_more_pictures_than_memory_was_measured_for(served, family, libraries, monkeypatch):
    """The scheduler counts what stays of an image; the tower still sees no more at once than it
    was measured with.
    """
    monkeypatch.setattr(served.model, "at_once", 200)
    asked = [Request(COLOR, (20 + i,), keep=0.05) for i in range(6)]
    check_equal(served.say(*asked), libraries[family], asked)


@pytest.mark.parametrize("family", TWO, indirect=True)
def test_keep_1_is_stock_vllm(served, family, stock):
    """Bit for bit: tokens and logprobs, with the plugin in place and a budget of 1, or none
    at all.
    """
    ours = [logprobs(served, plain=plain) for plain in (True, False)]
    assert json.loads(json.dumps(ours)) == [stock[family]] * 2


@pytest.mark.parametrize("family", ["llava_next"], indirect=True)
def test_a_pinned_chat_keeps_its_prefix(served):
    """With pin="first" later turns read the choice of the first, from the cache; without, they
    choose anew.
    """
    first = f"{COLOR} {COUNT}"
    turns = [
        first,
        f"{first} ASSISTANT : red USER : {KNIGHT}",
        f"{first} ASSISTANT : red USER : {KNIGHT} ASSISTANT : a USER : {COLOR}",
    ]
    before = served.model.encodings.encoded
    for pin in ("first", "none"):
        requests = [served.request(Request(turn, (40,), keep=0.9)) for turn in turns]
        for request in requests:
            request["mm_processor_kwargs"]["adafv_pin"] = pin
        served.llm.reset_prefix_cache()
        said = [served.answer([request])[0] for request in requests]
        assert [x.cached >= 32 for x in said] == [False, pin == "first", pin == "first"]
    assert served.model.encodings.encoded == before + 1


@pytest.mark.parametrize("family", ["llava_next"], indirect=True)
def test_a_hash_without_the_question_would_be_caught(served, family, libraries, monkeypatch):
    """The negative control: with the text left out of the hash, these tests fail."""
    monkeypatch.setattr(
        PruneSpec, "hash", property(lambda self: f"{self.image}-{self.method}-{self.keep}")
    )
    said = served.say(*SEVERAL)
    with pytest.raises(AssertionError):
        check_equal(said, libraries[family], SEVERAL)


@pytest.mark.parametrize("family", TWO)
def test_chunked_prefill(family, folders, libraries):
    """An image is cut where a step's budget of tokens ends, and read in the next."""
    with engine(
        family,
        folders[family],
        max_num_batched_tokens=64,
        max_num_seqs=2,
        long_prefill_token_threshold=24,
    ) as made:
        check_equal(made.say(*SEVERAL), libraries[family], SEVERAL)


@pytest.mark.parametrize("family", TWO)
def test_preemption_and_recompute(family, folders, libraries):
    """Where the KV cache is too small for the load, requests are thrown out, and come back with the
    same choice.
    """
    asked = [Request(q, (i,), keep=0.5) for i in range(4) for q in (COLOR, KNIGHT)]
    with engine(family, folders[family], num_gpu_blocks_override=9, max_model_len=256) as made:
        said = made.say(*asked, max_tokens=60)
        assert made.count("num_preemptions") > 0
        longer = [libraries[family].says(a, 60) for a in asked]
        assert [x.ids for x in said] == [x.ids for x in longer]


@pytest.mark.engines
@pytest.mark.parametrize("family", TWO)
def test_torch_compile(family, folders, libraries):
    """VLLM's compiled language model reads the same tokens."""
    with engine(family, folders[family], enforce_eager=False) as made:
        check_equal(made.say(*SEVERAL), libraries[family], SEVERAL)


def test_a_server_has_its_own_budget(folders, libraries):
    """Without options a request gets the server's; with some, its own."""
    given = {"adafv_keep": 0.2, "adafv_method": "adafv+"}
    with engine("llava", folders["llava"], mm_processor_kwargs=given) as made:
        plain = made.request(Request(COLOR))
        options = [
            {},
            {"adafv_keep": 0.5},
            {"adafv_tokens": 7},
            {"adafv_method": "fastervlm"},
            {"adafv_keep": 1.0},
        ]
        said = made.answer([{**plain, "mm_processor_kwargs": x} for x in options])
    budgets = [
        (0.2, "adafv+"),
        (0.5, "adafv+"),
        (7 / 36, "adafv+"),
        (0.2, "fastervlm"),
        (1.0, "adafv"),
    ]
    check_equal(said, libraries["llava"], [Request(COLOR, keep=k, method=m) for k, m in budgets])
