"""While a pruner is attached a model is the caller's as before: its signatures, lengths, copies and
other heads.
"""

import gc
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from copy import copy, deepcopy
from inspect import signature, unwrap
from typing import Any
from weakref import ref

import pytest
import torch
from torch import nn
from transformers import (
    ColPaliConfig,
    ColPaliForRetrieval,
    DynamicCache,
    Gemma3ForSequenceClassification,
    GenerationConfig,
    LogitsProcessorList,
    MaxLengthCriteria,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteriaList,
)
from transformers.generation import utils as generation_utils
from zoo.families import ask, show, tiny

from adafv import AdaFV, method
from tests.core.attached.test_cached_prompt import generated, greedy

QUESTION = "what color is the anchor ?"
PRUNER = AdaFV(keep=0.5)


@pytest.fixture(params=["llava", "qwen2_vl", "janus"])
def name(request) -> str:
    return request.param


@pytest.fixture
def inputs(name) -> dict[str, Any]:
    return ask(name, (QUESTION, [show(80, 48)]))


@pytest.fixture
def model(name):
    return tiny(name).model


def test_signatures_are_the_models_own(model, inputs):
    """For code that asks which arguments there are; and the class, for code that asks for that."""
    own, names = (
        type(model),
        {part: signature(getattr(model, part)) for part in ("generate", "forward")},
    )
    before = dict(vars(model))
    with PRUNER.attached(model):
        assert {part: signature(getattr(model, part)) for part in names} == names
        assert isinstance(model, own)
        assert str(type(model)) == str(own)
    assert type(model) is own
    assert vars(model) == before


def test_arguments_go_by_place_as_by_name(name, model, inputs):
    """The third of `generate` too; Janus has an order of its own."""
    ids, rest = inputs["input_ids"], {key: x for key, x in inputs.items() if key != "input_ids"}
    more, seen = (
        {"max_new_tokens": 3, "do_sample": False},
        LogitsProcessorList([lambda ids, scores: scores]),
    )
    with PRUNER.attached(model):
        expected = model.generate(**inputs, **more)
        if name == "janus":
            mask = rest.pop("attention_mask")
            assert torch.equal(model.generate(ids, mask, seen, **rest, **more), expected)
        else:
            assert torch.equal(
                model.generate(ids, GenerationConfig(**more), seen, **rest), expected
            )
        assert torch.equal(
            model.generate(inputs=ids, **inputs | {"input_ids": None}, **more), expected
        )
        with pytest.raises(ValueError, match="not allowed"):
            model.generate(ids, **inputs, **more)


def test_text_alone_is_the_plain_model(name, model):
    """By place and by name, cached or not."""
    ids = torch.tensor([[5, 6, 7]])
    mask = torch.ones_like(ids)
    calls = (
        lambda: model.generate(ids, max_new_tokens=3, do_sample=False),
        lambda: model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=3, do_sample=False
        ),
        lambda: model(ids, attention_mask=mask).logits,
        lambda: model(input_ids=ids, past_key_values=DynamicCache()).logits,
    )
    for call in calls:
        with torch.no_grad():
            plain = call()
            with PRUNER.attached(model):
                assert torch.equal(call(), plain)


def test_nobody_is_warned_where_the_plain_model_warns_nobody(model, inputs, monkeypatch):
    """Lengths in the call, in a configuration, in the model's own."""
    said: list[str] = []
    for level in ("warning", "warning_once"):
        monkeypatch.setattr(generation_utils.logger, level, lambda text, *args: said.append(text))
    length = inputs["input_ids"].shape[1]
    configured = GenerationConfig(max_length=length + 3, do_sample=False)

    def run() -> list[str]:
        said.clear()
        model.generate(**inputs, max_length=length + 3, min_length=length + 1, do_sample=False)
        model.generate(**inputs, generation_config=configured)
        model.generate(**inputs, max_new_tokens=2, min_new_tokens=1, do_sample=False)
        return list(said)

    plain = run()
    with PRUNER.attached(model):
        assert run() == plain
    assert configured.max_length == length + 3


def test_lengths_count_the_callers_prompt(model, inputs):
    """Too small a `max_length` is an error before anything runs, `min_length` holds off the end of
    an answer.
    """
    length, ids = inputs["input_ids"].shape[1], inputs["input_ids"]
    with PRUNER.attached(model):
        first = int(generated(model, inputs)[0][0])
        options = greedy(model) | {
            "eos_token_id": first,
            "max_length": length + 4,
            "max_new_tokens": None,
        }
        assert model.generate(**inputs, **options).shape[1] == length + 1
        assert model.generate(**inputs, **options, min_length=length + 3).shape[1] >= length + 3
        stop = StoppingCriteriaList([MaxLengthCriteria(length + 2)])
        options = {"max_length": length + 9, "do_sample": False, "stopping_criteria": stop}
        assert model.generate(**inputs, **options).shape[1] == length + 2
        assert stop.max_length == length + 2
        with pytest.raises(
            ValueError, match=f"is {length}, but `max_length` is set to {length - 1}"
        ):
            model.generate(**inputs, max_length=length - 1)
        output = model.generate(
            **inputs, **greedy(model), return_dict_in_generate=True, output_scores=True
        )
    assert len(output.scores) == 4
    assert torch.equal(output.sequences[:, :length], ids)


def test_what_looks_at_ids_sees_the_callers(model, inputs):
    """Stopping criteria, logits processors, allowed tokens and streamers; beams too."""
    ids, seen = inputs["input_ids"], []

    class Stop:
        def __call__(self, input_ids, scores, **kwargs):
            seen.append(input_ids)
            return torch.zeros(len(input_ids), dtype=torch.bool)

    class Stream:
        put = staticmethod(
            lambda value: seen.append(value[None] if value.dim() == 1 and len(value) > 1 else None)
        )
        end = staticmethod(lambda: None)

    def process(input_ids, scores):
        seen.append(input_ids)
        return scores

    def allowed(row, input_ids):
        seen.append(input_ids[None])
        return list(range(model.config.get_text_config().vocab_size))

    options = greedy(model) | {
        "stopping_criteria": StoppingCriteriaList([Stop()]),
        "logits_processor": [process],
    }
    with PRUNER.attached(model):
        expected = generated(model, inputs)
        assert (
            generated(
                model, inputs | {}, **{k: v for k, v in options.items() if k not in greedy(model)}
            )
            == expected
        )
        model.generate(**inputs, **greedy(model), prefix_allowed_tokens_fn=allowed)
        model.generate(**inputs, **greedy(model), streamer=Stream())
        model.generate(**inputs, **options, num_beams=2)
    assert len(seen) > 16
    for one in seen:
        assert one is None or torch.equal(one[:, : ids.shape[1]], ids.expand(len(one), -1))


def test_a_processor_of_the_caller_replaces_the_models_own():
    """Of the same kind, as transformers has it: a penalty of 1 takes that of the configuration."""
    model, inputs = tiny("llava").model, ask("llava", (QUESTION, [show()]))
    mild = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.0)])
    with PRUNER.attached(model):
        plain = generated(model, inputs)
        assert generated(model, inputs, repetition_penalty=1e6) != plain
        assert generated(model, inputs, repetition_penalty=1e6, logits_processor=mild) == plain


def test_what_wrapped_a_forward_meanwhile_runs_plain_afterwards():
    """As accelerate's `prepare` does: the wrapper outlives the context, the pruning doesn't."""
    model, inputs = tiny("llava").model, ask("llava", (QUESTION, [show()]))
    before = model(**inputs).logits.shape[1]
    try:
        with PRUNER.attached(model):
            inside = model.forward
            model.forward = lambda **kwargs: inside(**kwargs)
            assert model(**inputs).logits.shape[1] < before
        assert model(**inputs).logits.shape[1] == before
    finally:
        del model.forward


def test_attaching_again_makes_no_new_class():
    """Compiled code is for a class: it is not compiled again for each request."""
    model, inputs = tiny("llava").model, ask("llava", (QUESTION, [show()]))
    classes = []
    for keep in (0.5, 0.25):
        with AdaFV(keep=keep).attached(model):
            classes.append(type(model))
            assert (
                model(**inputs).logits.shape[1]
                == AdaFV(keep=keep)(model, inputs)["input_ids"].shape[1]
            )
    assert classes[0] is classes[1] is not type(model)


def test_another_model_that_is_called_meanwhile_is_pruned_too():
    """By a logits processor, while the first one generates."""
    first, inputs = tiny("llava").model, ask("llava", (QUESTION, [show()]))
    second = deepcopy(first)
    widths = []

    def process(ids, scores):
        widths.append(second(**inputs).logits.shape[1])
        return scores

    with PRUNER.attached(first), PRUNER.attached(second):
        expected = second(**inputs).logits.shape[1]
        first.generate(**inputs, **greedy(first), logits_processor=[process])
    assert set(widths) == {expected}


@pytest.mark.parametrize("pruning", ["adafv", "fastv"])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_the_same_model_that_is_called_meanwhile_is_pruned_too(name, pruning):
    """By a logits processor that asks about an image; the answer stays what it is."""
    model, inputs = tiny(name).model, ask(name, (QUESTION, [show(80, 48)]))
    other = ask(name, ("is there a red " + QUESTION, [show(48, 48, 1)]))
    seen = []

    def process(ids, scores):
        seen.append(model(**other).logits)
        return scores

    with method(pruning, keep=0.7).attached(model):
        expected = generated(model, inputs)
        with torch.no_grad():
            logits = model(**other).logits
        assert generated(model, inputs, logits_processor=[process]) == expected
    assert logits.shape[1] < other["input_ids"].shape[1]
    for one in seen:
        assert torch.equal(one, logits)


@pytest.mark.parametrize("task", [None, "CAUSAL_LM"])
def test_adapters_take_ids_by_position(task):
    """Those of PEFT, whose forward names nothing; more than anyone names is one sentence."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type=task)
    model = peft.get_peft_model(deepcopy(tiny("llava").model), config).eval()
    inputs = ask("llava", (QUESTION, [show()]))
    ids, rest = inputs["input_ids"], {key: x for key, x in inputs.items() if key != "input_ids"}
    with PRUNER.attached(model), torch.no_grad():
        expected = model(**inputs).logits
        assert expected.shape[1] < ids.shape[1]
        assert torch.equal(model(ids, **rest).logits, expected)
        answer = model.generate(ids, **rest, **greedy(model))
        assert torch.equal(answer, model.generate(**inputs, **greedy(model)))
        with pytest.raises(ValueError, match="pass them by name"):
            model.generate(ids, *[None] * 40, **rest)

    # somebody's own function in the place of forward, whatever it is called
    plain = model.forward
    model.forward = lambda *args, **kwargs: plain(*args, **kwargs)
    with PRUNER.attached(model), torch.no_grad():
        assert torch.equal(model(ids, **rest).logits, expected)


def test_a_model_is_freed_though_a_pruner_was_attached():
    """The first of its class, too, of which the class that prunes was made."""
    from adafv.core.attached.context import _classes

    inputs = ask("llava", (QUESTION, [show()]))
    _classes.clear()
    model = deepcopy(tiny("llava").model)
    with PRUNER.attached(model), torch.no_grad():
        model(**inputs)
        assert unwrap(model.forward) is unwrap(tiny("llava").model.forward)
    gone = ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_what_a_pruner_returned_has_images():
    """With `strict`, too, both for a pruner that is attached and by hand."""
    model, inputs = tiny("llava").model, ask("llava", (QUESTION, [show()]))
    pruner, short = AdaFV(keep=0.5, strict=True), PRUNER(model, inputs)
    expected = generated(model, short)
    assert generated(model, pruner(model, short)) == expected
    with pruner.attached(model), torch.no_grad():
        assert generated(model, short) == expected
        assert model(**short).logits.shape[1] == short["input_ids"].shape[1]
        with pytest.raises(ValueError, match="no image"):
            model(short["input_ids"][:, :2])


def test_a_loss_in_evaluation_goes_back_through_the_tower():
    """Dropout off, gradients on: as in the plain model."""
    model, inputs = deepcopy(tiny("llava").model).eval(), ask("llava", (QUESTION, [show()]))
    with PRUNER.attached(model):
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
    lacking = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert not [name for name in lacking if "projector" in name]


def test_gradients_reach_whatever_may_learn():
    """In evaluation, of a loss of the caller's own; nothing is recorded of a frozen tower."""
    model, inputs = deepcopy(tiny("llava").model).eval(), ask("llava", (QUESTION, [show()]))
    parts = {"tower": model.model.vision_tower, "projector": model.model.multi_modal_projector}
    for learning in (["tower", "projector"], ["projector"], []):
        model.zero_grad()
        for name, part in parts.items():
            part.requires_grad_(name in learning)
        with PRUNER.attached(model):
            logits = model(**inputs).logits
        logits[:, -1].logsumexp(-1).sum().backward()
        for name, part in parts.items():
            reached = any(weight.grad is not None for weight in part.parameters())
            assert reached == (name in learning)
    features = PRUNER.encode(model, inputs).features
    assert not any(full.requires_grad for full in features)


def test_by_hand_nothing_is_recorded_of_the_tower():
    """What is made for `generate` holds no activations, though weights ask for gradients."""
    model, inputs = tiny("llava").model, ask("llava", (QUESTION, [show()]))
    [features] = PRUNER(model, inputs)["mm_encoder_outputs"]["image"].pooler_output
    assert not features.requires_grad
    labelled = PRUNER(model, inputs | {"labels": inputs["input_ids"]})
    [features] = labelled["mm_encoder_outputs"]["image"].pooler_output
    assert features.requires_grad


def test_images_that_are_encoded_already_are_refused():
    """They would all be read; what the pruner itself returned passes."""
    model, inputs = tiny("llava").model, ask("llava", (QUESTION, [show()]))
    image = model.model.get_image_features(inputs["pixel_values"], return_dict=True)
    text = {name: x for name, x in inputs.items() if name != "pixel_values"}
    pruned = PRUNER(model, inputs)
    with PRUNER.attached(model):
        with pytest.raises(ValueError, match="are encoded already"):
            model(**text, mm_encoder_outputs={"image": image})
        assert model(**pruned).logits.shape[1] == pruned["input_ids"].shape[1]


def test_allowed_tokens_of_sequences_that_are_sampled():
    """Each row is shown its own prompt, however many are drawn for it."""
    model, inputs = (
        tiny("llava").model,
        ask("llava", (QUESTION, [show()]), ("there a red " + QUESTION, [show()])),
    )
    rows = []

    def allowed(row, ids):
        rows.append((row, ids[: inputs["input_ids"].shape[1]]))
        return list(range(model.config.get_text_config().vocab_size))

    with PRUNER.attached(model):
        options = greedy(model) | {"do_sample": True, "num_return_sequences": 3}
        model.generate(**inputs, **options, prefix_allowed_tokens_fn=allowed)
    assert {row for row, _ in rows} == set(range(6))
    for row, prompt in rows:
        assert torch.equal(prompt, inputs["input_ids"][row // 3])


@pytest.mark.parametrize("assisted", ["lookup", "assistant"])
def test_assisted_generation(assisted):
    """Candidates from the prompt or from a second model don't change a greedy answer."""
    model, inputs = tiny("llava").model, ask("llava", (QUESTION, [show()]))
    options = (
        {"prompt_lookup_num_tokens": 2}
        if assisted == "lookup"
        else {"assistant_model": deepcopy(model)}
    )
    with PRUNER.attached(model):
        assert generated(model, inputs, **options) == generated(model, inputs)


@torch.no_grad()
@pytest.mark.parametrize("pruning", ["adafv", "fastv"])
def test_places_of_logits_are_the_callers(pruning):
    """How many of the last, places or a mask; those of dropped tokens are refused."""
    inputs = ask(
        "llava_next", (QUESTION, [show(80, 48)]), ("there a red " + QUESTION, [show(48, 48, 1)])
    )
    model, pruner = tiny("llava_next").model, method(pruning, keep=0.7)
    width = inputs["input_ids"].shape[1]
    with pruner.attached(model):
        logits = model(**inputs).logits

        def at(places):
            return model(**inputs, logits_to_keep=places).logits

        torch.testing.assert_close(at(4), logits[:, -4:])
        torch.testing.assert_close(at(torch.tensor([width - 5, -1])), logits[:, [-5, -1]])
        for dropped in (width - 2, torch.arange(width)):
            with pytest.raises(ValueError, match="logits_to_keep"):
                at(dropped)
        if pruning == "adafv":
            mask = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
            mask[:, -3:] = True
            torch.testing.assert_close(at(mask), logits[:, -3:].flatten(0, 1))
            torch.testing.assert_close(
                at(torch.tensor([[-5], [-2]])), logits[[0, 1], [-5, -2]][:, None]
            )
            before = int((inputs["input_ids"][1] == model.config.image_token_id).nonzero()[0]) - 1
            one = {name: x[1:] if len(x) == 2 else x for name, x in inputs.items()}
            whole = model(**one).logits
            real = one["attention_mask"][0].bool().nonzero()[0, 0]
            torch.testing.assert_close(
                model(**one, logits_to_keep=torch.tensor([before])).logits[0, 0],
                whole[
                    0,
                    before
                    - real
                    - (whole.shape[1] - int(pruner(model, one)["attention_mask"].sum())) * -1,
                ],
            )


@torch.no_grad()
@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "gemma3"])
def test_base_models(name):
    """No head, no `generate`: hidden states of the shorter prompt, by hand, attached and from a
    cache.
    """
    model, inputs = tiny(name).model, ask(name, (QUESTION, [show(80, 48)]))
    expected = model(**PRUNER(model, inputs), output_hidden_states=True).hidden_states[-1]
    base = model.model
    torch.testing.assert_close(base(**PRUNER(base, inputs)).last_hidden_state, expected)
    with PRUNER.attached(base):
        torch.testing.assert_close(base(**inputs).last_hidden_state, expected)
        torch.testing.assert_close(model(**inputs).logits[:, -1], model.lm_head(expected)[:, -1])
        with pytest.raises(ValueError, match="attach the pruner to the model whose generate"):
            model.generate(**inputs, max_new_tokens=1)
        with (
            pytest.raises(ValueError, match="attached to this model already"),
            PRUNER.attached(model),
        ):
            pass


class ValueHead(nn.Module):
    """As reinforcement learning has them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.pretrained_model, self.config = model, model.config
        self.v_head = nn.Linear(model.config.get_text_config().hidden_size, 1)

    def forward(self, **inputs: Any):
        return self.v_head(
            self.pretrained_model(**inputs, output_hidden_states=True).hidden_states[-1]
        )


@pytest.mark.parametrize("wrap", [ValueHead, nn.DataParallel])
def test_what_wraps_a_model_is_pruned_through_it(wrap):
    """One sentence says where to attach, and there it works."""
    model, inputs = tiny("llava").model, ask("llava", (QUESTION, [show()]))
    wrapper, inner = wrap(model), {ValueHead: ".pretrained_model", nn.DataParallel: ".module"}[wrap]
    with (
        pytest.raises(ValueError, match=f"{wrap.__name__} is not a model .*{inner}"),
        PRUNER.attached(wrapper),
    ):
        pass
    with PRUNER.attached(model), torch.no_grad():
        output = wrapper(**inputs)
        width = (output.logits if wrap is nn.DataParallel else output).shape[1]
        assert width < inputs["input_ids"].shape[1]
        with pytest.raises(ValueError, match="DataParallel"):
            model._replicate_for_data_parallel()(**inputs)


@torch.no_grad()
def test_classifiers_and_retrievers():
    """They read hidden states of the shorter prompt."""
    inputs = ask("gemma3", (QUESTION, [show()]))
    torch.manual_seed(0)
    classifier = Gemma3ForSequenceClassification(deepcopy(tiny("gemma3").model.config)).eval()
    classifier.config.get_text_config().pad_token_id = 1
    expected = classifier(**PRUNER(classifier, inputs)).logits
    with PRUNER.attached(classifier):
        torch.testing.assert_close(classifier(**inputs).logits, expected)
    assert not torch.allclose(classifier(**inputs).logits, expected)

    inputs = ask("paligemma", (QUESTION, [show()]))
    retriever = ColPaliForRetrieval(ColPaliConfig(vlm_config=tiny("paligemma").model.config)).eval()
    with PRUNER.attached(retriever):
        embeddings = retriever(**inputs).embeddings
    assert (
        embeddings.shape[1]
        == PRUNER(retriever.vlm, inputs)["input_ids"].shape[1]
        < inputs["input_ids"].shape[1]
    )


COPIES = {
    "deepcopy": deepcopy,
    "copy": copy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


@torch.no_grad()
@pytest.mark.parametrize("way", COPIES)
def test_a_copy_is_a_model_of_its_own(name, inputs, way):
    """It is not pruned, calls nothing of the original, and stays so once the context is left."""
    cached = tiny(name).model
    # one that has run may hold hooks that can't be pickled
    model = type(cached)(deepcopy(cached.config)).eval()
    with PRUNER.attached(model):
        twin = COPIES[way](model)
    plain = model(**inputs).logits
    assert type(twin) is type(model)
    assert vars(twin).keys() == vars(model).keys()
    with PRUNER.attached(model):
        assert torch.equal(twin(**inputs).logits, plain)
    assert generated(twin, inputs) == generated(model, inputs)
    assert torch.equal(deepcopy(twin)(**inputs).logits, plain)
    if way != "copy":
        for weights in twin.parameters():
            weights.zero_()
        assert (twin(**inputs).logits == 0).all()
        assert torch.equal(model(**inputs).logits, plain)


@torch.no_grad()
def test_a_state_dict_is_the_models(model, tmp_path):
    """And a checkpoint that is saved meanwhile loads as the model's own class."""
    before = model.state_dict()
    with PRUNER.attached(model):
        assert model.state_dict().keys() == before.keys()
        model.save_pretrained(tmp_path)
    assert type(model).from_pretrained(tmp_path).config.architectures == [type(model).__name__]


def test_one_pruner_at_a_time(model, inputs):
    """Nested contexts, parts and wholes; after an exception, and after one within one, all is as it
    was.
    """
    own, before = type(model), dict(vars(model))
    other = deepcopy(model)
    with pytest.raises(RuntimeError, match="lost"), PRUNER.attached(model):
        for part in (model, model.model):
            again = method("random", keep=0.5).attached(part)
            with pytest.raises(ValueError, match="AdaFV is attached to this model already"), again:
                pass
        with pytest.raises(KeyError), method("random", keep=0.5).attached(other):
            raise KeyError
        model.generate(**inputs, max_new_tokens=1)
        raise RuntimeError("lost")
    assert type(model) is own
    assert vars(model) == before
    assert type(other) is own
    with method("random", keep=0.5).attached(model):
        model.generate(**inputs, max_new_tokens=1)


def test_a_forward_of_the_instance_comes_back(model, inputs):
    """As `accelerate` puts one there."""
    model = copy(model)
    calls = []
    plain = model.forward

    def hooked(*args, **kwargs):
        calls.append(kwargs.get("pixel_values"))
        return plain(*args, **kwargs)

    model.forward = hooked
    with PRUNER.attached(model):
        assert model(**inputs).logits.shape[1] < inputs["input_ids"].shape[1]
    assert vars(model)["forward"] is hooked
    assert calls == [None]


@pytest.mark.parametrize("pruning", ["adafv", "fastv"])
def test_threads_generate_beside_each_other(pruning):
    """Prompts of different lengths, with images and without, as one after the other."""
    model, pruner = tiny("llava").model, method(pruning, keep=0.7)
    prompts = [ask("llava", (QUESTION, [show(seed=seed)])) for seed in range(2)]
    prompts += [
        ask("llava", ("there a " * 9 + QUESTION, [show(seed=2)])),
        {"input_ids": torch.tensor([[5, 6, 7]])},
    ]
    with pruner.attached(model):
        expected = [generated(model, inputs) for inputs in prompts]
        with ThreadPoolExecutor(4) as pool:
            found = [pool.submit(generated, model, inputs) for inputs in prompts * 4]
            assert [f.result() for f in found] == expected * 4


def test_a_generate_that_starts_late_warns():
    """Fetched inside the context, as by a thread, and run after it: nothing is pruned."""
    model, inputs = tiny("llava").model, ask("llava", (QUESTION, [show()]))
    plain = generated(model, inputs)
    with PRUNER.attached(model):
        late = model.generate
    with pytest.warns(UserWarning, match="nothing is pruned"):
        out = late(**inputs, **greedy(model))
    assert out[:, inputs["input_ids"].shape[1] :].tolist() == plain
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        late(inputs["input_ids"][:, :1], max_new_tokens=1)
        model.generate(**inputs, **greedy(model))
