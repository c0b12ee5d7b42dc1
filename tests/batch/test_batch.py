"""Batches: what asking one by one says, in order; every bad line named; nothing lost to a kill or a
full disk.
"""

import json
import os
import resource
import signal
import sys
import time
import warnings
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import INSIDE, fixtures_of, picture, tiny_model, tiny_processor
from fakes import TEXTS, checkpoint_of
from PIL import Image
from processes import fork

from adafv import AdaFV, method
from adafv.batch import hf, job
from adafv.batch.engine import EngineError
from adafv.batch.hf import HuggingFace
from adafv.batch.job import Batch
from adafv.batch.jsonl import UnfinishedLineWarning
from adafv.cli import batch as command_line
from adafv.cli import main
from adafv.methods.resize import Resize
from adafv.models.ask import ask
from adafv.models.boilerplate import boilerplate
from adafv.models.vocabulary import PhotographWarning
from adafv.utils.files import Lines

pytestmark = pytest.mark.slow

KEYS = ["id", "answer", "method", "visual_tokens", "kept_tokens", "error"]
# as a GPU, a CPU, and NumPy have it
TOO_LITTLE = (
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."),
    MemoryError("Unable to allocate 7.11 PiB for an array"),
)
SHAPES = ((48, 48), (30, 60), (72, 24), (24, 24))


model, processor = fixtures_of("llava_next")


checkpoint = checkpoint_of("llava_next")


@pytest.fixture
def source(tmp_path) -> Path:
    """Seven questions on four images of several shapes, some on the same one."""
    for i, shape in enumerate(SHAPES):
        picture(*shape, seed=i).save(tmp_path / f"{i}.png")
    return write(
        tmp_path,
        [{"image": f"{i % 4 if i < 5 else 2}.png", "question": TEXTS[i % 3]} for i in range(7)],
    )


def write(folder: Path, lines: list) -> Path:
    path = folder / "in.jsonl"
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def batch(source: Path, out: str = "out.jsonl", pruner=None, **options) -> Batch:
    pruner = pruner or AdaFV(keep=0.2)
    return Batch(
        source=source, out=source.parent / out, pruner=pruner, **{"max_new_tokens": 4, **options}
    )


def run(plan: Batch, model, processor) -> list[dict]:
    plan.run(HuggingFace(model, processor, "tiny"))
    return read(plan.out)


@pytest.mark.parametrize("name", ["adafv", "sparsevlm", "visionzip", "none"])
def test_answers_are_those_of_asking_one_by_one(model, processor, source, name):
    """Batching, and sharing an image's encoding, change no answer and no count; the order is the
    input's.
    """
    pruner = method("none") if name == "none" else method(name, keep=0.6 if name in INSIDE else 0.2)
    results = run(batch(source, pruner=pruner, batch_size=3), model, processor)
    for number, (line, result) in enumerate(zip(read(source), results, strict=True), 1):
        image = Image.open(source.parent / line["image"])
        alone = ask(model, processor, image, line["question"], pruner, max_new_tokens=4)
        assert list(result) == KEYS
        assert result["error"] is None
        assert [result[key] for key in KEYS[:-1]] == [
            number,
            alone.answer,
            name,
            alone.visual_tokens,
            alone.kept_tokens,
        ]


def test_a_picture_is_encoded_once(model, processor, source):
    """Seven questions on four images: as many through the tower one by one as in one batch."""
    seen = []
    hook = model.model.vision_tower.register_forward_hook(
        lambda _, x, __: seen.append(len(x[0])), always_call=True
    )
    try:
        run(batch(source, out="a", batch_size=7), model, processor)
        together = sum(seen)
        seen.clear()
        run(batch(source, out="b", batch_size=1), model, processor)
    finally:
        hook.remove()
    assert 0 < together == sum(seen)


def test_shrunk_images_are_answered_together(source, monkeypatch):
    """Several questions about one image, which a method encodes its own way: one group."""
    sizes = []
    plain = hf.answers

    def counting(*arguments):
        sizes.append(len(arguments[2]))
        return plain(*arguments)

    monkeypatch.setattr(hf, "answers", counting)
    lines = [read(source)[0] | {"question": f"how many {'?' * n}"} for n in (1, 2, 3)]
    job = batch(write(source.parent, lines), "a", Resize(keep=0.25))
    assert len(run(job, tiny_model("llava"), tiny_processor("llava"))) == 3
    assert sizes == [3]


def test_a_line_has_its_own_budget(model, processor, source):
    """Keep of a line replaces the command's budget, whichever of the two it was."""
    lines = read(source)[:4]
    lines[1]["keep"], lines[2]["keep"] = 0.5, 1
    for pruner, expected in ((AdaFV(keep=0.1), 0.1), (AdaFV(tokens=5), None)):
        results = run(
            batch(write(source.parent, lines), f"{expected}.jsonl", pruner), model, processor
        )
        shares = [expected, 0.5, 1, expected]
        for result, share in zip(results, shares, strict=True):
            assert result["kept_tokens"] == (
                5 if share is None else int(share * result["visual_tokens"] + 0.5)
            )


def test_a_line_has_its_own_method(model, processor, source):
    """With options and a budget of its own, or at the command's; the result names it and is that of
    asking alone.
    """
    own = [
        {"method": "random", "tokens": 7},
        {"method": "adafv:reserve=0.5"},
        {"method": "none"},
        {"method": "t2i:keep=0.5"},
        {"tokens": 4},
        {"method": "adafv:skip=template"},
        {},
    ]
    lines = [line | extra for line, extra in zip(read(source), own, strict=True)]
    results = run(batch(write(source.parent, lines)), model, processor)
    pruners = [
        method("random", tokens=7),
        method("adafv", reserve=0.5, keep=0.2),
        method("none"),
        method("t2i", keep=0.5),
        AdaFV(tokens=4),
        AdaFV(keep=0.2, skip=boilerplate(processor)),
        AdaFV(keep=0.2),
    ]
    for line, result, pruner in zip(lines, results, pruners, strict=True):
        alone = ask(
            model, processor, Image.open(source.parent / line["image"]), line["question"], pruner, 4
        )
        assert result["error"] is None
        assert [result[key] for key in KEYS[1:-1]] == [
            alone.answer,
            pruner.spec,
            alone.visual_tokens,
            alone.kept_tokens,
        ]


def test_a_failed_line_names_the_method_that_it_asked_for(model, processor, source):
    line = read(source)[0] | {"method": "scop"}
    [result] = run(batch(write(source.parent, [line])), model, processor)
    assert "did you mean 'scope'" in result["error"]
    assert result["method"] == "scop"


def test_failed_lines_are_tried_again(model, processor, source):
    """With retry_failed, in their places; what was answered isn't answered twice, and without it
    nothing changes.
    """
    lines = read(source)
    lines[1]["image"], lines[4]["image"] = "late.png", "never.png"
    plan = batch(write(source.parent, lines))
    before = run(plan, model, processor)
    assert [bool(r["error"]) for r in before] == [i in (1, 4) for i in range(7)]
    picture(48, 48).save(source.parent / "late.png")
    assert run(plan, model, processor) == before
    # what a killed process has left is no part of the results
    leftover = plan.out.with_name(".out.12.jsonl")
    leftover.write_text('{"torn": ')
    again = replace(plan, retry_failed=True)
    summary = again.run(HuggingFace(model, processor, "tiny"))
    assert summary == {"lines": 7, "resumed": 5, "failed": 1, "first_error": before[4]["error"]}
    after = read(plan.out)
    assert after[1]["answer"] is not None
    assert [r for i, r in enumerate(after) if i != 1] == [r for i, r in enumerate(before) if i != 1]
    assert sorted(p.name for p in source.parent.glob("*out*")) == [
        leftover.name,
        "out.jsonl",
        "out.jsonl.settings.json",
    ]


def test_an_interrupted_retry_keeps_what_it_has(model, processor, source, monkeypatch):
    """Ctrl-C in the middle: every line has one result, and what was answered anew stays."""
    lines = [line | {"image": f"late{i}.png"} for i, line in enumerate(read(source))]
    plan = batch(write(source.parent, lines), batch_size=1)
    before = run(plan, model, processor)
    for i in range(7):
        picture(48, 48, seed=i).save(source.parent / f"late{i}.png")
    original, calls = hf.generate, []

    def generate(*rest):
        calls.append(rest)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(*rest)

    monkeypatch.setattr(hf, "generate", generate)
    with pytest.raises(KeyboardInterrupt):
        replace(plan, retry_failed=True).run(HuggingFace(model, processor, "tiny"))
    after = read(plan.out)
    assert [r["error"] is None for r in after] == [True] * 3 + [False] * 4
    assert after[3:] == before[3:]


def test_a_killed_retry_keeps_what_it_has(model, processor, source, monkeypatch):
    """What is answered anew is written now and then, not only at the end."""
    lines = [line | {"image": f"late{i}.png"} for i, line in enumerate(read(source))]
    plan = batch(write(source.parent, lines), batch_size=1)
    run(plan, model, processor)
    for i in range(7):
        picture(48, 48, seed=i).save(source.parent / f"late{i}.png")
    original, answered = hf.generate, []

    def generate(*rest):
        answered.append(sum(result["error"] is None for result in read(plan.out)))
        return original(*rest)

    monkeypatch.setattr(hf, "generate", generate)
    monkeypatch.setattr(job, "SAVE_EVERY", -1.0)
    replace(plan, retry_failed=True).run(HuggingFace(model, processor, "tiny"))
    assert answered == [*range(7)]


def test_no_room_to_rewrite(tmp_path):
    """One sentence; what was there is kept."""
    path = tmp_path / "out.jsonl"
    path.write_text('{"id": 1}\n')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Lines(path, "another OUT") as lines:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        try:
            with pytest.raises(ValueError, match="cannot be written"):
                lines.rewrite([{"id": "2" * 200}])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == '{"id": 1}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_questions_from_a_pipe_are_read_once(source):
    """Another pruner, once the model is there, doesn't read them again."""
    reading, writing = os.pipe()
    os.write(writing, json.dumps(read(source)[0]).encode())
    os.close(writing)
    plan = Batch(source=Path(f"/dev/fd/{reading}"), out=None, pruner=AdaFV(keep=0.2))
    os.close(reading)
    other = plan.with_pruner(AdaFV(keep=0.5))
    assert (plan.pruner.keep, other.pruner.keep) == (0.2, 0.5)
    assert other.questions == [read(source)[0]["question"]]


def test_results_that_nobody_can_write(model, processor, source):
    """A full disk behind OUT - is one sentence; a reader who has seen enough needs none."""
    plan = Batch(source=source, out=None, pruner=AdaFV(keep=0.2), max_new_tokens=2)
    engine = HuggingFace(model, processor, "tiny")
    no_room = pytest.raises(ValueError, match="No space left")
    with open("/dev/full", "wb", buffering=0) as full, no_room:
        plan.run(engine, stream=full)
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb", buffering=0) as pipe, pytest.raises(BrokenPipeError):
        plan.run(engine, stream=pipe)


def test_an_engine_that_loses_a_response(model, processor, source, monkeypatch):
    """The lines behind it are not dropped in silence."""
    engine = HuggingFace(model, processor, "tiny")
    whole = engine.responses

    def lossy(*given):
        for responses in whole(*given):
            responses.pop(3, None)
            yield responses

    monkeypatch.setattr(engine, "responses", lossy)
    with pytest.raises(EngineError, match="no response to line 3"):
        batch(source).run(engine)


def test_a_batch_without_a_picture(model, processor, source):
    """Where no image of a batch can be opened, each line says so."""
    lines = [line | {"image": "no.png"} for line in read(source)]
    assert all(
        "no.png" in r["error"] for r in run(batch(write(source.parent, lines)), model, processor)
    )


@pytest.mark.parametrize("content", [b'[{"image": "a.png"}]', b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"])
def test_a_file_that_is_not_lines_of_text(source, content):
    """One sentence, instead of an error for each of its lines."""
    source.write_bytes(content)
    with pytest.raises(ValueError, match="write a line for each question"):
        batch(source)


@pytest.mark.parametrize("changed", ["generation", "configuration", "tokenizer"])
def test_a_job_goes_on_with_the_same_model_alone(model, processor, source, changed):
    """What decides an answer is no weight only: how it decodes, which layer it reads, its words."""
    plan = batch(source)
    run(plan, model, processor)
    model = deepcopy(model)
    processor = deepcopy(processor)
    if changed == "generation":
        model.generation_config.repetition_penalty = 3.0
    elif changed == "configuration":
        model.config.vision_feature_layer = -1
    else:
        processor.tokenizer.add_tokens(["zebra"])
    with pytest.raises(ValueError, match="processor" if changed == "tokenizer" else "weights"):
        plan.run(HuggingFace(model, processor, "tiny"))


def test_new_lines_are_taken_up(model, processor, source):
    """Appended to the input, with or without a line end before them; lines that change are still
    refused.
    """
    lines = read(source)
    plan = batch(write(source.parent, lines[:4]))
    before = run(plan, model, processor)
    source.write_text("\r\n".join(map(json.dumps, lines)))
    later = batch(source)
    assert later.run(HuggingFace(model, processor, "tiny"))["resumed"] == 4
    assert read(later.out)[:4] == before
    assert len(read(later.out)) == 7
    write(source.parent, lines[:5])
    with pytest.raises(ValueError, match="input="):
        batch(source).run(HuggingFace(model, processor, "tiny"))


def test_a_line_that_is_still_being_written(model, processor, source, capsys):
    """It is left out, and taken up once it is complete; a complete one needs no line end."""
    content = source.read_bytes()
    line = content.splitlines()[0]
    source.write_bytes(content + line[:-9])
    with pytest.warns(UnfinishedLineWarning, match=r"line 8 of .* is still being written"):
        assert len(run(batch(source), model, processor)) == 7
    source.write_bytes(content + line)
    later = batch(source)
    assert later.run(HuggingFace(model, processor, "tiny"))["resumed"] == 7
    assert [result["error"] for result in read(later.out)] == [None] * 8
    source.write_bytes(line[:-9])
    assert main(["batch", str(source), str(source.parent / "other.jsonl")]) == 2
    assert capsys.readouterr().err.startswith(f"adafv: line 1 of {source} is no JSON, or not")


def test_results_on_stdout(source, checkpoint, capfdbinary):
    """OUT is -: the lines that a file would have, nothing else; exit 1 where lines failed; no file
    is made.
    """
    write(source.parent, [*read(source)[:2], {"image": "no.png", "question": "what"}])
    assert main(command(source, checkpoint)) == 1
    capfdbinary.readouterr()
    files = sorted(source.parent.iterdir())
    words = command(source, checkpoint)
    words[2] = "-"
    assert main(words) == 1
    out, err = capfdbinary.readouterr()
    assert out == (source.parent / "out.jsonl").read_bytes()
    assert b"failed: 1 lines" in err
    assert sorted(source.parent.iterdir()) == files
    for option in ("--json", "--retry-failed"):
        assert main([*words, option]) == 2


def test_unknown_words_of_the_embedded_model(source, capsys):
    """One sentence for all lines, on stderr and in the summary."""
    source = write(
        source.parent,
        [{"image": "0.png", "question": q} for q in ("a zebra?", "the cup?", "a zebra, ox?")],
    )
    assert (
        main(
            [
                "batch",
                str(source),
                str(source.parent / "o.jsonl"),
                "--max-new-tokens",
                "2",
                "--json",
            ]
        )
        == 0
    )
    out, err = capsys.readouterr()
    assert json.loads(out)["unknown_words"] == ["zebra", "ox"]
    assert err.count("'zebra', 'ox' are not among the 184 words") == 1
    assert "--model" in err


def test_a_photograph_is_beyond_the_embedded_model(model, processor, source):
    """Its answer is a guess, which a person is told."""
    Image.new("RGB", (640, 480), "gray").save(source.parent / "0.png")
    with pytest.warns(PhotographWarning, match="not photographs"):
        batch(source).run(HuggingFace(model, processor, "embedded"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", PhotographWarning)
        batch(source, out="b").run(HuggingFace(model, processor, "tiny"))


def test_ids(model, processor, source):
    """Text, numbers, and where there is none the line's number; they come back as they were."""
    lines = [
        line | {"id": x}
        for line, x in zip(read(source), ["a", 9, 1.5, "9", "é\ud800"], strict=False)
    ]
    lines.append(read(source)[0])
    plan = batch(write(source.parent, lines))
    assert [r["id"] for r in run(plan, model, processor)] == ["a", 9, 1.5, "9", "é\ud800", 6]
    assert plan.run(HuggingFace(model, processor, "tiny"))["resumed"] == 6


BAD = {
    "no.png": ({"image": "no.png", "question": "what"}, "does not exist"),
    "corrupt": ({"image": "corrupt.png", "question": "what"}, "corrupt.png"),
    "truncated": ({"image": "half.png", "question": "what"}, "half.png"),
    "folder": ({"image": "", "question": "what"}, "a folder"),
    "http": ({"image": "http://example.org/a.png", "question": "what"}, "download"),
    "https": ({"image": "HTTPS://example.org/a.png", "question": "what"}, "download"),
    "data": ({"image": "data:image/png;base64," + "A" * 9999, "question": "what"}, "download"),
    "null byte": ({"image": "a\0.png", "question": "what"}, "a"),
    "surrogate": ({"image": "\ud800.png", "question": "what"}, "does not exist"),
    "empty question": ({"image": "0.png", "question": "  "}, "question is empty"),
    "control token": ({"image": "0.png", "question": "a <image>"}, "control token"),
    "no question": ({"image": "0.png"}, "question=None"),
    "no image": ({"question": "what"}, "image=None"),
    "number": ({"image": 3, "question": "what"}, "image=3"),
    "keep 0": ({"image": "0.png", "question": "what", "keep": 0}, "keep=0"),
    "keep 2": ({"image": "0.png", "question": "what", "keep": 2}, "keep=2"),
    "keep nan": ('{"image": "0.png", "question": "what", "keep": NaN}', "keep=nan"),
    "keep text": ({"image": "0.png", "question": "what", "keep": "0.1"}, "keep='0.1'"),
    "keep true": ({"image": "0.png", "question": "what", "keep": True}, "keep=True"),
    "unknown key": ({"image": "0.png", "question": "what", "kep": 0.5}, "did you mean 'keep'?"),
    "strange key": (
        {"image": "0.png", "question": "what", "zzz": 1},
        "'zzz' is unknown: a line has id, image",
    ),
    "tokens 0": ({"image": "0.png", "question": "what", "tokens": 0}, "tokens=0"),
    "tokens huge": ({"image": "0.png", "question": "what", "tokens": 10**400}, "out of range"),
    "keep huge": ({"image": "0.png", "question": "what", "keep": 10**400}, "out of range"),
    "tokens 1.5": ({"image": "0.png", "question": "what", "tokens": 1.5}, "tokens=1.5"),
    "two budgets": (
        {"image": "0.png", "question": "what", "tokens": 5, "keep": 0.1},
        "both are given",
    ),
    "method": ({"image": "0.png", "question": "what", "method": "adafw"}, "did you mean 'adafv'"),
    "method 3": ({"image": "0.png", "question": "what", "method": 3}, "method=3"),
    "option": ({"image": "0.png", "question": "what", "method": "adafv:reserve=9"}, "reserve=9"),
    "option huge": (
        {"image": "0.png", "question": "what", "method": f"stacktok:swaps={10**30}"},
        "swaps=1000000000000000000000000000000 is out of range",
    ),
    "budget twice": (
        {"image": "0.png", "question": "what", "method": "t2i:keep=1", "keep": 1},
        "given already",
    ),
    "no JSON": ('{"image": "0.png", ', "no JSON"),
    "blank": ("", "no JSON"),
    "deep": ("[" * 100_000, "no JSON"),
    "a list": ("[1]", "no JSON object"),
    "bad id": ({"id": [1], "image": "0.png", "question": "what"}, "id"),
    "infinite id": ('{"id": 1e999, "image": "0.png", "question": "what"}', "id"),
    "too long": ({"image": "0.png", "question": "what " * 600}, "the model reads"),
}


def test_every_bad_line(model, processor, source, monkeypatch):
    """Each gets one sentence in its place; the good ones between them are answered as if it weren't
    there.
    """
    monkeypatch.setattr(model.config.text_config, "max_position_embeddings", 500)
    good, folder = read(source)[0], source.parent
    (folder / "corrupt.png").write_text("text")
    (folder / "half.png").write_bytes((folder / "0.png").read_bytes()[:2000])
    lines = [x for bad, _ in BAD.values() for x in (good, bad)]
    results = run(batch(write(folder, lines), batch_size=8), model, processor)
    assert [r["id"] for r in results] == list(range(1, len(lines) + 1))
    assert len({r["answer"] for r in results[::2]}) == 1
    assert {r["error"] for r in results[::2]} == {None}
    for name, result, (_, words) in zip(BAD, results[1::2], BAD.values(), strict=True):
        assert words in result["error"], name
        assert "\n" not in result["error"], name
        assert len(result["error"]) < 500, name
        assert result["answer"] is result["visual_tokens"] is result["kept_tokens"] is None


def test_bytes_that_are_no_text(model, processor, source):
    """A line in Latin-1 is that line's fault alone; a BOM and Windows line ends are nobody's."""
    line = json.dumps(read(source)[0]).encode()
    source.write_bytes(
        b"\xef\xbb\xbf" + line + b"\r\n" + line.replace(b"what", b"wh\xe4t") + b"\r\n" + line
    )
    errors = [r["error"] for r in run(batch(source), model, processor)]
    assert errors[0] is errors[2] is None
    assert "line 2 is not UTF-8" in errors[1]


def test_a_broken_line_takes_nobodys_id(model, processor, source):
    """Its number may be the id of another line, whose answer a reader by id would lose."""
    good = read(source)[0]
    results = run(
        batch(write(source.parent, [good | {"id": 2}, "{", good | {"id": 0}, "{"])),
        model,
        processor,
    )
    assert [r["id"] for r in results] == [2, None, 0, 4]
    assert "line 2" in results[1]["error"]


@pytest.mark.parametrize("ids", [("a", "a"), (1, 1.0), (2, None)])
def test_the_same_id_twice(source, ids):
    """Before anything runs; a line's number counts as its id."""
    lines = [line | {"id": x} for line, x in zip(read(source), ids, strict=False)]
    with pytest.raises(ValueError, match=r"line 2 .* line 1"):
        batch(write(source.parent, lines))


@pytest.mark.parametrize("room", [2, 0])
@pytest.mark.parametrize("error", TOO_LITTLE)
def test_out_of_memory(model, processor, source, monkeypatch, room, error):
    """A batch that doesn't fit is halved; an image that doesn't fit alone is that line's error."""
    original = hf.generate

    def generate(model, inputs, *rest):
        if len(inputs["input_ids"]) > room:
            raise error
        return original(model, inputs, *rest)

    expected = run(batch(source, "a"), model, processor)
    monkeypatch.setattr(hf, "generate", generate)
    results = run(batch(source, "b"), model, processor)
    assert results == expected if room else all("memory" in r["error"] for r in results)


@pytest.mark.parametrize("torn", [b"", b'{"id": 4, "answer": "r', b'{"id": 4, "answer": "\xc3'])
def test_a_second_run_goes_on(model, processor, source, torn, monkeypatch):
    """Stopped in the middle, the last line torn: the same file as without a stop, and nothing
    answered twice.
    """
    whole = run(batch(source, "whole"), model, processor)
    plan = batch(source, batch_size=2)
    run(plan, model, processor)
    kept = b"".join(plan.out.read_bytes().splitlines(keepends=True)[:3])
    plan.out.write_bytes(kept + torn)
    generated, original = [], hf.generate
    monkeypatch.setattr(
        hf,
        "generate",
        lambda m, i, n: (generated.append(len(i["input_ids"])), original(m, i, n))[1],
    )
    assert run(plan, model, processor) == whole
    assert sum(generated) == 4
    summary = plan.run(HuggingFace(model, processor, "tiny"))
    assert summary == {"lines": 7, "resumed": 7, "failed": 0, "first_error": None}
    assert sum(generated) == 4


@pytest.mark.parametrize(
    ("options", "name", "words"),
    [
        ({"pruner": AdaFV(keep=0.3)}, "tiny", "keep=0.2 (now 0.3)"),
        ({"pruner": AdaFV(tokens=9)}, "tiny", "tokens=None (now 9)"),
        ({"pruner": method("random", keep=0.2)}, "tiny", "method='adafv' (now 'random')"),
        ({"max_new_tokens": 5}, "tiny", "max_new_tokens=4 (now 5)"),
        ({}, "other", "model='tiny' (now 'other')"),
    ],
)
def test_other_settings(model, processor, source, options, name, words):
    """Results under two settings don't belong in one file; what is there stays."""
    run(batch(source), model, processor)
    before = (source.parent / "out.jsonl").read_bytes()
    with pytest.raises(ValueError) as info:
        batch(source, **options).run(HuggingFace(model, processor, name))
    assert words in str(info.value)
    assert (source.parent / "out.jsonl").read_bytes() == before


def test_another_input(model, processor, source):
    """The same number of other questions would be taken for answered."""
    run(batch(source), model, processor)
    source.write_text(source.read_text().replace("anchor", "knight"))
    with pytest.raises(ValueError, match="input="):
        batch(source).run(HuggingFace(model, processor, "tiny"))


def test_damaged_settings(model, processor, source):
    """What made the results is unknown then."""
    run(batch(source), model, processor)
    (source.parent / "out.jsonl.settings.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"cannot be read from out\.jsonl\.settings\.json"):
        batch(source).run(HuggingFace(model, processor, "tiny"))


def test_the_batch_size_may_change(model, processor, source):
    """It is no setting of the answers: after running out of memory one goes on with a
    smaller one.
    """
    run(batch(source), model, processor)
    assert batch(source, batch_size=1).run(HuggingFace(model, processor, "tiny"))["resumed"] == 7


@pytest.mark.parametrize("content", ["notes", "notes\n", '{"id": 1}\n'])
def test_somebody_elses_file(model, processor, source, content):
    """A file that no batch has made is not written into."""
    (source.parent / "out.jsonl").write_text(content)
    with pytest.raises(ValueError, match="pass another OUT"):
        batch(source).run(HuggingFace(model, processor, "tiny"))
    assert (source.parent / "out.jsonl").read_text() == content


@pytest.mark.parametrize(
    "damage", ["garbage", "[]", "[" * 100_000, '{"id": 7, "answer": "red", "error": null}']
)
def test_a_damaged_result(model, processor, source, damage):
    """Damage that no kill explains is named, not answered over."""
    plan = batch(source)
    run(plan, model, processor)
    lines = plan.out.read_text().splitlines()
    plan.out.write_text("\n".join([*lines[:2], damage, *lines[3:]]) + "\n")
    with pytest.raises(ValueError, match="line 3 of"):
        plan.run(HuggingFace(model, processor, "tiny"))


def test_two_at_once(model, processor, source):
    """Two runs into one file would write every line twice."""
    from adafv.batch.jsonl import Results

    with (
        Results(source.parent / "out.jsonl", {}, [], []),
        pytest.raises(ValueError, match="another run"),
    ):
        batch(source).run(HuggingFace(model, processor, "tiny"))


def command(source: Path, checkpoint: str, *options: object, out: str = "out.jsonl") -> list[str]:
    given = ["--max-new-tokens", 4, "--model", checkpoint, *options]
    return ["batch", str(source), str(source.parent / out), *map(str, given)]


def test_a_full_disk(source, checkpoint, capsys):
    """One sentence and exit 2; what was written stays whole, and the run can be taken up once there
    is room.
    """
    write(source.parent, read(source) * 5)
    assert main(command(source, checkpoint, out="whole.jsonl")) == 0
    whole, limits = (
        (source.parent / "whole.jsonl").read_bytes(),
        resource.getrlimit(resource.RLIMIT_FSIZE),
    )
    capsys.readouterr()
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) // 2, limits[1]))
    try:
        status = main(command(source, checkpoint, "--batch-size", 2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert status == 2
    assert "make room and run the same command again" in complaint
    written = (source.parent / "out.jsonl").read_bytes()
    assert written.endswith(b"\n")
    assert 0 < len(written) < len(whole)
    assert whole.startswith(written)
    assert main(command(source, checkpoint)) == 0
    assert (source.parent / "out.jsonl").read_bytes() == whole


def test_killed(source, checkpoint):
    """Kill -9 while it writes, again and again: in the end the file is that of a run that nobody
    killed.
    """
    lines = [line | {"id": f"{i}"} for i in range(30) for line in read(source)[:1]]
    source = write(source.parent, lines)
    words = command(source, checkpoint, "--batch-size", 1)
    out, before = source.parent / "out.jsonl", 0
    for _ in range(2):
        process = fork(main, words)
        deadline = time.monotonic() + 120
        while (
            not out.exists() or out.read_bytes().count(b"\n") < before + 4
        ) and time.monotonic() < deadline:
            time.sleep(0.002)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        before = out.read_bytes().count(b"\n")
        assert 4 <= before < 30
    assert main(command(source, checkpoint)) == 0
    assert main(command(source, checkpoint, out="whole.jsonl")) == 0
    assert read(out) == read(source.parent / "whole.jsonl")
    assert len(read(out)) == 30


def test_the_command(source, checkpoint, capsys):
    """JSON alone on stdout, the bar on stderr; a person is told what failed."""
    assert main(command(source, checkpoint, "--keep", 0.5, "--json")) == 0
    said, bar = capsys.readouterr()
    summary = json.loads(said)
    assert said.count("\n") == 1
    assert summary["lines"] == 7
    assert summary["failed"] == summary["resumed"] == 0
    assert "line/s" in bar
    assert "100%" in bar
    write(source.parent, [*read(source), "{"])
    assert main(command(source, checkpoint, out="b.jsonl")) == 1
    assert "failed: 1 lines, the first because: line 8 is no JSON" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--engine", "tgi"], "'tgi'"),
        (["--engine", "vllm", "--device", "cpu"], "--device cpu with --engine vllm"),
        (["--workers", 2], "--workers 2 with --engine hf"),
        (["--engine", "ray", "--workers", 0], "--workers 0"),
        (["--batch-size", 0], "batch_size=0"),
        (["--max-new-tokens", 0], "max_new_tokens=0"),
        (["--keep", 2], "keep=2"),
        (["--method", "adafw"], "did you mean 'adafv'"),
    ],
)
def test_bad_options(source, checkpoint, capsys, options, words):
    """One line, exit 2, no file left behind."""
    assert main(command(source, checkpoint, *options)) == 2
    said, complaint = capsys.readouterr()
    assert said == ""
    assert complaint.count("\n") == 1
    assert words in complaint
    assert not (source.parent / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("engine", "package"),
    [("vllm", "needs vllm, which is not installed: pip install 'adafv[vllm]'"), ("ray", "[ray]")],
)
def test_a_missing_package(source, checkpoint, capsys, monkeypatch, engine, package):
    """VLLM and Ray are optional: without them one line says how to get them."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(command(source, checkpoint, "--engine", engine)) == 2
    assert package in capsys.readouterr().err
    assert not (source.parent / "out.jsonl").exists()


def test_vllm_runs_no_code_of_the_current_folder(monkeypatch):
    """What Python starts with -m or -c would find it there first."""
    made = SimpleNamespace(VLLMEngine=lambda *_: os.environ["PYTHONSAFEPATH"])
    monkeypatch.setitem(sys.modules, "adafv.batch.vllm", made)
    monkeypatch.setattr(os, "environ", {})
    assert command_line._engine("vllm", 1, None, None, None) == "1"


@pytest.mark.parametrize("place", ["in.jsonl", "folder", "/dev/full", "0.png/out.jsonl", "x" * 300])
def test_bad_places(source, checkpoint, capsys, place):
    """The input itself, a folder, a device, below a file, a name that is too long."""
    (source.parent / "folder").mkdir()
    before = source.read_bytes()
    assert main(command(source, checkpoint, out=place)) == 2
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1
    assert "Traceback" not in complaint
    assert place.split("/")[0] in complaint
    assert source.read_bytes() == before


@pytest.mark.parametrize("content", [None, b"", b"\n \n"])
def test_bad_inputs(source, checkpoint, capsys, content):
    """Missing or without a line."""
    source.unlink()
    if content is not None:
        source.write_bytes(content)
    assert main(command(source, checkpoint)) == 2
    assert "in.jsonl" in capsys.readouterr().err
