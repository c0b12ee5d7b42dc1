"""The analysis: numbers against plain loops, hand-made boxes, whole files, one sentence for a boxes
file gone wrong.
"""

import csv
import json
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import fixtures_of, inputs_for, picture, prompt, tiny_model, tiny_processor
from fakes import save_tiny
from PIL import Image

from adafv import AdaFV, AdaFVPlus, AdaFVReleased, FasterVLM, Random, TextToImage, Uniform
from adafv.analysis import findings, tables
from adafv.analysis import measure as measuring
from adafv.analysis.figures import draw_auc, draw_scores
from adafv.analysis.first_hit import FirstHit, first_hits
from adafv.analysis.signals import chance, llm_attention, measured_layers, similarity
from adafv.analysis.sources import Source, from_boxes, from_suite
from adafv.analysis.statistics import BINS, area_under_curve, profile
from adafv.cli import main
from adafv.core.pruner import Pruner, Selection
from adafv.data.sample import Question, Sample
from adafv.families.crop_layout import join, raster
from adafv.ops.budget import BudgetError
from adafv.utils.stats import bootstrap

pytestmark = pytest.mark.slow

QUESTION = "what color is the anchor ?"
FIGURES = ("fig2", "fig3", "fig4")


model, processor = fixtures_of("llava_next")


@pytest.fixture(scope="module")
def encoding(model, processor):
    """Two images of different shapes, questions of different lengths, padded on the left."""
    samples = (prompt("how many ?"), [picture(96, 96, 1)]), (prompt(), [picture(30, 60, 2)])
    return AdaFV(keep=0.5).encode(model, inputs_for(processor, *samples))


def sample(
    *questions: tuple[str, tuple], name: str = "p", size: tuple[int, int] = (96, 96)
) -> Sample:
    asked = tuple(Question(text, "", "", boxes) for text, boxes in questions)
    return Sample(name, picture(*size, seed=len(name)), asked, ())


def source(*samples: Sample) -> Source:
    return Source("mine", samples, sum(len(s.questions) for s in samples))


def measure(model, processor, *samples: Sample, **options):
    return measuring.Analysis(
        **{"sources": [source(*samples)], "methods": ["adafv", "uniform"]} | options
    ).run(model, processor)


def test_auc_of_constructed_scores():
    """1 where every related token is ahead, 0 where every one is behind, a half where nothing
    tells.
    """
    about = np.array([True, False, False, True, False])
    for given, expected in (
        ([9, 1, 2, 8, 3], 1),
        ([1, 8, 7, 2, 9], 0),
        ([4] * 5, 0.5),
        ([5, 1, 7, 2, 2], 3.5 / 6),
    ):
        score = np.array(given, float)
        wins = [(s > t) + 0.5 * (s == t) for s in score[about] for t in score[~about]]
        assert (
            area_under_curve(about, score)
            == pytest.approx(np.mean(wins))
            == pytest.approx(expected)
        )


def test_profile_of_even_and_one_sided_scores():
    """1 everywhere and the middle for an even score; all of it in the last stretch for the last
    token.
    """
    stretches, centre = profile(np.full(200, 0.3, np.float32))
    assert stretches == pytest.approx(np.ones(BINS))
    assert centre == pytest.approx(0.5)
    stretches, centre = profile(np.arange(200) == 199)
    assert stretches[-1] == pytest.approx(BINS)
    assert not stretches[:-1].any()
    assert centre > 0.99
    assert np.isfinite(profile(np.zeros(200))[0]).all()
    assert np.isnan(profile(np.ones(3))[0]).sum() == BINS - 3


def test_bootstrap_resamples_pictures():
    """Many questions on one image are one observation, which has no interval."""
    values = [0.0, 1.0] * 20
    mean, low, high = bootstrap(values, [str(i) for i in range(40)])
    assert mean == 0.5
    assert 0.3 < low < 0.42
    assert 0.58 < high < 0.7
    assert bootstrap(values, ["one"] * 40) == (0.5, None, None)
    pairs = bootstrap(values, [str(i % 2) for i in range(40)])
    assert pairs[1:] == (0.0, 1.0)


def test_chance_differs_by_question_and_picture():
    """The control must not say the same of two images because they are asked the same."""
    drawn = {
        tuple(chance(8, *key))
        for key in ((0, "a", "q"), (0, "b", "q"), (0, "a", "r"), (1, "a", "q"))
    }
    assert len(drawn) == 4
    assert tuple(chance(8, 0, "a", "q")) in drawn


def test_similarity_is_the_best_cosine(encoding):
    """Against a loop over words and tokens; padding words never win."""
    tokens = encoding.tokens
    found = similarity(tokens)
    for i, n in enumerate(tokens.counts):
        words = tokens.text[i][tokens.text_mask[i]].double()
        for j in (0, n // 2, n - 1):
            token = tokens.features[i, j].double()
            best = max(float(word @ token / (word.norm() * token.norm())) for word in words)
            assert float(found[i, j]) == pytest.approx(best, abs=1e-5)


def test_a_question_without_a_word_resembles_nothing(encoding):
    """Alone, or beside one that has words."""
    tokens = encoding.tokens
    wordless = tokens.text_mask.clone()
    wordless[0] = False
    found = similarity(replace(tokens, text_mask=wordless))
    assert torch.equal(found[0], torch.zeros_like(found[0]))
    assert torch.equal(found[1], similarity(tokens)[1])
    none = replace(tokens, text=tokens.text[:, :0], text_mask=tokens.text_mask[:, :0])
    assert torch.equal(similarity(none), torch.zeros_like(found))


@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_llm_attention_is_the_last_row_of_eager_attention(family):
    """Read beside SDPA, with left padding and grouped keys; the model is left as it was."""
    model, processor = tiny_model(family), tiny_processor(family)
    inputs = inputs_for(
        processor, (prompt("how many ?"), [picture(96, 96, 1)]), (prompt(), [picture(30, 60, 2)])
    )
    encoding = AdaFV(keep=0.5).encode(model, inputs)
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    layers = measured_layers(encoding.tokens.layers)
    with torch.no_grad():
        rows = llm_attention(model, text, encoding, layers)
        before = model.get_decoder().config._attn_implementation
        model.set_attn_implementation("eager")
        maps = model(**inputs, output_attentions=True).attentions
    assert before == "sdpa"
    assert layers == [1]
    for layer, found in zip(layers, rows, strict=True):
        for i, (span, row) in enumerate(zip(encoding.spans, found, strict=True)):
            visual = span.positions[encoding.patch_indices[i]]
            torch.testing.assert_close(
                row, maps[layer][i, :, -1, visual].mean(0), rtol=1e-4, atol=1e-6
            )


def test_measured_layers():
    """The second and the middle one, also where there are hardly any."""
    assert [measured_layers(n) for n in (1, 2, 3, 4, 32)] == [[0], [1], [1], [1, 2], [1, 16]]


def plain(pruner: Pruner, tokens, related: np.ndarray) -> int:
    """Every budget in turn."""
    batch = len(tokens.counts)
    for k in range(1, len(related) + 1):
        with suppress(BudgetError):
            if related[pruner.select(tokens, [k] * batch).kept[0]].any():
                return k
    raise AssertionError("nothing is related")


@pytest.mark.parametrize(
    "pruner",
    [
        AdaFV(tokens=1),
        AdaFVPlus(tokens=1),
        FasterVLM(tokens=1),
        TextToImage(tokens=1),
        Random(tokens=1),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_first_hit_is_what_a_loop_over_budgets_finds(encoding, pruner, seed):
    """By rank or by bisection, in a batch that is padded."""
    tokens = encoding.tokens
    marks = [np.random.default_rng(seed + i).random(n) < 3 / n for i, n in enumerate(tokens.counts)]
    marks = [mark if mark.any() else np.arange(len(mark)) == 5 for mark in marks]
    assert first_hits(pruner, tokens, marks)[0].tokens == plain(pruner, tokens, marks[0])


@dataclass(kw_only=True)
class Fickle(Pruner):
    """Keeps token 0 at some budgets only."""

    at: tuple[int, ...] = ()
    name = "fickle"

    def pick(self, tokens, budget):
        kept = [
            torch.arange(n) if k == n else torch.arange(k) + (k not in self.at)
            for k, n in zip(budget, tokens.counts, strict=True)
        ]
        return Selection(kept)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (range(40, 180), FirstHit(40)),
        ((3, *range(40, 180)), FirstHit(3, scanned=True)),
        ((2, 5, 7), FirstHit(2)),
        ((5, 7), FirstHit(5, scanned=True)),
        ((18, 19, 20), FirstHit(18, scanned=True)),
        ((), FirstHit(180)),
    ],
)
def test_a_method_that_drops_a_token_again_is_scanned(encoding, at, expected):
    """Bisection alone would miss the lucky budgets below."""
    tokens = encoding.tokens
    marks = [np.arange(n) == 0 for n in tokens.counts]
    assert first_hits(Fickle(tokens=1, at=tuple(at)), tokens, marks)[0] == expected


@pytest.mark.parametrize("pruner", [Uniform(tokens=1), AdaFVReleased(tokens=1)])
def test_first_hit_is_never_too_few(encoding, pruner):
    """Other tokens at every budget, or none at small ones: what is reported is a budget that really
    keeps one.
    """
    tokens = encoding.tokens
    marks = [np.arange(n) % 50 == 49 for n in tokens.counts]
    found = first_hits(pruner, tokens, marks)[0].tokens
    assert found >= plain(pruner, tokens, marks[0])
    assert marks[0][pruner.select(tokens, [found, tokens.counts[1]]).kept[0]].any()


def test_related_tokens_have_their_middle_in_a_box(model, processor):
    """96 x 96 pixels under 6 x 6 patches of a thumbnail and 12 x 12 of its tiles."""
    boxes = ((0, 0, 16, 16), (90, 90, 96, 96))
    (found,) = measure(model, processor, sample((QUESTION, boxes))).questions
    assert (found.visual_tokens, found.related_tokens) == (180, 4 + 1 + 1)
    assert found.thumbnail == (0, 0.2)
    assert [len(values) for values in found.similarity] == [6, 174]
    words = {
        findings.COSINE,
        findings.COSINE + findings.CONTENT,
        findings.RELEVANCE,
        findings.RELEVANCE + findings.CONTENT,
    }
    assert found.auc.keys() == {
        *words,
        "saliency",
        *findings.RECEIVED,
        findings.MUTUAL,
        findings.DISTINCT,
        "LLM attention, layer 2",
        findings.CHANCE,
    }
    assert found.position.keys() == found.auc.keys() - {
        findings.COSINE,
        findings.COSINE + findings.CONTENT,
        *findings.RECEIVED,
    } | {findings.TRUTH}
    assert found.first_hit.keys() == {"adafv", "uniform"}


@pytest.mark.parametrize(
    ("thumbnail", "expected"), [(0, (0, 1 / 3)), (-1, (2 / 3, 1)), (None, (0, 0))]
)
def test_the_thumbnail_lies_where_the_model_reads_it(thumbnail, expected):
    """First or, as in InternVL, last: crop 0 wherever it comes. Not all models have one."""
    crop = join([raster(4, 4)] * 3, thumbnail).coordinates[:, 0]
    assert findings._thumbnail(crop.numpy()) == pytest.approx(expected)
    alone = join([raster(4, 4)], thumbnail).coordinates[:, 0]
    assert findings._thumbnail(alone.numpy()) == (0, 0)


SHADED = [
    ((0.0, 0.2), {}),
    ((0.8, 1.0), {"position": 0.8, "value": 1.0}),
    # as earlier versions wrote it
    ((0.0, 0.2), {"position": None}),
    (None, {"value": 0.0}),
]


@pytest.mark.parametrize(("shaded", "changes"), SHADED)
def test_the_figure_shades_the_thumbnail_where_it_lies(shaded, changes):
    common = {"suite": "all", "ci_low": None, "ci_high": None, "n": 3}
    position = {"panel": "position", "signal": findings.TOWER, "position": 0.5, "value": 1.0}
    auc = {"panel": "auc", "signal": findings.TOWER, "position": None, "value": 0.7}
    thumbnail = {"panel": "thumbnail", "signal": "", "position": 0.0, "value": 0.2, **changes}
    rows = [common | row for row in (auc, thumbnail, position)]
    axes = draw_auc(rows, "A caption.").axes[-1]
    spans = [patch.get_extents().transformed(axes.transData.inverted()) for patch in axes.patches]
    assert [(span.x0, span.x1) for span in spans] == [pytest.approx(shaded)] * bool(shaded)
    assert ("thumbnail" in {text.get_text() for text in axes.texts}) == bool(shaded)


def test_what_cannot_be_measured_is_counted(model, processor):
    """No box, a box that no patch shows, a box around everything."""
    asked = (
        (QUESTION, ()),
        ("how many ?", ((200, 200, 202, 202),)),
        ("is there a knight", ((0, 0, 96, 96),)),
    )
    findings = measure(
        model, processor, sample(*asked), sample((QUESTION, ((0, 0, 40, 40),)), name="q")
    )
    assert [f.image for f in findings.questions] == ["q"]
    assert findings.left_out["mine"] == {
        "no box": 1,
        "no token in the boxes": 1,
        "every token in the boxes": 1,
    }
    with pytest.raises(ValueError, match="no question of mine has a box"):
        measure(model, processor, sample(*asked))


def test_batches_change_nothing(model, processor):
    """Images of several shapes, several questions each, one by one and together."""
    samples = [
        sample(
            (QUESTION, ((0, 0, 20, 20),)),
            ("how many ?", ((10, 10, 30, 44),)),
            name="a",
            size=(48, 48),
        ),
        sample(("is there a knight", ((5, 5, 25, 50),)), name="bb", size=(30, 60)),
        sample(("red . left of the anchor ?", ((0, 0, 24, 12),)), name="ccc", size=(72, 24)),
    ]
    whole, one_by_one = (
        measure(model, processor, *samples, batch_size=n).questions for n in (16, 1)
    )
    for a, b in zip(whole, one_by_one, strict=True):
        assert (a.image, a.related_tokens, a.first_hit) == (b.image, b.related_tokens, b.first_hit)
        assert a.auc == pytest.approx(b.auc, abs=0.02)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"methods": ["none"]}, "leave it out"),
        ({"methods": ["adafw"]}, "did you mean 'adafv'"),
        ({"methods": []}, "methods is an empty list"),
        ({"sources": []}, "sources is an empty list"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_analysis_with_bad_options(options, words):
    """Before any work."""
    with pytest.raises(ValueError, match=words):
        measuring.Analysis(**{"sources": [source()], "methods": ["adafv"]} | options)


def test_methods_inside_the_language_model_are_refused(monkeypatch):
    """They have no set of kept tokens before it."""

    @dataclass(kw_only=True)
    class Inside(FasterVLM):
        name = "inside"

        def between_layers(self, model, encoding):
            raise AssertionError

    monkeypatch.setitem(__import__("adafv").METHODS, "inside", Inside)
    with pytest.raises(ValueError, match="'inside' chooses inside the language model"):
        measuring.Analysis(sources=[source()], methods=["inside"])


@pytest.mark.parametrize(
    ("name", "said"),
    [("resize", "shrinks images"), ("vidcom2", "prunes videos"), ("evs", "prunes videos")],
)
def test_methods_that_refuse_images_are_refused(name, said):
    """Where they keep nothing they have no first hit: a number would be that of all tokens."""
    with pytest.raises(ValueError, match=f"'{name}' {said}"):
        measuring.Analysis(sources=[source()], methods=[name])


def results(folder: Path, **changes) -> Path:
    """What `adafv eval` writes, of two suites."""
    rows = [
        {
            "method": m,
            "keep": k,
            "suite": s,
            "question_type": "all",
            "n": 50,
            "accuracy": a,
            "ci_low": a - 0.1,
            "ci_high": a + 0.1,
            "retention": None,
            "seconds": 1.0,
            "kept_tokens": 9.0,
            "visual_tokens": 36.0,
        }
        | changes
        for s, dense in (("scenes", 0.8), ("more", 0.5))
        for m, k, a in (
            ("none", 1, dense),
            ("blind", 0, dense / 2),
            ("adafv", 0.25, dense),
            ("adafv", 0.1, dense / 4),
        )
    ]
    path = folder / "results.json"
    path.write_text(json.dumps({"meta": {}, "rows": rows}))
    return path


def test_score_rows_are_shares_of_the_dense_model(tmp_path):
    """Per suite with their intervals, then the mean over suites."""
    rows = tables.score_rows(tables.read_results(results(tmp_path)))
    by_key = {(r["suite"], r["method"], r["reduction"]): r for r in rows}
    assert by_key["scenes", "adafv", 0.9]["score"] == 25
    assert by_key["more", "blind", 1.0]["score"] == 50
    assert by_key["scenes", "adafv", 0.75]["ci_low"] == pytest.approx(87.5)
    assert by_key[tables.MEAN, "adafv", 0.9]["score"] == 25
    assert by_key[tables.MEAN, "adafv", 0.9]["n"] == 100


def test_suites_without_a_method_in_common_have_no_mean(tmp_path):
    """Rather than a mean of the blind model alone, of which no figure can be drawn."""
    path = results(tmp_path)
    found = json.loads(path.read_text())
    for row in found["rows"]:
        if row["suite"] == "more" and row["method"] == "adafv":
            row["method"] = "random"
    path.write_text(json.dumps(found))
    rows = tables.score_rows(tables.read_results(path))
    assert {row["suite"] for row in rows} == {"scenes", "more"}
    assert draw_scores(rows, "").axes


@pytest.mark.parametrize(
    "text", ["", "{}", '{"rows": [1]}', '{"rows": [{"question_type": "all"}]}', "\xff", None]
)
def test_results_that_are_none(tmp_path, text):
    """Whatever else is passed as results.json."""
    path = tmp_path / "results.json"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"results.json .*adafv eval"):
        tables.read_results(path)


def test_results_without_a_pruned_model(tmp_path):
    """A dense run has no reduction to draw."""
    with pytest.raises(ValueError, match="no row of a pruned model"):
        tables.read_results(results(tmp_path, keep=1.0))


def boxes_file(folder: Path, *lines: object) -> Path:
    picture(40, 30).save(folder / "a.png")
    path = folder / "mine.jsonl"
    path.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines),
        encoding="utf-8",
    )
    return path


def entry(**changes) -> dict:
    return {"image": "a.png", "question": QUESTION, "boxes": [[1, 2.5, 30, 20]]} | changes


def test_boxes_of_a_user(tmp_path):
    """One sample for each image, in its order, with a limit of questions; read as own suites."""
    other = entry(image=str(tmp_path / "b.png"), boxes=[])
    Image.new("L", (9, 9)).save(tmp_path / "b.png")
    path = boxes_file(tmp_path, entry(), other, entry(question="how many ?", id="mine"))
    mine = from_boxes(path)
    assert (mine.name, mine.questions) == ("mine.jsonl", 3)
    first, second = mine.samples
    assert [q.text for q in first.questions] == [QUESTION, "how many ?"]
    assert first.image.size == (40, 30)
    assert first.questions[0].boxes == ((1, 2.5, 30, 20),)
    assert second.questions[0].boxes == ()
    assert from_boxes(path, 2).questions == 2


def test_own_suites_of_an_evaluation(tmp_path):
    """A file and a folder, under the name that results have, as many questions as are asked for."""
    path = boxes_file(tmp_path, entry(), entry(question="how many ?"))
    folder = tmp_path / "photos"
    folder.mkdir()
    (tmp_path / "a.png").rename(folder / "a.png")
    moved = path.rename(folder / "questions.jsonl")
    for suite in (folder, moved):
        mine = from_suite(str(suite), 1)
        assert (mine.name, mine.questions) == (suite.stem, 1)
        [sample] = mine.samples
        assert sample.questions[0].boxes == ((1, 2.5, 30, 20),)
    moved.write_text(moved.read_text().replace("boxes", "bocks"))
    with pytest.raises(ValueError, match="the key 'bocks' is unknown"):
        from_suite(str(folder), 1)


def test_boxes_that_are_wrong(tmp_path):
    """One sentence with the number of the line; a file without any box is of no use."""
    with pytest.raises(ValueError, match="box 1 is not four numbers") as error:
        from_boxes(boxes_file(tmp_path, entry(), entry(boxes=[1, 2, 3, 4])))
    assert str(error.value).startswith(f"line 2 of {tmp_path / 'mine.jsonl'}: ")
    with pytest.raises(ValueError, match=r"line 1 .* the key 'box' is unknown: did you mean"):
        from_boxes(boxes_file(tmp_path, entry(box=[1, 2, 3, 4])))
    with pytest.raises(ValueError, match="has boxes: write lines such as"):
        from_boxes(boxes_file(tmp_path, entry(boxes=[])))
    odd = boxes_file(tmp_path, entry()).rename(tmp_path / os.fsdecode(b"\xff.jsonl"))
    with pytest.raises(ValueError, match="a name that is not UTF-8: give it another"):
        from_boxes(odd)


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "is empty"), (b" \n\n", "is empty"), (b"\xff{}", "not UTF-8")]
)
def test_boxes_files_with_nothing_in_them(tmp_path, content, words):
    """Said at once, with an example of a line."""
    path = tmp_path / "mine.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as error:
        from_boxes(path)
    assert "\n" not in str(error.value)


def test_a_boxes_file_that_is_not_there(tmp_path):
    """And a folder in its place."""
    for path in (tmp_path / "no.jsonl", tmp_path):
        with pytest.raises(ValueError, match="cannot be read"):
            from_boxes(path)


def test_suites_that_are_unknown():
    """Name, split and limit."""
    for arguments, words in (
        (("scnes", 6), "scnes"),
        (("scenes", 0), "limit=0"),
        (("scenes", 6, 0, "tset"), "tset"),
    ):
        with pytest.raises(ValueError, match=words):
            from_suite(*arguments)


def call(capsys, *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(["analyze", *map(str, arguments)])
    return status, *capsys.readouterr()


def test_analyze_the_embedded_model(capsys, tmp_path):
    """From a shell: four images, four tables that say what the captions say, one JSON object."""
    out = tmp_path / "out"
    status, said, err = call(
        capsys, "--out", out, "--limit", 3, "--results", results(tmp_path), "--json"
    )
    assert status == 0
    assert "scenes-text: 100%" in err
    assert "Traceback" not in err
    whole = json.loads(said)
    assert whole == json.loads((out / "analysis.json").read_text())
    assert list(whole["figures"]) == ["fig1", *FIGURES]
    assert whole["meta"]["limit"] == 3
    assert "bootstrap" in whole["meta"]["interval"]
    for name, figure in whole["figures"].items():
        with (out / figure["csv"]).open() as file:
            assert len(list(csv.DictReader(file))) == len(figure["rows"]) > 0
        with Image.open(out / figure["png"]) as drawn:
            assert drawn.format == "PNG"
            assert drawn.width > 1000
        assert figure["caption"].startswith(f"Fig. {name[-1]}. ")
    assert sorted(p.suffix for p in out.iterdir()) == [".csv"] * 4 + [".json"] + [".png"] * 4
    aucs = [row for row in whole["figures"]["fig2"]["rows"] if row["panel"] == "auc"]
    assert {row["suite"] for row in aucs} == {"scenes", "scenes-small", "scenes-text"}
    for row in aucs:
        number = f"{row['value']:.2f}"
        if row["ci_low"] is not None:
            assert 0 <= row["ci_low"] <= row["value"] <= row["ci_high"] <= 1
            number += f" [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"
        assert f"{row['signal']} {number}" in whole["figures"]["fig2"]["caption"]
    for row in whole["figures"]["fig4"]["rows"]:
        assert 1 <= row["p10"] <= row["median"] <= row["p90"] <= row["visual_tokens"]
        assert f"{row['median']} / {row['p90']}" in whole["figures"]["fig4"]["caption"]


def test_analyze_overwrites_no_image_that_it_reads(capsys, tmp_path):
    path = boxes_file(tmp_path, entry())
    (tmp_path / "a.png").rename(tmp_path / "fig2.png")
    path.write_text(path.read_text().replace("a.png", "fig2.png"))
    status, said, err = call(capsys, "--out", tmp_path, "--boxes", path)
    assert (status, said) == (2, "")
    assert "fig2.png is read here, and would be overwritten" in err


def test_analyze_a_users_boxes(capsys, tmp_path):
    """Their images alone, on another model; without scores Fig.

    1 is left out and the way to it is said.
    """
    path = boxes_file(tmp_path, entry(), entry(question="how many ?", boxes=[]))
    options = (
        "--out",
        tmp_path / "out",
        "--boxes",
        path,
        "--methods",
        "adafv",
        "--model",
        save_tiny(tmp_path / "m"),
    )
    status, said, _ = call(capsys, *options)
    assert status == 0
    assert "Mine.jsonl (1 questions" in said
    assert "adafv eval" in said
    assert "--results" in said
    assert "1 questions left out, no box" in said
    assert not (tmp_path / "out" / "fig1.png").exists()
    assert (tmp_path / "out" / "fig2.png").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--suite", "scnes"], "scnes"),
        (["--suite", "easy-vqa", "--limit", "3"], "no question of easy-vqa has a box"),
        (["--limit", "0"], "limit=0"),
        (["--seed", "-1"], "seed=-1"),
        (["--methods", "adafv,none"], "'none'"),
        (["--methods", ","], "methods"),
        (["--boxes", "no.jsonl"], "no.jsonl"),
        (["--results", "no.json"], "no.json"),
        (["--split", "tset"], "split='tset'"),
    ],
)
def test_analyze_with_bad_options(capsys, tmp_path, options, words):
    """Exit 2, one line on stderr after any progress bar, no traceback."""
    status, out, err = call(capsys, "--out", tmp_path / "out", *options)
    assert status == 2
    assert out == ""
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("adafv: ")
    assert words in err.splitlines()[-1]
