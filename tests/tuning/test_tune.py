"""Tuning: an interval that small samples don't shrink, a choice that luck doesn't make, nothing
answered twice.
"""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import fixtures_of, picture
from fakes import TEXTS, checkpoint_of
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import adafv
from adafv import method
from adafv.cli import main
from adafv.data.sample import Question
from adafv.evaluation import prompts
from adafv.evaluation.own import ImageFile, read_images
from adafv.models.ask import ask
from adafv.models.saved import FILE
from adafv.tuning import pick, report
from adafv.tuning.pick import (
    CHOOSING,
    COLUMNS,
    REPORTING,
    answers_of,
    choose,
    is_candidate,
    rows_of,
    verdict,
)
from adafv.tuning.questions import halves, images_of
from adafv.tuning.retention import Effects, effects_of, needed, retention
from adafv.tuning.run import KEEPS, METHODS, Tuning
from adafv.utils.stats import wilson

PAIRS = st.lists(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=3),
    min_size=1,
    max_size=30,
)


def entries(count: int, answers: bool = False) -> list[dict]:
    """Lines about `count` images, one to three for each."""
    return [
        {"image": f"p{i}.png", "question": TEXTS[j], **({"answer": "red"} if answers else {})}
        for i in range(count)
        for j in range(1 + i % 3)
    ]


def write(folder: Path, lines: list[dict], name: str = "my.jsonl") -> Path:
    """The lines and their images."""
    for image in {Path(line["image"]).name for line in lines}:
        picture(48, 48, seed=int(image[1:-4])).save(folder / image)
    path = folder / name
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def image_file(folder: Path, number: int) -> ImageFile:
    path = folder / str(number)
    path.write_text(str(number))
    return ImageFile(str(number), str(path), (), ())


@given(PAIRS)
def test_retention_is_a_ratio_within_its_interval(answers):
    """Right answers over right answers; with the dense model for truth and one question each,
    Wilson's interval.
    """
    dense, pruned = (sum(pair[i] for own in answers for pair in own) for i in (0, 1))
    found = retention(answers, effects_of([answers]))
    if not dense:
        assert found is None
        return
    assert found is not None
    assert found.value == pytest.approx(pruned / dense)
    assert found.low <= found.value <= found.high
    assert 1 <= found.effective <= dense
    agreed = [[(True, own[0][1])] for own in answers]
    found, expected = retention(agreed), wilson([[right] for [(_, right)] in agreed])
    assert found is not None
    assert (found.low, found.high) == pytest.approx(expected)


def test_a_lone_loss_proves_no_more_than_none():
    """Many questions on few images: losing one may not raise the lower end, whatever other
    methods lose.
    """
    whole = [[(True, True)] * 5 for _ in range(40)]
    one = [[(True, False), *whole[0][1:]], *whole[1:]]
    apart = [[(True, False), *own[1:]] if i < 20 else own for i, own in enumerate(whole)]
    together = [[(True, False)] * 5 if i < 4 else own for i, own in enumerate(whole)]
    for others, counted in (([], 40), ([apart], 200), ([together], 40)):
        effects = effects_of([whole, one, *others])
        best, less = retention(whole, effects), retention(one, effects)
        assert best is not None
        assert less is not None
        assert less.low < best.low
        assert best.effective == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize(
    ("pictures", "each", "right", "lost", "gained", "alike"),
    [(150, 1, 1, 0.03, 0, 0.01), (60, 3, 1, 0.05, 0, 0.3), (60, 3, 0.7, 0.1, 0.1, 0.3)],
)
def test_the_interval_covers(pictures, each, right, lost, gained, alike):
    """Of samples whose answers on one image resemble each other, at most a few have the truth
    below the interval.
    """
    rng = np.random.default_rng(0)
    true, wrong = 1 - lost + gained * (1 - right) / right, 0

    def rates(mean: float) -> np.ndarray:
        if mean in (0, 1):
            return np.full((pictures, 1), mean)
        spread = 1 / alike - 1
        return rng.beta(mean * spread, (1 - mean) * spread, (pictures, 1))

    for _ in range(300):
        dense = rng.random((pictures, each)) < rates(right)
        kept = rng.random((pictures, each)) >= rates(lost)
        won = rng.random((pictures, each)) < rates(gained)
        pruned = np.where(dense, kept, won)
        answers = [
            [*zip(d, p, strict=True)] for d, p in zip(dense.tolist(), pruned.tolist(), strict=True)
        ]
        found = retention(answers, effects_of([answers]))
        wrong += found is not None and found.low > true
    assert wrong <= 0.05 * 300


@pytest.mark.parametrize("at_least", [0.5, 0.9, 0.98, 0.999])
def test_answers_needed(at_least):
    """Exactly from where on the interval lies above; of a share below 1 as Wilson's
    interval says.
    """
    least = needed(at_least)
    assert wilson([[True]] * least)[0] >= at_least - 1e-9
    assert least == 1 or wilson([[True]] * (least - 1))[0] < at_least
    share = (1 + at_least) / 2
    n = needed(at_least, share)
    right = round(share * n)
    low = wilson([[True]] * right + [[False]] * (n - right))[0]
    assert low == pytest.approx(at_least, abs=2 / n)


def row(
    name: str,
    keep: float,
    retained: float,
    holds: bool,
    half: str = CHOOSING,
    effective: float = 400,
) -> dict:
    low = retained - 0.01
    values = (
        half,
        name,
        keep,
        9.0,
        99.0,
        200,
        400,
        400,
        effective,
        retained,
        low,
        retained + 0.01,
        holds,
    )
    return dict(zip(COLUMNS, values, strict=True))


FIXED = [row("none", 1.0, 1.0, True), row("blind", 0.0, 0.3, False)]


def test_the_choice():
    """The smallest budget that holds with all above it; the better of two; never dense, never
    blind, never by luck.
    """
    lucky = [
        row("adafv", 0.5, 0.99, True),
        row("adafv", 0.25, 0.97, False),
        row("adafv", 0.1, 0.995, True),
    ]
    assert choose([*FIXED, *lucky]) == lucky[0]
    better = [row("t2i", 0.5, 1.0, True), row("t2i", 0.25, 0.99, True)]
    assert choose([*FIXED, *lucky, *better]) == better[1]
    level = [row("uniform", 0.5, 0.995, True)]
    assert choose([*FIXED, *lucky, *level]) == level[0]
    assert choose([*FIXED, row("adafv", 0.5, 0.9, False)]) is None
    assert choose([*FIXED, row("adafv", 0.5, 0.99, True, half=REPORTING)]) is None


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [row("t2i", 0.5, 0.99, True), row("t2i", 0.5, 0.985, False, REPORTING)],
            "t2i at keep=0.5 holds 98 %",
        ),
        ([row("t2i", 0.5, 0.99, True), row("t2i", 0.5, 0.97, False, REPORTING)], "not confirmed"),
        (
            [row("t2i", 0.5, 1.0, False, effective=100)],
            "count as 100, .* it takes 189 .* about 712 more",
        ),
        ([row("t2i", 0.5, 0.99, False)], "The best, t2i at keep=0.5, .* about 706 more lines"),
        ([row("t2i", 0.5, 0.9, False)], "Nothing holds 98 % .* larger budgets"),
        (
            [row("t2i", 0.5, 0.97, False), row("t2i", 0.25, 0.998, True)],
            "Nothing is chosen .* t2i at keep=0.25, .* a larger budget of it doesn't hold",
        ),
    ],
)
def test_the_verdict(rows, words):
    """What came out and what to do about it, whichever way it went."""
    found = verdict([*FIXED, *rows], 800, 0.98)
    assert re.search(words, found)
    assert "\n" not in found


def test_rows_of_mixed_lines(tmp_path):
    """Truth where a line has it, the dense model's answer elsewhere; case and space don't count."""
    truth = {"a": "Red", "b": "", "c": "blue"}
    for name in truth:
        (tmp_path / name).write_text(name)
    pictures = [
        ImageFile(name, str(tmp_path / name), (Question("what", answer, "", ()),), (i,))
        for i, (name, answer) in enumerate(truth.items(), 1)
    ]
    keys = {picture.id: picture.key for picture in pictures}
    said = {
        "none": ("red ", "two", "green"),
        "adafv": ("RED", "three", " Blue"),
        "blind": ("x", "Two", "x"),
    }
    records = [
        {
            "id": keys[name],
            "question": 0,
            "method": m,
            "keep": k,
            "answer": answers[i],
            "kept_tokens": 1,
            "visual_tokens": 9,
        }
        for m, k, answers in (
            ("none", 1.0, said["none"]),
            ("blind", 0.0, said["blind"]),
            ("adafv", 0.1, said["adafv"]),
        )
        for i, name in enumerate(truth)
    ]
    rows = rows_of(CHOOSING, answers_of(CHOOSING, pictures, records), Effects(), 0.5)
    assert [(r["method"], r["right"], r["retention"]) for r in rows] == [
        ("none", 2, 1),
        ("blind", 1, 0.5),
        ("adafv", 2, 1),
    ]
    assert all(tuple(r) == COLUMNS and r["n"] == 3 and r["effective"] == 2 for r in rows)
    wrong = [r | {"answer": "never"} for r in records if r["id"] != keys["b"]]
    with pytest.raises(ValueError, match="dense model gives none of the 2 answers"):
        answers_of(CHOOSING, [p for p in pictures if p.id != "b"], wrong)


def test_reading(tmp_path):
    """By image, in the order of the lines; what is there twice counts once; the same id from
    wherever it is read.
    """
    lines = entries(3, answers=True)
    path = write(
        tmp_path, [*lines, lines[0], {**lines[1], "image": "./p1.png", "id": "again", "keep": 0.5}]
    )
    found = read_images(path)
    assert [p.id for p in found] == ["p0.png", "p1.png", "p2.png"]
    assert [len(p.questions) for p in found] == [1, 2, 3]
    assert found[1].lines == (2, 3)
    assert all(q.answer == "red" for p in found for q in p.questions)
    assert found[2].sample().image.size == (48, 48)


def test_halves_share_nothing(tmp_path):
    """Every image in one of them, another split for another seed, the same for the same."""
    pictures = [image_file(tmp_path, i) for i in range(21)]
    first, second = halves(pictures, 0)
    assert len(first) == 11
    assert sorted((*first, *second), key=lambda p: int(p.id)) == pictures
    assert halves(pictures, 0) == (first, second) != halves(pictures, 1)


def test_copies_of_a_file_are_one_picture(tmp_path):
    """Under other names, too: they would be in both halves, and count as so many images."""
    for i in range(12):
        (tmp_path / str(i)).write_bytes(b"%d" % (i // 3))
    pictures = [
        ImageFile(str(i), str(tmp_path / str(i)), (Question("what", "red", "", ()),), (i,))
        for i in range(12)
    ]
    first, second = halves(pictures, 0)
    assert len(first) == len(second) == 6
    assert not {p.checksum for p in first} & {p.checksum for p in second}
    own = {"question": 0, "method": "none", "keep": 1.0, "answer": "red"}
    answered, _ = answers_of(CHOOSING, first, [own | {"id": p.key} for p in first])["none", 1.0]
    assert list(map(len, answered)) == [3, 3]

    lines = [json.dumps(line) for line in entries(2)]
    write(tmp_path, entries(2))
    (tmp_path / "p1.png").write_bytes((tmp_path / "p0.png").read_bytes())
    (tmp_path / "my.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match="asks about one image"):
        images_of(tmp_path / "my.jsonl")


BAD = [
    ("", "is empty"),
    ('{"image": "p0.png", "question": "what"}\n', "one image"),
    ('{"image": "p0.png", "question": "what"}\n{"image"', "line 2 is no JSON"),
    (
        '{"image": "p0.png", "question": "what"}\n{"image": "no.png", "question": "what"}\n',
        "line 2 of",
    ),
    (
        '{"image": "p0.png", "question": "what"}\n{"image": "text.png", "question": "what"}\n',
        "is not an image",
    ),
    ('{"image": "p0.png", "question": " "}\n', "the question is empty"),
    ('{"image": "p0.png"}\n', "question=None is not text"),
    ('{"image": "p0.png", "question": "what", "answer": 3}\n', "answer=3 is not text"),
    ('{"image": "p0.png", "question": "what", "foo": 3}\n', "the key 'foo' is unknown"),
    ('{"image": "http://a/b.png", "question": "what"}\n', "is an address"),
    (
        '{"image": "p0.png", "question": "what <image>"}\n'
        '{"image": "p1.png", "question": "what"}\n',
        "control token",
    ),
    (
        '{"image": "p0.png", "question": "what", "answer": "a"}\n'
        '{"image": "p0.png", "question": "what"}\n',
        "asked in line 1 too",
    ),
]


checkpoint = checkpoint_of("llava")


model, processor = fixtures_of("llava")


def tune(capsys, *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(["tune", *map(str, arguments)])
    return status, *capsys.readouterr()


@pytest.mark.parametrize(("text", "words"), BAD)
def test_bad_lines(checkpoint, tmp_path, capsys, text, words):
    """Exit 2 and one line, before anything is answered."""
    write(tmp_path, entries(2))
    (tmp_path / "text.png").write_text("no image")
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    status, out, err = tune(
        capsys, "--data", path, "--out", tmp_path / "out", "--model", checkpoint
    )
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert words in err
    assert "Traceback" not in err
    assert not (tmp_path / "out" / "answers.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--min-retention", 1), "min_retention=1.0 is not a share"),
        (("--min-retention", 0), "min_retention=0.0 is not a share"),
        (("--min-retention", "nan"), "min_retention=nan is not a share"),
        (("--min-retention", "x"), "--min-retention"),
        (("--keep", "a"), "--keep 'a' is not a number"),
        (("--keep", "0.5,2"), "keep=2.0 is not a share"),
        (("--keep", "1"), "nothing to choose from"),
        (("--methods", "none"), "nothing to choose from"),
        (("--methods", "adafv,oracle"), "can be no choice: leave it out"),
        (("--methods", "adafw"), "did you mean 'adafv'"),
        (("--batch-size", 0), "batch_size=0 is too few"),
        (("--data", "no.jsonl"), "no.jsonl cannot be read"),
        (("--model", "no/such/model/here"), "no/such/model/here"),
    ],
)
def test_bad_options(tmp_path, capsys, arguments, words):
    """Exit 2, one line, the remedy in it."""
    path = write(tmp_path, entries(4))
    status, out, err = tune(capsys, "--data", path, "--out", tmp_path / "out", *arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert words in err
    assert "Traceback" not in err


def test_images_that_are_asked_about_are_not_overwritten(tmp_path, capsys):
    """By a figure of the same name."""
    path = write(tmp_path, entries(4))
    (tmp_path / "p0.png").rename(tmp_path / "tune.png")
    path.write_text(path.read_text().replace("p0.png", "tune.png"))
    status, out, err = tune(capsys, "--data", path, "--out", tmp_path)
    assert (status, out) == (2, "")
    assert "tune.png is read here, and would be overwritten" in err


def plan(path: Path, **options) -> Tuning:
    given = dict(
        methods=("uniform", "adafv"),
        keeps=(0.6, 0.3),
        min_retention=0.2,
        batch_size=4,
        max_new_tokens=1,
    )
    return Tuning(data=path, **given | options)


@pytest.fixture
def generated(monkeypatch) -> list[int]:
    """How many prompts each call of generate had."""
    counts: list[int] = []
    original = prompts.generate

    def generate(model, inputs, tokens):
        counts.append(len(inputs["input_ids"]))
        return original(model, inputs, tokens)

    monkeypatch.setattr(prompts, "generate", generate)
    return counts


@pytest.mark.slow
def test_answers_are_those_of_asking(model, processor, tmp_path, generated):
    """On one half under everything, on the other only what was chosen; dense and blind on both; a
    run gone on with.
    """
    path = write(tmp_path, entries(24))
    found = plan(path).run(model, processor, tmp_path / "out", name="tiny")
    records = [
        json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()
    ]
    assert found.chosen is not None
    assert found.chosen["half"] == REPORTING
    for half, names in (
        (
            CHOOSING,
            {
                ("none", 1),
                ("blind", 0),
                *((m, k) for m in ("uniform", "adafv") for k in (0.6, 0.3)),
            },
        ),
        (REPORTING, {("none", 1), ("blind", 0), (found.chosen["method"], found.chosen["keep"])}),
    ):
        own = {p.key for p in plan(path).split[half]}
        assert {(r["method"], r["keep"]) for r in records if r["id"] in own} == names
        assert {(r["method"], r["keep"]) for r in found.rows if r["half"] == half} == names
    assert len({(r["id"], r["question"], r["method"], r["keep"]) for r in records}) == len(records)
    for r in records[::7]:
        if r["method"] != "blind":
            pruner = method(r["method"], keep=r["keep"])
            alone = ask(
                model,
                processor,
                Image.open(tmp_path / r["id"].partition("@")[0]),
                r["text"],
                pruner,
                max_new_tokens=1,
            )
            assert (r["answer"], r["kept_tokens"]) == (alone.answer, alone.kept_tokens)
    assert all(r["retention"] == 1 for r in found.rows if r["method"] == "none")

    generated.clear()
    again = plan(path).run(model, processor, tmp_path / "out", name="tiny")
    assert again.rows == found.rows
    assert not generated


@pytest.mark.slow
def test_more_lines_go_on(model, processor, tmp_path, generated):
    """Lines at the end, other methods, budgets and retentions use the answers that are there; other
    lines don't.
    """
    lines = entries(24)
    path = write(tmp_path, lines[:30])
    plan(path).run(model, processor, tmp_path / "out", name="tiny")
    answered = sum(generated)
    write(tmp_path, lines)
    plan(path).run(model, processor, tmp_path / "out", name="tiny")
    whole = sum(generated)
    generated.clear()
    plan(path, min_retention=0.9, keeps=(0.6,)).run(model, processor, tmp_path / "out", name="tiny")
    assert sum(generated) < whole - answered
    path.write_text(
        json.dumps({**lines[0], "question": "left of the knight"})
        + "\n"
        + path.read_text().split("\n", 1)[1]
    )
    with pytest.raises(
        ValueError, match=r"has the answer to .* asks 'left of the knight': pass another --out"
    ):
        plan(path).run(model, processor, tmp_path / "out", name="tiny")
    with pytest.raises(ValueError, match=r"max_new_tokens=1 \(now 2\).*--out"):
        plan(path, max_new_tokens=2).run(model, processor, tmp_path / "out", name="tiny")


@pytest.mark.slow
def test_a_killed_run_goes_on(model, processor, tmp_path, monkeypatch):
    """Killed in the middle: the second run ends with the same rows."""
    path = write(tmp_path, entries(12))
    whole = plan(path).run(model, processor, tmp_path / "whole", name="tiny")
    original, calls = prompts.generate, []

    def generate(*arguments):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(prompts, "generate", generate)
    with pytest.raises(KeyboardInterrupt):
        plan(path).run(model, processor, tmp_path / "out", name="tiny")
    assert plan(path).run(model, processor, tmp_path / "out", name="tiny").rows == whole.rows


@pytest.mark.slow
def test_budgets_that_cannot_be_met(model, processor, tmp_path):
    """One method's limit is left out with its reason; nothing left is an error."""
    path = write(tmp_path, entries(6))
    found = plan(path, methods=("fastv", "uniform"), keeps=(0.9, 0.01)).run(
        model, processor, tmp_path / "a", name="t"
    )
    assert [*found.left_out] == [("fastv", 0.01)]
    assert any(r["method"] == "fastv" for r in found.rows)
    with pytest.raises(ValueError, match="none of the budgets can be met, the first because: "):
        plan(path, methods=("fastv",), keeps=(0.01,)).run(
            model, processor, tmp_path / "b", name="t"
        )


def test_a_question_that_is_too_long(model, processor, tmp_path, monkeypatch):
    """Not a crash in the model."""
    path = write(tmp_path, entries(6))
    monkeypatch.setattr(model.config.get_text_config(), "max_position_embeddings", 20)
    with pytest.raises(ValueError, match="shorten the question"):
        plan(path).run(model, processor, tmp_path / "out", name="tiny")


@pytest.mark.slow
def test_the_command(checkpoint, tmp_path, capsys):
    """JSON, files, a table, and a pruner that loads; the table again from results.json, as
    Markdown, too.
    """
    path = write(tmp_path, entries(24))
    out = tmp_path / "out"
    arguments = [
        "--data",
        path,
        "--out",
        out,
        "--model",
        checkpoint,
        "--methods",
        "uniform,adafv:reserve=0.5",
    ]
    arguments += ["--keep", "0.6,0.3", "--min-retention", 0.1, "--max-new-tokens", 1]
    status, printed, _ = tune(capsys, *arguments, "--json")
    found = json.loads(printed)
    assert status == 0
    assert printed.count("\n") == 1
    assert found.keys() == {"meta", "rows", "chosen", "verdict"}
    assert found == json.loads((out / "results.json").read_text())
    meta = found["meta"]
    assert (meta["images"], meta["questions"], meta["with_answer"]) == (24, 48, 0)
    assert meta["min_retention"] == 0.1
    with (out / "results.csv").open() as file:
        assert len([*csv.DictReader(file)]) == len(found["rows"])
    with Image.open(out / "tune.png") as drawn:
        assert min(drawn.size) > 400
    pruner, chosen = adafv.from_pretrained(out), found["chosen"]
    assert pruner.keep == chosen["keep"]
    assert chosen["method"].startswith(pruner.name)
    assert chosen["half"] == REPORTING

    status, printed, _ = tune(capsys, *arguments)
    assert status == 0
    assert found["verdict"] in " ".join(printed.split())
    assert "adafv.json" in printed
    assert main(["table", str(out / "results.json"), "--markdown"]) == 0
    table = capsys.readouterr().out.strip().splitlines()
    assert set(table[1]) <= set("|-: ")
    assert sum(bool(line) and set(line) <= set("|-: ") for line in table) == 1
    assert sum(line.startswith("| ") for line in table) == 1 + 4 + 1
    # the legend and the verdict are paragraphs of their own
    assert table[-4] == table[-2] == ""
    assert table[-3].endswith("is at least what was asked for")
    assert table[-1] == found["verdict"]


def test_too_few_lines(checkpoint, tmp_path, capsys):
    """Said at once and at the end, with how many more; drawn all the same; an earlier adafv.json is
    left alone.
    """
    path, out = write(tmp_path, entries(4)), tmp_path / "out"
    adafv.save_pretrained(method("uniform", keep=0.5), out)
    options = ("--keep", 0.5, "--max-new-tokens", 1)
    status, printed, err = tune(
        capsys, "--data", path, "--out", out, "--model", checkpoint, *options
    )
    assert status == 0
    assert "7 lines are too few" in err
    assert "add 371 at the very least" in err
    assert "0 of 7 questions have an answer; for the rest the dense model's own counts" in err
    assert f"{FILE} is of" in err
    assert "Too few lines" in printed
    assert "and it takes 189 even if" in " ".join(printed.split())
    assert json.loads((out / "results.json").read_text())["chosen"] is None
    assert (out / "tune.png").stat().st_size
    assert adafv.from_pretrained(out) == method("uniform", keep=0.5)


def test_the_command_line_has_the_defaults_of_the_library(tmp_path):
    """Written out there for --help, which imports no torch."""
    import inspect

    from adafv.cli.tuning import tune as command

    default = {name: p.default for name, p in inspect.signature(command).parameters.items()}
    assert default["methods"] == ",".join(METHODS)
    assert default["keep"] == ",".join(map(str, KEEPS))
    # text there, for 98% is a number, too
    default["min_retention"] = float(default["min_retention"])
    own = {
        f: Tuning.__dataclass_fields__[f].default
        for f in ("min_retention", "seed", "batch_size", "max_new_tokens")
    }
    assert {name: default[name] for name in own} == own


def test_the_legend_is_of_marks_that_are_there():
    """Without a ✓ there is nothing to explain; intervals are written as `adafv eval`'s are."""
    without = [*FIXED, row("adafv", 0.5, 0.9, False)]
    assert report.legends(without) == []
    assert len(report.legends([*without, row("adafv", 0.7, 0.99, True)])) == 1
    assert "90.0 (89.0–91.0)" in next(iter(report.table(without).columns[3].cells))
    assert "(89.0–91.0)" in verdict(without, 800, 0.98)


def test_drawing_without_a_choice(tmp_path):
    """A panel with no filled point and no star."""
    rows = [*FIXED, row("adafv", 0.5, 0.9, False), row("adafv", 0.1, 0.7, False)]
    report.write(
        tmp_path, {"meta": {"min_retention": 0.98}, "rows": rows, "chosen": None, "verdict": "none"}
    )
    assert report.read(tmp_path / "results.json") is not None
    assert (tmp_path / "tune.png").stat().st_size
    assert not any(map(is_candidate, FIXED))
    assert report.read(tmp_path / "no.json") is None


@pytest.mark.parametrize("method", ["resize", "resize:question=chat"])
def test_a_smaller_image_that_holds_is_named_as_one(method):
    """Options behind the method's name change nothing about that."""
    last = {"method": method, "keep": 0.25, "retention": 0.99, "ci_low": 0.95, "ci_high": 1.0}
    assert "shrink the images instead" in pick._confirmed(last, "98 %", 0.98)
