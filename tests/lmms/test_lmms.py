"""lmms-eval on the embedded model: its scores are adafv's own answers, and its results say how they
were pruned.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest
from conftest import picture

pytest.importorskip("lmms_eval", reason="needs lmms-eval: make test-lmms")

from lmms_eval.api.instance import Instance
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager

import adafv
from adafv.core.config import DEFAULT_METHOD
from adafv.data.suites import load_suite
from adafv.integrations.lmms import Pruned
from adafv.models.ask import ask
from adafv.models.boilerplate import boilerplate
from adafv.models.load import load

TASKS = Path(__file__).parents[2] / "benchmarks" / "lmms"
LIMIT, GREEDY = 16, {"max_new_tokens": 8, "temperature": 0, "do_sample": False, "until": ["\n\n"]}


@pytest.fixture(scope="module")
def lm() -> Pruned:
    return Pruned(keep=0.05, batch_size=4)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[dict, list[dict]]:
    """The results file of the command line, and what it says of every sample."""
    out = tmp_path_factory.mktemp("lmms")
    command = [
        *(sys.executable, "-m", "lmms_eval", "--model", "adafv"),
        *("--model_args", "pretrained=embedded,keep=0.05", "--tasks", "adafv_scenes"),
        *("--include_path", str(TASKS), "--limit", str(LIMIT), "--batch_size", "4"),
        *("--output_path", str(out), "--log_samples", "--verbosity", "DEBUG"),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (results,), (samples,) = out.rglob("*_results.json"), out.rglob("*_samples_adafv_scenes.jsonl")
    lines = map(json.loads, samples.read_text().splitlines())
    return json.loads(results.read_text()), sorted(lines, key=lambda line: line["doc_id"])


@pytest.fixture(scope="module")
def own() -> list[tuple[str, adafv.models.ask.Answer]]:
    """The truth and adafv's own answer to each of the questions, asked one by one."""
    model, processor = load()
    pruner = adafv.method(DEFAULT_METHOD, keep=0.05)
    return [
        (q.answer, ask(model, processor, sample.image, q.text, pruner, max_new_tokens=16))
        for sample in load_suite("scenes", LIMIT)
        for q in sample.questions
    ]


def requests(*chats: list[dict], **options) -> list[Instance]:
    """Requests as lmms-eval makes them of tasks with messages; the document is the message."""
    return [
        Instance(
            request_type="generate_until",
            arguments=(
                "",
                lambda chat: [{"role": "user", "content": chat}],
                GREEDY | options,
                i,
                "task",
                "test",
            ),
            idx=0,
            metadata={"task": "task", "doc_id": i, "repeats": 1},
        )
        for i in range(len(chats))
    ]


def answers(lm: Pruned, *chats: list[dict], **options) -> list:
    lm.task_dict["task"] = {"test": chats}
    return lm.generate_until(requests(*chats, **options))


def chat(text: str, *pictures) -> list[dict]:
    return [
        *({"type": "image", "url": image} for image in pictures),
        {"type": "text", "text": text},
    ]


def test_the_answers_are_adafvs_own(run, own):
    """In batches and through lmms-eval's chat messages: the same text, the same tokens, the same
    accuracy.
    """
    results, samples = run
    assert len(samples) == len(own) == LIMIT
    for sample, (truth, answer) in zip(samples, own, strict=True):
        assert sample["filtered_resps"] == answer.answer
        assert sample["target"] == truth
        (counts,) = sample["token_counts"]
        assert (counts["visual_tokens"], counts["kept_tokens"]) == (
            answer.visual_tokens,
            answer.kept_tokens,
        )
    accuracy = fmean(answer.answer == truth for truth, answer in own)
    assert results["results"]["adafv_scenes"]["exact_match,none"] == pytest.approx(accuracy)


def test_the_results_say_how_it_was_pruned(run, own):
    """The results file alone tells the method, its budget and options, adafv's version and the mean
    of the tokens.
    """
    config, throughput = run[0]["config"], run[0]["throughput"]
    assert config["model_args"] == "pretrained=embedded,keep=0.05"
    name = adafv.method(DEFAULT_METHOD, keep=0.05).config
    assert f"adafv {adafv.__version__}, {name}" in config["model_backend"]
    assert throughput["avg_keep"] == 0.05
    assert throughput["avg_visual_tokens"] == pytest.approx(fmean(a.visual_tokens for _, a in own))
    assert throughput["avg_kept_tokens"] == pytest.approx(fmean(a.kept_tokens for _, a in own))


def test_what_a_template_says_is_skipped():
    """And the results name the option: without either they would be those of plain adafv."""
    lm = Pruned(method="adafv:skip=template", keep=0.05)
    assert frozenset(lm.pruner.skip) == boilerplate(lm.processor)
    assert "'skip': 'template'" in type(lm).__name__


def test_a_failing_request_raises(lm, monkeypatch):
    """An error in the model ends the evaluation, and says in which documents: no empty answer is
    scored.
    """
    monkeypatch.setattr(lm.model, "generate", lambda **_: 1 / 0)
    tasks = TaskManager(include_path=str(TASKS), include_defaults=False)
    with pytest.raises(ZeroDivisionError) as failure:
        simple_evaluate(model=lm, tasks=["adafv_easy_vqa"], task_manager=tasks, limit=2)
    assert "adafv_easy_vqa/test/0" in failure.value.__notes__[0]


@pytest.mark.parametrize("name", ["adafv", "visionzip", "fastv", "none"])
def test_any_pictures_in_one_batch(lm, monkeypatch, name):
    """Requests with one, several and no image give together what they give alone, where tokens
    are merged, and where they are dropped between the model's layers, too.
    """
    chats = [
        chat("what color is the anchor?", picture(60, 40, 1)),
        chat("how many things are there?"),
        chat("is there a red anchor?", picture(48, 48, 2), picture(90, 30, 3)),
    ]
    options = {} if name == "none" else {"keep": 0.5}
    monkeypatch.setattr(lm, "pruner", adafv.method(name, **options))
    together, alone = answers(lm, *chats), [answers(lm, c)[0] for c in chats]
    assert [a.text for a in together] == [a.text for a in alone]
    counts = [a.token_counts.to_dict() for a in together]
    assert counts == [a.token_counts.to_dict() for a in alone]
    assert [c["visual_tokens"] > 0 for c in counts] == [True, False, True]
    assert all(
        (c["kept_tokens"] < c["visual_tokens"]) == (c["visual_tokens"] > 0 and name != "none")
        for c in counts
    )


def test_an_answer_ends_where_the_task_says(lm):
    """At `until`, be it one text or several, and after `max_new_tokens`."""
    question = chat("what color is the anchor?", picture(60, 40, 1))
    whole = answers(lm, question)[0].text
    assert len(whole) > 2
    assert answers(lm, question, until=whole[2])[0].text == whole[: whole.index(whole[2])].strip()
    assert answers(lm, question, until=["§", whole[1:]])[0].text == whole[:1]
    assert answers(lm, question, max_new_tokens=1)[0].token_counts.output_tokens <= 1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"keep": 0.1, "batch_size": "auto"}, "batch_size"),
        ({"keep": 0.1, "kep": 2}, "kep=2 is no option of adafv"),
        ({"keep": 0.1, "method": "adafw"}, "adafw"),
        ({}, "keep"),
    ],
)
def test_unusable_arguments_are_refused(options, match):
    """Before any weight is read, with a sentence."""
    with pytest.raises(ValueError, match=match):
        Pruned(**options)


@pytest.mark.parametrize("options", [{"do_sample": True, "temperature": 0.7}, {"num_beams": 4}])
def test_only_greedy_answers(lm, options):
    """A task that samples is refused: its score would not be the method's."""
    with pytest.raises(ValueError, match="greedy"):
        answers(lm, chat("what color is the anchor?", picture()), **options)
    # do_sample=False wins
    answers(lm, chat("what color is the anchor?", picture()), temperature=0.2)


def test_videos_are_refused(lm):
    """A video is not dropped from its request."""
    with pytest.raises(ValueError, match="a video or a sound"):
        answers(
            lm, [{"type": "video", "url": "clip.mp4"}, {"type": "text", "text": "what happens?"}]
        )
