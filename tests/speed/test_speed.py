"""The instrument that times pruning: its count of FLOPs, its order, its arithmetic on times, its
command.
"""

import csv
import json
import runpy
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from adafv.cli import main
from adafv.core.encode import encode
from adafv.core.signals import SALIENCY
from adafv.core.visual_tokens import VisualTokens
from adafv.families import family_of
from adafv.families.base import base_of
from adafv.methods import METHODS, AdaFV, method
from adafv.models.prompting import build_batch
from adafv.speed import flops, report, roofline, rows, run
from adafv.speed.baselines import BASELINES, Eager, Listed
from adafv.speed.run import DENSE, DENSE_REPEAT, Measurement, plan
from adafv.speed.shapes import QUESTION, SHAPES, Shape, build, image, shape_of
from adafv.speed.stages import STAGES, answer
from adafv.speed.tables import markdown

pytestmark = pytest.mark.slow

CONTRACT = (
    "method",
    "keep",
    "batch",
    "visual_tokens",
    "kept_tokens",
    "vision_ms",
    "select_ms",
    "prefill_ms",
    "decode_ms_per_token",
    "ttft_ms",
    "ttft_p95_ms",
    "kv_bytes",
    "speedup",
    "ideal_speedup",
    "share_of_ideal",
    "prefill_speedup",
    "prefill_ideal",
    "prefill_share",
)
CPU = torch.device("cpu")
CLIP = {**SHAPES["tiny"].tower, "hidden_size": 64, "image_size": 56}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]}
TEXT = {
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 64,
}
GRID = {
    "depth": 4,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_heads": 4,
    "out_hidden_size": 128,
    "patch_size": 14,
    "spatial_merge_size": 2,
}
SMALL = {
    "llava": Shape("llava", CLIP, {"model_type": "llama", "num_key_value_heads": 4, **TEXT}, 56),
    "llava_next": Shape(
        "llava_next", CLIP, {"model_type": "mistral", "num_key_value_heads": 2, **TEXT}, 112
    ),
    "qwen2_5_vl": Shape(
        "qwen2_5_vl",
        {**GRID, "window_size": 56, "fullatt_block_indexes": [1, 3]},
        {
            "model_type": "qwen2_5_vl_text",
            "num_key_value_heads": 2,
            "rope_parameters": ROPE,
            **TEXT,
        },
        140,
    ),
    "qwen3_vl": Shape(
        "qwen3_vl",
        {**GRID, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
        {
            "model_type": "qwen3_vl_text",
            "num_key_value_heads": 2,
            "head_dim": 32,
            "rope_parameters": ROPE | {"mrope_interleaved": True},
            **TEXT,
        },
        140,
    ),
}


SHALLOW = {
    kind: replace(shape, text=shape.text | {"num_hidden_layers": 2})
    for kind, shape in SMALL.items()
}
"""For what is traced layer by layer, which takes long."""


def prepared(kind: str, batch: int = 1, shapes: dict[str, Shape] = SMALL):
    """A small model and inputs of a batch."""
    shape = shapes[kind]
    model = build(shape.config(), CPU, torch.float32)
    inputs = build_batch(
        shape.processor(), [image(shape.side, i) for i in range(batch)], [QUESTION] * batch, "cpu"
    )
    return model, inputs


@pytest.fixture(scope="module")
def llava():
    return prepared("llava", batch=2)


def counted(call) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", SMALL)
def test_flops_are_those_that_torch_counts(kind):
    """Tower, windows, projector, DeepStack, grouped queries, gated MLPs: the count is of what the
    model computes.

    The stock tower of LLaVA computes layers above the features', ours ends there.
    """
    model, inputs = prepared(kind)
    model.set_attn_implementation("eager")
    encoder = base_of(model).get_image_features
    names = ("pixel_values", "image_sizes", "image_grid_thw")
    seen = counted(
        lambda: encoder(
            **{n: inputs[n] for n in names if n in inputs and (n, kind) != ("image_sizes", "llava")}
        )
    )
    grids = flops.grids_of(model.config, inputs)
    assert flops.vision(model.config, grids, all_layers=True).flops == pytest.approx(seen, rel=0.02)
    ours = counted(lambda: encode(model, inputs, signals=(), text=False))
    assert flops.vision(model.config, grids).flops == pytest.approx(ours, rel=0.02)
    assert (ours < seen) == kind.startswith("llava")
    seen = counted(lambda: model(input_ids=torch.full((1, 100), 2), logits_to_keep=1))
    assert flops.prefill(model.config, [100] * 4, causal=False).flops == pytest.approx(
        seen, rel=0.02
    )


def test_flops_by_hand():
    """LLaVA-1.5-7B: 6.48 billion weights in the layers, half a megabyte of KV cache for a token."""
    config = shape_of("llava-1.5-7b").config()
    layer = 4 * 4096**2 + 3 * 4096 * 11008
    assert flops.text_stack(config).weights == layer
    assert flops.kv_bytes(config, [1] * 32) == 512 * 1024
    head = 4096 * 32064
    prefill = flops.prefill(config, [600] * 32)
    assert prefill.flops == 32 * (2 * layer * 600 + 4 * 4096 * 600 * 601 / 2) + 2 * head
    assert prefill.bytes == 2 * (32 * layer + head) + 600 * 512 * 1024
    tower = 23 * (2 * (4 * 1024**2 + 2 * 1024 * 4096) * 577 + 4 * 1024 * 577**2)
    around = 2 * 576 * (3 * 14**2 * 1024 + 4096 * (1024 + 4096))
    assert flops.vision(config, [(24, 24)]).flops == tower + around
    assert flops.decode(config, [600] * 32).flops == 32 * (2 * layer + 4 * 4096 * 601) + 2 * head


@pytest.mark.parametrize(
    ("name", "billions", "tokens"),
    [
        ("llava-1.5-7b", 7.06, 576),
        ("llava-1.5-13b", 13.35, 576),
        ("llava-next-7b", 7.06, 2880),
        ("qwen2.5-vl-7b", 8.29, 1296),
        ("qwen3-vl-8b", 8.77, 1024),
    ],
)
def test_shapes_are_those_of_the_models(name, billions, tokens):
    """As many weights as the published checkpoints have, and their visual tokens for the image
    asked about.
    """
    shape = shape_of(name)
    with torch.device("meta"):
        from transformers import AutoModelForImageTextToText

        model = AutoModelForImageTextToText.from_config(shape.config())
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, abs=0.01)
    config, crops = shape.config(), 5 if shape.kind == "llava_next" else 1
    patch = shape.tower["patch_size"]
    merged = 4 if shape.kind.startswith("qwen") else 1
    side = shape.tower.get("image_size", shape.side)
    assert crops * (side // patch) ** 2 // merged == tokens
    assert config.get_text_config().num_hidden_layers == shape.text["num_hidden_layers"]


def test_layers_cut_the_language_model():
    """`--layers` leaves the tower whole."""
    config = shape_of("llava-1.5-7b").config(2)
    assert config.get_text_config().num_hidden_layers == 2
    assert config.vision_config.num_hidden_layers == 24


@pytest.mark.parametrize("kind", SMALL)
def test_answer_in_every_kind(kind):
    """Stages add up, the cache is what the configuration says, dense or pruned, two prompts at
    once.
    """
    model, inputs = prepared(kind, batch=2)
    dense = answer(model, inputs, None, 3)
    pruned = answer(model, inputs, method("adafv", keep=0.25), 3)
    visual = int((inputs["input_ids"][0] == model.config.image_token_id).sum())
    for timed in (dense, pruned):
        assert timed.kv_bytes == 2 * flops.kv_bytes(model.config, timed.lengths, 4)
        assert set(timed.stages) == set(STAGES)
        assert timed.decode_ms > 0
        # an answer of one token has no later ones
        assert answer(model, inputs, None, 1).decode_ms is None
        assert sum(timed.stages.values()) == pytest.approx(timed.ttft_ms, rel=0.2, abs=2)
    assert dense.lengths == [inputs["input_ids"].shape[1]] * 4
    assert max(pruned.lengths) == dense.lengths[0] - visual + pruned.kept


@pytest.mark.parametrize("name", METHODS)
def test_answer_by_every_method(llava, name):
    """Methods that prune between layers leave a cache that shrinks from layer to layer; others a
    shorter prompt.
    """
    model, inputs = llava
    timed = answer(model, inputs, method(name, keep=1.0 if name == DENSE else 0.5), 2)
    whole = inputs["input_ids"].shape[1]
    assert sum(timed.lengths) / 4 == pytest.approx(whole - 16 + timed.kept)
    assert timed.kept == pytest.approx(16 if name == DENSE else 8, abs=0.5)


def test_eager_peer_chooses_the_same():
    """The rival way to the saliency: all maps are made, the same tokens stay, the tower is given
    back.
    """
    model, inputs = prepared("llava_next")
    tower = family_of(model).tower(model)
    seen = []
    hook = tower.register_forward_hook(lambda *call: seen.append(call[-1].attentions))
    ours, theirs = AdaFV(keep=0.25), Eager(keep=0.25)
    with torch.no_grad():
        kept = [
            p.select(e.tokens, [8]).kept[0]
            for p in (ours, theirs)
            for e in [p.encode(model, inputs)]
        ]
    hook.remove()
    assert torch.equal(*kept)
    assert seen[0] is None
    assert len(seen[1]) == 3
    assert seen[1][0].shape[-1] == seen[1][0].shape[-2]
    assert "forward" not in vars(tower)
    assert tower.config._attn_implementation == "sdpa"
    with pytest.raises(ValueError, match="no CLS"):
        Eager(keep=0.25).encode(*prepared("qwen2_5_vl"))


def scored(relevance, saliency, counts) -> VisualTokens:
    """Images padded to the longest, whose words are as relevant as said: features and text are not
    looked at.
    """
    mask = torch.arange(relevance.shape[1]) < torch.tensor(counts)[:, None]
    return VisualTokens(
        relevance[..., None],
        mask,
        tuple(counts),
        {SALIENCY: saliency},
        None,
        None,
        (),
        (1,) * len(counts),
        (0,) * len(counts),
        4,
    )


@pytest.mark.parametrize("kind", ["real", "ties", "without mass"])
@pytest.mark.parametrize("reserve", [0.0, 0.25, 0.5])
def test_listed_peer_chooses_the_same(monkeypatch, kind, reserve):
    """The rival way to the mixture: read back, image by image; the same tokens stay, whatever the
    scores.
    """
    monkeypatch.setattr(AdaFV, "relevance", lambda self, tokens: tokens.features[..., 0])
    ours, theirs = AdaFV(keep=0.1, reserve=reserve), Listed(keep=0.1, reserve=reserve)
    draw = torch.Generator().manual_seed(0)
    for _ in range(100):
        lists = torch.rand(2, 3, 60, generator=draw) if kind == "real" else None
        lists = torch.randint(0, 5, (2, 3, 60), generator=draw).float() if lists is None else lists
        if kind == "without mass":
            lists[torch.rand(2, 3, generator=draw) < 0.5] = 0
        counts = [60, *torch.randint(1, 61, (2,), generator=draw).tolist()]
        budget = [int(torch.randint(1, n + 1, (), generator=draw)) for n in counts]
        tokens = scored(*lists, counts)
        kept = [pruner.select(tokens, budget).kept for pruner in (ours, theirs)]
        assert [k.tolist() for k in kept[0]] == [k.tolist() for k in kept[1]]
    with pytest.raises(ValueError, match="crops='each'"):
        Listed(keep=0.1, crops="each")


def test_listed_peer_reads_a_model_as_adafv_does(llava):
    """On a model's own scores, too."""
    model, inputs = llava
    encoding = AdaFV(keep=0.25).encode(model, inputs)
    kept = [cls(keep=0.25).select(encoding.tokens, [4, 4]).kept for cls in (AdaFV, Listed)]
    assert all(map(torch.equal, *kept))


def test_dense_is_the_stock_model(llava):
    """The baseline answers as the model's own forward on pixels does."""
    model, inputs = llava
    from adafv.speed.stages import _encoded

    with torch.no_grad():
        assert torch.equal(model(**_encoded(model, inputs)).logits, model(**inputs).logits)


def test_plan_interleaves():
    """Every repetition visits every row once, dense twice, and no row keeps its place in
    the order.
    """
    names = [(DENSE, 1.0), (DENSE_REPEAT, 1.0), ("adafv", 0.1)]
    cells = list(plan(names, 8, 6))
    orders = [[c.name for c in cells if c.repeat == i] for i in range(6)]
    assert all(sorted(order) == sorted(names) for order in orders)
    assert {order[0] for order in orders} == set(names)
    assert {c.batch for c in cells} == {8}


def made(
    ttft: dict[tuple[str, float], list[float]], lengths: dict[tuple[str, float], int]
) -> list[dict]:
    """The log of a run in which prefill took all but 1 ms of vision."""
    records = [
        {"kind": "ceilings", "flops": 1e9, "bytes": 1e15},
        {
            "kind": "batch",
            "batch": 1,
            "preprocess_ms": 5.0,
            "visual_tokens": 576,
            "prompt": 626,
            "grids": [[24, 24]],
        },
        {"kind": "text", "batch": 1, "length": 1, "ms": 2.0},
        {"kind": "text", "batch": 1, "length": 626, "ms": 99.0},
    ]
    for (name, keep), times in ttft.items():
        for repeat, ms in enumerate(times):
            stages = {
                "vision": 1.0,
                "select": 0.5 * (keep < 1),
                "rebuild": 0.0,
                "prefill": ms - 1 - 0.5 * (keep < 1),
            }
            n = lengths.get((name, keep), 626)
            records.append(
                {
                    "kind": "cell",
                    "session": 1,
                    "batch": 1,
                    "repeat": repeat,
                    "method": name,
                    "keep": keep,
                    "stages": stages,
                    "ttft_ms": ms,
                    "decode_ms": 3.0,
                    "kept": None if keep == 1 else n - 50,
                    "lengths": [n] * 4,
                    "kv_bytes": 1024 * n,
                }
            )
    return records


SETTINGS = {
    "shape": "tiny",
    "layers": None,
    "of_layers": 4,
    "dtype": "float32",
    "machine": {"name": "x", "threads": 1},
}


def test_rows():
    """Speed-ups are ratios of medians, ideals of FLOPs; what bounds a row is the longest of three
    times.
    """
    dense, pruned = (DENSE, 1.0), ("adafv", 0.1)
    records = made(
        {dense: [100.0, 120, 80], (DENSE_REPEAT, 1.0): [100.0, 100, 100], pruned: [20.0, 30, 25]},
        {pruned: 108},
    )
    config = shape_of("tiny").config()
    first, row = rows.rows_of(records, SETTINGS, config)
    assert first["method"] == DENSE
    assert first["speedup"] == first["ideal_speedup"] == first["share_of_ideal"] == 1
    assert tuple(row)[: len(CONTRACT)] == CONTRACT
    assert row["speedup"] == 4
    assert row["speedup_low"] == 3.2
    assert row["speedup_high"] == 5
    stock, tower = (
        flops.vision(config, [(24, 24)], all_layers=every).flops for every in (True, False)
    )
    long, short = (flops.prefill(config, [n] * 4).flops for n in (626, 108))
    assert row["ideal_speedup"] == pytest.approx((stock + long) / (tower + short), abs=1e-3)
    assert row["share_of_ideal"] == pytest.approx(row["speedup"] / row["ideal_speedup"], abs=1e-3)
    assert row["prefill_speedup"] == pytest.approx(99 / 23.5, abs=1e-3)
    assert row["prefill_share"] == pytest.approx(
        row["prefill_speedup"] / row["prefill_ideal"], abs=1e-3
    )
    assert (row["kept_tokens"], row["bound"]) == (58, "compute")
    assert report.noise_of(records) == {"1": [0.8, 1.0, 1.2]}
    records[0] = {"kind": "ceilings", "flops": 1e15, "bytes": 1e6}
    assert rows.rows_of(records, SETTINGS, config)[1]["bound"] == "memory"
    records[0] = {"kind": "ceilings", "flops": 1e15, "bytes": 1e15}
    first, row = rows.rows_of(records, SETTINGS, config)
    assert row["bound"] == "launch"
    # in digits that count, however fast the machine
    records[0] = {"kind": "ceilings", "flops": 1e18, "bytes": 1e18}
    fast = rows.rows_of(records, SETTINGS, config)
    assert fast[1]["share_of_ceiling"] == 0
    for one, work in zip(fast, [stock + long, tower + short], strict=True):
        assert one["least_ms"] == pytest.approx(1000 * work / 1e18, rel=1e-3)


def test_the_ideal_of_a_smaller_image_is_that_of_its_smaller_tower():
    """Options behind the method's name change nothing about that."""
    plain, spelled = ("resize", 0.25), ("resize:question=chat", 0.25)
    records = made(
        {(DENSE, 1.0): [100.0], plain: [20.0], spelled: [20.0]}, {plain: 194, spelled: 194}
    )
    config = shape_of("tiny").config()
    _, *both = rows.rows_of(records, SETTINGS, config)
    stock = flops.vision(config, [(24, 24)], all_layers=True).flops
    small = flops.vision(config, [(12, 12)], all_layers=False).flops
    long, short = (flops.prefill(config, [n] * 4).flops for n in (626, 194))
    for row in both:
        assert row["ideal_speedup"] == pytest.approx((stock + long) / (small + short), abs=1e-3)


def test_break_even_is_of_the_dense_prefill():
    """Not of a prompt of text as long, which was timed in another hour."""
    dense, pruned = (DENSE, 1.0), ("adafv", 0.1)
    records = made({dense: [100.0, 100], pruned: [20.0, 20]}, {pruned: 108})
    records[3] |= {"ms": 2.0}
    row = rows.rows_of(records, SETTINGS, shape_of("tiny").config())[1]
    # 2 ms of one token, 99 of 626: choosing takes half a millisecond
    assert row["break_even"] in range(2, 10)


def test_what_is_added_later_is_compared_with_its_own_dense_runs():
    """The machine is half as fast on the second day; a trial without a dense one counts nowhere."""
    dense, first, second = (DENSE, 1.0), ("adafv", 0.1), ("scope", 0.1)
    records = made({dense: [100.0, 100], first: [20.0, 20]}, {first: 108})
    later = made({dense: [200.0, 200], second: [50.0, 50, 1]}, {second: 108})
    for record in later:
        if record["kind"] == "cell":
            records.append(record | {"session": 2})
    _, one, other = rows.rows_of(records, SETTINGS, shape_of("tiny").config())
    assert (one["method"], one["speedup"], one["speedup_low"]) == ("adafv", 5, 5)
    assert (other["method"], other["speedup"], other["repeats"]) == ("scope", 4, 2)


def test_a_method_that_is_added_is_timed_beside_the_dense_model(small, tmp_path, capsys):
    options = ("--keep", "0.5", "--out", tmp_path)
    for name in ("adafv", "scope"):
        assert speed(capsys, *QUICK, "--methods", name, *options)[0] == 0
    cells = [json.loads(line) for line in (tmp_path / "cells.jsonl").read_text().splitlines()]
    methods = {}
    for cell in cells:
        if cell["kind"] == "cell":
            methods.setdefault(cell["session"], set()).add(cell["method"])
    assert methods == {
        1: {DENSE, DENSE_REPEAT, "adafv"},
        2: {DENSE, DENSE_REPEAT, "scope"},
    }


def test_roofline():
    """Measured on this machine, in FLOP/s and bytes/s, and not absurd."""
    found = roofline.measure(CPU, torch.float32)
    assert 1e8 < found.flops < 1e15
    assert 1e8 < found.bytes < 1e14
    assert found.compute_ms(found.flops) == pytest.approx(1000)


def test_break_even():
    """Where a prefill takes a millisecond a token and choosing takes 9.25, ten of twenty tokens
    must go.
    """
    times = {1: 1.0, 1000: 1000.0}
    assert rows.break_even(times, 50, 500, 0.5, 9.25) == 20
    assert rows.break_even(times, 50, 500, 0.5, 251.0) is None
    flat = {1: 10.0, 300: 10.0, 1000: 710.0}
    assert rows.break_even(flat, 50, 500, 0.1, 0.0) == 251


def speed(capsys, *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(["speed", *map(str, words)])
    return status, *capsys.readouterr()


@pytest.fixture
def small(monkeypatch):
    """The default shape, smaller; a roofline at once."""
    monkeypatch.setitem(SHAPES, "tiny", SMALL["llava"])
    monkeypatch.setattr(run.roofline, "measure", lambda *_: run.roofline.Roofline(1e11, 1e10))


QUICK = ("--device", "cpu", "--repeats", 2, "--answer", 2, "--json")


def test_command(small, tmp_path, capsys):
    """The contract: JSON alone on stdout, the same in results.json, a CSV and an image; a second
    run only adds.
    """
    options = ("--batch", "1,2", "--methods", "adafv,fastv", "--keep", "1,0.5", "--out", tmp_path)
    status, out, _ = speed(capsys, *QUICK, *options)
    assert status == 0
    found = json.loads(out)
    assert found == json.loads((tmp_path / "results.json").read_text())
    names = [(row["batch"], row["method"], row["keep"]) for row in found["rows"]]
    assert names == [
        (b, m, k) for b in (1, 2) for m, k in ((DENSE, 1.0), ("adafv", 0.5), ("fastv", 0.5))
    ]
    for row in found["rows"]:
        assert tuple(row)[: len(CONTRACT)] == CONTRACT
        assert row["kept_tokens"] == round(16 * row["keep"])
        assert row["speedup"] == pytest.approx(
            found["rows"][3 * (row["batch"] - 1)]["ttft_ms"] / row["ttft_ms"], rel=1e-3
        )
        assert row["peak_bytes"] > row["kv_bytes"] > 0
        assert row["bound"] in (
            "compute",
            "memory",
            "launch",
        )
    assert set(found["meta"]["noise_floor"]) == {"1", "2"}
    assert found["meta"]["layers"] is None
    with open(tmp_path / "results.csv") as file:
        assert len(list(csv.DictReader(file))) == 6
    assert (tmp_path / "speed.png").stat().st_size > 10_000

    log = tmp_path / "cells.jsonl"
    before = log.read_bytes()
    assert speed(capsys, *QUICK, *options)[0] == 0
    assert log.read_bytes() == before
    log.write_bytes(before[:-20])  # a kill in the middle of the last line
    status, out, _ = speed(capsys, *QUICK, *options)
    assert status == 0
    assert len(json.loads(out)["rows"]) == 6
    status, out, _ = speed(capsys, *QUICK, "--keep", "0.5", "--out", tmp_path)
    assert [row["method"] for row in json.loads(out)["rows"]] == [DENSE, "adafv+"]


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_are_methods_here(small, tmp_path, capsys, name):
    """`--methods` knows them, though the registry doesn't."""
    assert name not in METHODS
    status, out, _ = speed(capsys, *QUICK, "--methods", name, "--keep", "0.5", "--out", tmp_path)
    assert status == 0
    assert [row["method"] for row in json.loads(out)["rows"]] == [DENSE, name]


def test_table(small, tmp_path, capsys):
    """Without --json: a table that says how much of the model it is, on what machine, and the noise
    floor.
    """
    status, out, _ = speed(capsys, *QUICK[:-1], "--layers", 2, "--out", tmp_path)
    assert status == 0
    machine = torch.backends.cpu.get_cpu_capability()
    for words in ("2 of 4 LLM layers", machine, "dense", "adafv", "noise floor", "results.csv"):
        assert words in out


def test_refusal_is_reported(small, monkeypatch, tmp_path, capsys):
    """A method that this model or budget doesn't allow is left out and named; the others
    are timed.
    """
    monkeypatch.setitem(SHAPES, "tiny", SMALL["qwen3_vl"])
    status, out, _ = speed(
        capsys, *QUICK, "--methods", "adafv,fastv", "--keep", "0.5", "--out", tmp_path
    )
    found = json.loads(out)
    assert status == 0
    assert [row["method"] for row in found["rows"]] == [DENSE, "adafv"]
    assert [(entry["method"], entry["keep"]) for entry in found["meta"]["left_out"]] == [
        ("fastv", 0.5)
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--shape", "llava-1.5-7"), "did you mean 'llava-1.5-7b'"),
        (("--layers", "0"), "pass 1 to 4"),
        (("--layers", "99"), "pass 1 to 4"),
        (("--batch", "x"), "pass numbers such as 1,8,32"),
        (("--batch", "0"), "pass 1 or more"),
        (("--batch", ","), "names nothing"),
        (("--keep", "2"), "pass 0 < keep <= 1"),
        (("--keep", "half"), "is not a number"),
        (("--methods", "adafb"), "did you mean 'adafv'"),
        (("--methods", "fastv", "--compile"), "leave one of the two out"),
        (("--repeats", "0"), "pass 1 or more"),
        (("--device", "tpu9"), "cannot be used"),
        (("--dtype", "int8"), "is unknown"),
    ],
)
def test_bad_input(tmp_path, capsys, words, said):
    """One line with the remedy, exit 2, before anything is timed."""
    status, out, err = speed(capsys, "--out", tmp_path / "new", *words)
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1
    assert said in err


@pytest.mark.compiled
def test_compiled_command(small, tmp_path, capsys, monkeypatch):
    """What `make bench-gpu` asks for runs on any device: dense, pruned and eager rows, traced but
    not made faster.
    """
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setitem(SHAPES, "tiny", SHALLOW["llava"])
    options = (
        "--compile",
        "--batch",
        "1,2",
        "--methods",
        "adafv,eager",
        "--keep",
        "1,0.5",
        "--out",
        tmp_path,
    )
    status, out, _ = speed(capsys, *QUICK, *options)
    assert status == 0
    found = json.loads(out)
    assert found["meta"]["compile"]
    assert not found["meta"]["left_out"]
    names = [(row["batch"], row["method"]) for row in found["rows"]]
    assert names == [(b, m) for b in (1, 2) for m in (DENSE, "adafv", "eager")]
    assert all(
        row["peak_bytes"] and row["prefill_ms"] and row["decode_ms_per_token"]
        for row in found["rows"]
    )


def test_other_settings_do_not_mix(small, tmp_path, capsys):
    """A folder holds one shape, one machine, one precision."""
    assert speed(capsys, *QUICK, "--keep", "0.5", "--out", tmp_path)[0] == 0
    status, _, err = speed(capsys, *QUICK, "--dtype", "bf16", "--out", tmp_path)
    assert status == 2
    assert "pass another --out, or the same settings" in err


def test_measurement_counts_one_dense():
    """Keep 1 of any method is the dense model, which is timed twice anyway."""
    measured = Measurement(methods=["adafv", "none"], keeps=[1.0, 0.1])
    assert list(measured.pruners) == [(DENSE, 1.0), (DENSE_REPEAT, 1.0), ("adafv", 0.1)]
    assert replace(measured, layers=2).config.get_text_config().num_hidden_layers == 2


def test_what_a_template_says_is_skipped_as_in_an_evaluation():
    """`skip=template` names token ids of the shape's own processor: without it, plain adafv."""
    name = "adafv:skip=template"
    pruner = Measurement(methods=["adafv", name], keeps=[0.1]).pruners[name, 0.1]
    assert pruner is not None
    assert frozenset(pruner.skip)


def test_pages_say_what_was_measured(monkeypatch):
    """The tables of benchmarks/speed/README.md are those of the committed results."""
    script = Path(__file__).parents[2] / "benchmarks" / "speed" / "pages.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--check"])
    runpy.run_path(str(script), run_name="__main__")


def test_ratio_of_rooflines():
    """What a short prompt can gain is less than its FLOPs say where weights are read anyway."""
    folder = Path(__file__).parents[2] / "benchmarks" / "speed" / "llava-next-7b-whole"
    found = json.loads((folder / "results.json").read_text())
    dense, pruned = found["rows"][:2]
    dense |= {"share_of_ceiling": 0.5, "ttft_ms": 100}
    pruned |= {"share_of_ceiling": 0.8, "ttft_ms": 25, "ideal_speedup": 10}
    line = markdown([dense, pruned], found["meta"]).splitlines()[-1]
    assert " (10.00, " in line
    assert "| 2.50 |" in line
    # a share that is 0 in four digits says nothing, the time itself does
    pruned |= {"share_of_ceiling": 0.0}
    assert "| – |" in markdown([dense, pruned], found["meta"]).splitlines()[-1]
    pruned |= {"least_ms": 2e-5}
    dense |= {"least_ms": 3e-5}
    assert "| 1.50 |" in markdown([dense, pruned], found["meta"]).splitlines()[-1]
