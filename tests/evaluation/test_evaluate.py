"""Evaluation: one pass of the tower for all, answers as asked one by one, a log that survives
anything, honest rows.
"""

import csv
import json
import math
import resource
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import fixtures_of, inputs_for, picture, prompt, tiny_model
from fakes import TEXTS, FakeSuites
from PIL import Image
from zoo.families import tiny

from adafv import AdaFV, method
from adafv.core.encode import encode, reask
from adafv.evaluation import answering, plot, prompts, report
from adafv.evaluation.answer_log import AnswerLog
from adafv.evaluation.evaluate import Evaluation
from adafv.evaluation.rows import COLUMNS, rows_of
from adafv.models.ask import ask
from adafv.models.boilerplate import boilerplate
from adafv.models.prompting import build_batch
from adafv.utils.stats import wilson

METHODS, KEEPS = ("adafv", "random", "pool"), (1, 0.25, 0.05)
CONFIGURATIONS = 2 + 3 * 2


model, processor = fixtures_of("llava_next")


@pytest.fixture
def suite(monkeypatch) -> FakeSuites:
    return FakeSuites(monkeypatch)


def plan(**options) -> Evaluation:
    given = dict(methods=METHODS, keeps=KEEPS, suites=("shapes",), batch_size=3, max_new_tokens=4)
    return Evaluation(**given | options)


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


def timeless(records: list[dict]) -> list[dict]:
    """Records without their times, in an order of their own."""
    short = [{k: v for k, v in record.items() if k != "seconds"} for record in records]
    return sorted(
        short, key=lambda r: [str(r[k]) for k in ("suite", "id", "question", "method", "keep")]
    )


@pytest.fixture
def whole(model, processor, suite, tmp_path) -> list[dict]:
    """The records of a run that nothing disturbs."""
    return plan().run(model, processor, tmp_path / "whole", name="tiny").records


def test_reask_is_a_fresh_encoding(model, processor):
    """Other questions on encoded images, in any order and number: what the processor and the
    tower would give.
    """
    images = [picture(48, 48, 1), picture(30, 60, 2)]
    first = encode(model, build_batch(processor, images, TEXTS[:2]), text=False)
    index, texts = [1, 0, 1], [TEXTS[2], TEXTS[1], TEXTS[0]]
    full = build_batch(processor, [images[i] for i in index], texts)
    inputs = {name: full[name] for name in ("input_ids", "attention_mask")}
    pruner = AdaFV(keep=0.2)
    short = pruner.prune(model, inputs, reask(model, inputs, first, index))
    fresh = pruner(model, full)
    assert torch.equal(short["input_ids"], fresh["input_ids"])
    assert "pixel_values" not in short
    with torch.no_grad():
        torch.testing.assert_close(
            model(**short).logits, model(**fresh).logits, rtol=1e-4, atol=1e-4
        )


def test_reask_refuses_prompts_of_other_images(model, processor):
    """Placeholders that don't fit the encoded images are an error, not a crash in the model."""
    inputs = inputs_for(processor, (prompt(), [picture()]))
    with pytest.raises(ValueError, match="placeholders"):
        reask(model, inputs, encode(model, inputs), [0, 0])


@pytest.mark.slow
def test_answers_are_those_of_asking_one_by_one(model, processor, suite, whole):
    """Sharing the tower and batching prompts of several lengths and shapes changes no answer and no
    count.
    """
    by_key = {(r["id"], r["question"], r["method"], r["keep"]): r for r in whole}
    assert len(whole) == len(by_key) == suite.questions * CONFIGURATIONS
    for sample in suite.samples:
        for q, question in enumerate(sample.questions):
            for name, keep in [("none", 1.0), *((m, k) for m in METHODS for k in KEEPS[1:])]:
                alone = ask(
                    model,
                    processor,
                    sample.image,
                    question.text,
                    method(name, keep=keep),
                    max_new_tokens=4,
                )
                record = by_key[sample.id, q, name, keep]
                assert record["answer"] == alone.answer
                assert (record["visual_tokens"], record["kept_tokens"]) == (
                    alone.visual_tokens,
                    alone.kept_tokens,
                )
                assert record["type"] == question.type
                assert record["truth"] == question.answer


@pytest.mark.parametrize("name", ["adafv", "divprune"])
def test_seconds_are_those_of_a_clock_that_waits(
    model, processor, suite, tmp_path, monkeypatch, name
):
    """An accelerator is only handed its work: the choice's time would count as the prefill's."""
    read = []

    def now(device: torch.device) -> float:
        read.append(device)
        return float(len(read))

    monkeypatch.setattr(prompts, "now", now)
    records = (
        plan(methods=[name], keeps=[0.25])
        .run(model, processor, tmp_path / "clock", name="tiny")
        .records
    )
    assert set(read) == {model.device}
    # by two looks each: the choice, and what is generated
    shares = {record["seconds"] for record in records if record["method"] == name}
    assert shares <= {round(2 / size, 6) for size in (1, 2, 3)}


def test_blind_sees_no_picture(model, processor, suite, whole):
    """The blind rows are the language model on the bare question: the same for every image."""
    blind = [r for r in whole if r["method"] == "blind"]
    assert {r["kept_tokens"] for r in blind} == {0}
    assert {r["keep"] for r in blind} == {0.0}
    for q in range(3):
        assert len({r["answer"] for r in blind if r["question"] == q}) == 1


def test_the_tower_runs_once_per_picture(model, processor, suite, tmp_path, monkeypatch):
    """For all its questions, methods and budgets."""
    pictures, runs = [], []
    original = answering.encode
    monkeypatch.setattr(
        answering,
        "encode",
        lambda m, i, **k: (pictures.append(len(i["pixel_values"])), original(m, i, **k))[1],
    )
    hook = model.model.vision_tower.register_forward_hook(lambda *_: runs.append(1))
    try:
        plan(batch_size=4).run(model, processor, tmp_path, name="tiny")
    finally:
        hook.remove()
    assert sum(pictures) == len(suite.samples)
    assert len(runs) == len(pictures) < len(suite.samples)


def test_an_image_is_prepared_once(model, processor, suite, tmp_path, monkeypatch):
    """For all its questions, methods and budgets, also where they fill several batches, and where a
    method encodes images of its own.
    """
    cls, prepared = type(processor.image_processor), []
    plain = cls.__call__

    def counted(self, images, *args, **options):
        prepared.append(images)
        return plain(self, images, *args, **options)

    monkeypatch.setattr(cls, "__call__", counted)
    plan(batch_size=2, methods=(*METHODS, "visionzip")).run(model, processor, tmp_path, name="tiny")
    assert [shown for [[shown]] in prepared] == [sample.image for sample in suite.samples]


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_a_method_that_shrinks_gets_the_pixels(family, suite, tmp_path):
    """Its answers are those of asking one by one."""
    found = tiny(family)
    evaluation = plan(methods=("resize",), keeps=(0.3,))
    records = evaluation.run(found.model, found.processor, tmp_path, name="tiny").records
    samples = {sample.id: sample for sample in suite.samples}
    for record in records:
        if record["method"] == "resize":
            sample = samples[record["id"]]
            text = sample.questions[record["question"]].text
            pruner = method("resize", keep=0.3)
            alone = ask(found.model, found.processor, sample.image, text, pruner, 4)
            assert record["answer"] == alone.answer
            assert record["kept_tokens"] == alone.kept_tokens


def test_comparison_ignores_case_and_space(model, processor, suite, tmp_path, whole):
    """Truths taken from the dense model's answers, upper-cased and padded: dense is 100 % right,
    retention 1.
    """
    dense = {(r["id"], r["question"]): r["answer"] for r in whole if r["method"] == "none"}
    suite.samples = [
        replace(
            s,
            questions=tuple(
                replace(q, answer=f" {dense[s.id, i].upper()} ") for i, q in enumerate(s.questions)
            ),
        )
        for s in suite.samples
    ]
    rows = rows_of(plan().run(model, processor, tmp_path / "b", name="tiny").records)
    assert all(r["accuracy"] == r["retention"] == 1 for r in rows if r["method"] == "none")
    assert any(r["accuracy"] < 1 for r in rows if r["method"] == "blind")
    # retention is a share of the dense model's accuracy, which is 1 here
    assert all(row["retention"] == row["accuracy"] for row in rows)


CONTRACT = (
    "method",
    "keep",
    "kept_tokens",
    "visual_tokens",
    "suite",
    "question_type",
    "n",
    "accuracy",
    "ci_low",
    "ci_high",
    "retention",
    "seconds",
)


def test_rows_are_the_contracts(whole):
    """The columns of DESIGN.md, dense and blind once, keep=1 not repeated, every type and `all`."""
    rows = rows_of(whole)
    assert all(tuple(row)[: len(CONTRACT)] == CONTRACT for row in rows)
    configurations = {(r["method"], r["keep"]) for r in rows}
    assert configurations == {
        ("none", 1.0),
        ("blind", 0.0),
        *((m, k) for m in METHODS for k in KEEPS[1:]),
    }
    assert len(rows) == CONFIGURATIONS * 4
    assert {r["question_type"] for r in rows} == {
        "all",
        "A",
        "B",
        "C",
    }
    for row in rows:
        group = [
            r
            for r in whole
            if (r["method"], r["keep"]) == (row["method"], row["keep"])
            and row["question_type"] in ("all", r["type"])
        ]
        assert row["n"] == len(group)
        assert row["accuracy"] == pytest.approx(
            sum(r["correct"] for r in group) / len(group), abs=1e-6
        )
        assert row["kept_tokens"] == pytest.approx(
            sum(r["kept_tokens"] for r in group) / len(group), abs=1e-6
        )
        assert 0 <= row["ci_low"] <= row["accuracy"] <= row["ci_high"] <= 1
        assert row["seconds"] > 0


def test_retention_without_a_dense_accuracy():
    """A dense model that gets nothing right has no retention: null in JSON, not a division by zero
    or a NaN.
    """
    answer = dict(
        suite="s",
        id="a",
        question=0,
        type="t",
        visual_tokens=9,
        kept_tokens=9,
        seconds=1.0,
        correct=False,
    )
    rows = rows_of([answer | {"method": m, "keep": k} for m, k in (("none", 1.0), ("adafv", 0.1))])
    assert all(row["retention"] is None for row in rows)
    report.table(rows)


@pytest.mark.slow
def test_a_killed_run_goes_on(model, processor, suite, tmp_path, whole, monkeypatch):
    """Killed in the middle, the last line torn: the second run ends with the same records, none
    twice, none again.
    """
    original, appended = AnswerLog.append, []

    def append(self, records):
        if len(appended) == 2:
            raise KeyboardInterrupt
        appended.append(records)
        original(self, records)

    folder = tmp_path / "out"
    monkeypatch.setattr(AnswerLog, "append", append)
    with pytest.raises(KeyboardInterrupt):
        plan().run(model, processor, folder, name="tiny")
    monkeypatch.setattr(AnswerLog, "append", original)
    path = folder / "answers.jsonl"
    written = path.read_bytes()
    path.write_bytes(written[:-20])
    known = len(lines_whole(path))

    generated = []
    generate = prompts.generate
    monkeypatch.setattr(
        prompts,
        "generate",
        lambda m, i, n: (generated.append(len(i["input_ids"])), generate(m, i, n))[1],
    )
    records = plan().run(model, processor, folder, name="tiny").records
    assert timeless(records) == timeless(whole) == timeless(lines(folder))
    assert sum(generated) <= len(whole) - known + 2
    generated.clear()
    assert timeless(plan().run(model, processor, folder, name="tiny").records) == timeless(whole)
    assert not generated


def lines_whole(path) -> list[bytes]:
    return path.read_bytes().split(b"\n")[:-1]


def test_more_methods_use_what_is_there(model, processor, suite, tmp_path, whole):
    """A second run may ask for more (or fewer) methods: rows are for what was asked, dense is not
    answered again.
    """
    before = len(lines(tmp_path / "whole"))
    records = (
        plan(methods=("t2i",), keeps=(0.25,))
        .run(model, processor, tmp_path / "whole", name="tiny")
        .records
    )
    assert {r["method"] for r in records} == {"none", "blind", "t2i"}
    assert len(lines(tmp_path / "whole")) == before + suite.questions


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"split": "validation"}, {"max_new_tokens": 9}, {"name": "other"}]
)
def test_other_settings_are_refused(model, processor, suite, tmp_path, whole, change):
    """Answers of another model, seed or length are never mixed in."""
    before = (tmp_path / "whole" / "answers.jsonl").read_bytes()
    name = change.pop("name", "tiny")
    with pytest.raises(ValueError, match="--out") as info:
        plan(**change).run(model, processor, tmp_path / "whole", name=name)
    assert "\n" not in str(info.value)
    assert (tmp_path / "whole" / "answers.jsonl").read_bytes() == before


def test_retrained_weights_are_refused(processor, suite, tmp_path, whole):
    """The embedded model keeps its name when it is trained again."""
    with pytest.raises(ValueError, match="weights"):
        plan().run(tiny_model("llava_next", seed=1), processor, tmp_path / "whole", name="tiny")


@pytest.mark.parametrize("name", ["torch", "transformers", "machine"])
def test_answers_of_another_machine_or_version_are_refused(
    model, processor, suite, tmp_path, whole, name, monkeypatch
):
    """Results name one of each."""
    if name == "machine":
        monkeypatch.setattr(answering, "machine_of", lambda device: {"name": "another CPU"})
    else:
        monkeypatch.setattr(getattr(answering, name), "__version__", "0.1")
    with pytest.raises(ValueError, match=f"holds a run with {name}=.* pass another --out"):
        plan().run(model, processor, tmp_path / "whole", name="tiny")


def record(i: int) -> dict:
    return {
        "suite": "s",
        "id": str(i),
        "question": 0,
        "method": "adafv",
        "keep": 0.1,
        "answer": "x" * 200,
    }


@pytest.mark.slow
def test_a_larger_limit_goes_on(model, processor, suite, tmp_path, whole):
    """What a short run measured is not measured again, and a shorter run afterwards reports what it
    was asked.
    """
    few = plan(limit=2).run(model, processor, tmp_path, name="tiny").records
    assert timeless(plan().run(model, processor, tmp_path, name="tiny").records) == timeless(whole)
    assert timeless(plan(limit=2).run(model, processor, tmp_path, name="tiny").records) == timeless(
        few
    )


def test_a_budget_that_cannot_be_met_is_left_out(model, processor, suite, tmp_path):
    """One method's limit doesn't end the comparison: its rows are missing, the reason is there, the
    rest is whole.
    """
    evaluation = plan(methods=("adafv_released", "random"), keeps=(0.5, 0.01))
    findings = evaluation.run(model, processor, tmp_path, name="tiny")
    records = findings.records
    found = {(r["method"], r["keep"]) for r in records}
    assert found == {
        ("none", 1.0),
        ("blind", 0.0),
        ("random", 0.5),
        ("random", 0.01),
        ("adafv_released", 0.5),
    }
    assert len(records) == suite.questions * len(found)
    [(_, method, keep)] = findings.left_out
    assert (method, keep) == ("adafv_released", 0.01)
    [reason] = findings.left_out.values()
    assert "adafv_released keeps nothing" in reason
    again = plan(methods=("adafv_released", "random"), keeps=(0.5, 0.01))
    assert timeless(again.run(model, processor, tmp_path, name="tiny").records) == timeless(records)


def test_another_processor_is_refused(model, processor, suite, tmp_path, whole):
    """Of one folder all answers are of pictures that were prepared alike."""
    other = deepcopy(processor)
    other.image_processor.image_mean = [0.1, 0.2, 0.3]
    with pytest.raises(ValueError, match="processor="):
        plan().run(model, other, tmp_path / "whole", name="tiny")


@pytest.mark.parametrize("name", ["adafv", "t2i"])
def test_options_in_a_list_of_methods(model, processor, suite, tmp_path, name):
    """A method with options is a line of its own, named as it was written; its skipped words are
    left out of its T, also where its order serves several budgets.
    """
    spec, skip = f"{name}:skip=template:temperature=0.02", boilerplate(processor)
    records = (
        plan(methods=(name, f"{name}:temperature=0.02", spec), keeps=(0.05,))
        .run(model, processor, tmp_path, name="tiny")
        .records
    )
    assert {r["method"] for r in records} >= {"none", "blind", name, spec}
    samples, pruner = (
        {s.id: s for s in suite.samples},
        method(name, keep=0.05, skip=skip, temperature=0.02),
    )
    for r in (r for r in records if r["method"] == spec):
        sample = samples[r["id"]]
        assert (
            r["answer"]
            == ask(
                model, processor, sample.image, sample.questions[r["question"]].text, pruner, 4
            ).answer
        )


def test_oracle_only_where_things_are_known(model, processor, suite, tmp_path):
    """A suite without boxes has no oracle rows."""
    records = plan(methods=("oracle",)).run(model, processor, tmp_path, name="tiny").records
    assert {r["method"] for r in records} == {"none", "blind"}


def test_log_of_two_processes(tmp_path):
    """Two runs in one folder would write every answer twice."""
    with AnswerLog(tmp_path, {}), pytest.raises(ValueError, match="another run"):
        AnswerLog(tmp_path, {})
    AnswerLog(tmp_path, {}).__exit__()


def test_log_never_doubles(tmp_path):
    """The same answer twice is one line."""
    with AnswerLog(tmp_path, {}) as log:
        log.append([record(1), record(1)])
        log.append([record(1), record(2)])
    assert [r["id"] for r in lines(tmp_path)] == ["1", "2"]


@pytest.mark.parametrize("torn", [b"", b"\n", b'{"suite": "s"', b'{"suite": "s", "id": "\xc3'])
def test_log_cuts_a_torn_line_only(tmp_path, torn):
    """Every line that was whole before the kill is there after it, and the next one starts on a
    line of its own.
    """
    with AnswerLog(tmp_path, {}) as log:
        log.append([record(1), record(2)])
    path = tmp_path / "answers.jsonl"
    if torn == b"\n":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.write_bytes(path.read_bytes() + torn)
    with AnswerLog(tmp_path, {}) as log:
        log.append([record(2), record(3)])
    assert sorted(r["id"] for r in lines(tmp_path)) == ["1", "2", "3"]


def test_a_log_without_answers_blocks_nothing(tmp_path):
    """A run that ended before its first answer left nothing to mix with."""
    with AnswerLog(tmp_path, {"seed": 0}):
        pass
    with AnswerLog(tmp_path, {"seed": 1}) as log:
        log.append([record(1)])
    with pytest.raises(ValueError, match="seed=1"):
        AnswerLog(tmp_path, {"seed": 2})


def test_log_with_a_damaged_line(tmp_path):
    """Damage that no kill explains is named, not skipped."""
    with AnswerLog(tmp_path, {}) as log:
        log.append([record(1)])
    with (tmp_path / "answers.jsonl").open("a") as file:
        file.write("garbage\n")
    with pytest.raises(ValueError, match="line 2"):
        AnswerLog(tmp_path, {})


def test_full_disk_keeps_what_is_there(tmp_path):
    """The write that doesn't fit leaves no half line behind, and the run can be taken up."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with AnswerLog(tmp_path, {}) as log:
        log.append([record(1)])
        size = (tmp_path / "answers.jsonl").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, limits[1]))
        try:
            with pytest.raises(ValueError, match="make room"):
                log.append([record(2)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert [r["id"] for r in lines(tmp_path)] == ["1"]
        log.append([record(2)])
    assert [r["id"] for r in lines(tmp_path)] == ["1", "2"]


@pytest.mark.parametrize(
    "options",
    [
        {"methods": ("adafw",)},
        {"methods": ()},
        {"keeps": (0,)},
        {"keeps": (-1,)},
        {"keeps": (1.5,)},
        {"keeps": ()},
        {"keeps": (math.nan,)},
        {"suites": ("shape",)},
        {"suites": ()},
        {"seed": -1},
        {"limit": 0},
        {"batch_size": 0},
        {"max_new_tokens": -1},
        {"methods": ("adafv:top=x",)},
        {"methods": ("adafv:skip=all",)},
    ],
)
def test_bad_plans(suite, options):
    """Refused when the plan is made, before a model is loaded."""
    with pytest.raises(ValueError) as info:
        plan(**options)
    assert "\n" not in str(info.value)


def test_closest_suite_is_suggested(suite):
    """As for methods."""
    with pytest.raises(ValueError, match="did you mean 'shapes'"):
        plan(suites=("shaps",))


def test_interval_is_wilsons_for_one_question_per_picture():
    """8 of 10: 0.4901 to 0.9433 (Wilson 1927; Newcombe 1998)."""
    assert wilson([[True]] * 8 + [[False]] * 2) == pytest.approx((0.4901, 0.9433), abs=2e-4)


def test_interval_knows_that_questions_share_a_picture():
    """Four questions that always go right or wrong together are worth one: the interval is that of
    the images.
    """
    together = wilson([[True] * 4] * 30 + [[False] * 4] * 10)
    assert together == pytest.approx(wilson([[True]] * 30 + [[False]] * 10), abs=5e-3)
    apart = wilson([[True, True, True, False]] * 40)
    assert apart[1] - apart[0] < together[1] - together[0]


def test_interval_covers():
    """In 2,000 draws of clustered answers the truth lies inside about 95 times in 100."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        ability = rng.beta(4, 1, size=60)
        answers = rng.random((60, 4)) < ability[:, None]
        low, high = wilson(answers.tolist())
        inside += low <= 0.8 <= high
    assert 0.93 < inside / 2000 < 0.97


@pytest.mark.parametrize("each", [1, 3, 5])
def test_an_error_more_proves_no_more(each):
    """On 167 images: no lower end rises with a further wrong answer, nor an upper one falls."""
    answers = [[True] * each for _ in range(167)]
    low, _ = wilson(answers)
    # on image after image, as is least likely where they go wrong together
    for question in range(each):
        for image in answers:
            image[question] = False
            below, _ = wilson(answers)
            _, above = wilson([[not right for right in own] for own in answers])
            assert below <= low
            assert above == pytest.approx(1 - below)
            low = below


@pytest.mark.parametrize("right", [True, False])
def test_interval_of_a_clean_sheet(right):
    """All right (or wrong) is no proof of 100 %."""
    low, high = wilson([[right] * 3] * 20)
    assert high - low > 0.1
    assert high == 1 if right else low == 0


def test_files_and_table(whole, tmp_path):
    """results.json, results.csv and accuracy.png say the same, and the table holds dense
    and blind.
    """
    from rich.console import Console

    rows = rows_of(whole)
    report.write(tmp_path, {"seed": 0}, rows)
    assert json.loads((tmp_path / "results.json").read_text()) == {
        "meta": {"seed": 0},
        "rows": rows,
        "pairs": [],
    }
    with (tmp_path / "results.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [float(r["accuracy"]) for r in read] == [r["accuracy"] for r in rows]
    assert tuple(read[0]) == COLUMNS
    with Image.open(tmp_path / "accuracy.png") as image:
        assert min(image.size) > 400
    # for a paper: fonts that publishers take
    written = (tmp_path / "accuracy.pdf").read_bytes()
    assert written.startswith(b"%PDF")
    assert b"/Type3" not in written
    console = Console(width=160)
    with console.capture() as capture:
        console.print(report.table(rows))
    text = capture.get()
    assert "dense" in text
    assert "blind" in text
    assert "adafv" in text


def test_the_picture_says_what_has_bands_and_cuts_no_marker(whole, tmp_path, monkeypatch):
    """Dense and blind alone have bands; a marker on the axis is drawn whole."""
    drawn = []
    monkeypatch.setattr(plot, "save", lambda figure, path: drawn.append(figure))
    plot.draw(rows_of(whole), tmp_path / "accuracy.png")
    [figure] = drawn
    assert figure.get_supxlabel().endswith("bands: 95 % intervals of dense and blind")
    marked = [line for line in figure.axes[0].lines if line.get_marker() != "None"]
    assert marked
    assert not any(line.get_clip_on() for line in marked)


def test_a_row_of_nearly_all_tokens_is_no_beginning_of_a_line(whole, tmp_path, monkeypatch):
    """It is a measurement of something else, and all lines begin at the dense model."""
    drawn = []
    monkeypatch.setattr(plot, "save", lambda figure, path: drawn.append(figure))
    rows = rows_of(whole)
    low = next(row for row in rows if 0 < row["keep"] < 1)
    plot.draw([*rows, low | {"keep": 0.9983, "accuracy": 0.0}], tmp_path / "accuracy.png")
    plot.draw(rows, tmp_path / "accuracy.png")
    with_it, without = (
        [line.get_xydata().tolist() for line in figure.axes[0].lines] for figure in drawn
    )
    assert with_it == without


def test_tokens_of_several_suites_are_a_mean_and_said_to_be(whole):
    """Images of suites differ in size, and a reader sees one number."""
    rows = rows_of(whole)
    twice = rows + [row | {"suite": "more"} for row in rows]
    assert "tokens: mean over suites" in str(report.table(twice).title)
    assert "mean over suites" not in str(report.table(rows).title)


def test_only_dense(model, processor, suite, tmp_path):
    """keep=1 alone: two configurations, and an image without lines."""
    records = plan(keeps=(1,)).run(model, processor, tmp_path, name="tiny").records
    assert {r["method"] for r in records} == {"none", "blind"}
    report.write(tmp_path, {}, rows_of(records))


@pytest.mark.parametrize("family", ["qwen2_vl", "internvl", "idefics3", "gemma3", "qwen3_vl"])
def test_another_family(family, suite, tmp_path):
    """Evaluation asks a model of any family what its own processor would ask."""
    found = tiny(family)
    records = (
        plan(methods=("adafv",), keeps=(0.3,))
        .run(found.model, found.processor, tmp_path, name="tiny")
        .records
    )
    assert {r["method"] for r in records} == {"none", "blind", "adafv"}
    for record in (r for r in records if r["method"] == "adafv"):
        assert record["kept_tokens"] == AdaFV(keep=0.3).budget(record["visual_tokens"])
