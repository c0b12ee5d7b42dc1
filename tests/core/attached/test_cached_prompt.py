"""Chats and own decoding loops on the cache of a pruned prompt, while a pruner is attached: in the
caller's numbers.
"""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig
from zoo.families import show, tiny

from adafv import AdaFV, Pruner, method
from adafv.core.pruned_inputs import PrunedOutputs
from adafv.core.pruner import Selection
from adafv.core.rebuild import rebuild
from adafv.core.visual_tokens import Encoding

FAMILIES = ("llava", "llava_next", "internvl", "qwen2_vl", "qwen2_5_vl", "idefics3", "gemma3")
BETWEEN = ("fastv", "sparsevlm", "pdrop")
NEW = 4
FIRST = "USER : <IMG> what color is the anchor ? ASSISTANT :"
SHORTER = "USER : <IMG> what color ? ASSISTANT :"
NEXT = "USER : is there a red knight left of the anchor ? ASSISTANT :"
ANOTHER = "USER : <IMG> is there a red knight left of the anchor ? ASSISTANT :"


def prepared(name: str, texts: list[str], images: list[list[Any]]) -> dict[str, Any]:
    found = tiny(name)
    texts = [text.replace("<IMG>", found.marker) for text in texts]
    inputs = dict(found.processor(text=texts, images=images, return_tensors="pt", padding=True))
    inputs.pop("labels", None)
    return inputs


def text_of(name: str, text: str, rows: int) -> Tensor:
    ids = tiny(name).processor.tokenizer(text, return_tensors="pt", add_special_tokens=False)[
        "input_ids"
    ]
    return ids.expand(rows, -1)


def along(inputs: dict[str, Any]) -> list[str]:
    """Names of the tensors that tell something of each token."""
    return [
        name
        for name, x in inputs.items()
        if "type" in name and x.shape == inputs["input_ids"].shape
    ]


def pixels(inputs: dict[str, Any]) -> dict[str, Any]:
    return {
        name: x
        for name, x in inputs.items()
        if name not in ("input_ids", "attention_mask", *along(inputs))
    }


def generated(model, inputs: dict[str, Any], **options: Any) -> list[list[int]]:
    out = model.generate(**inputs, **greedy(model), **options)
    return out[:, inputs["input_ids"].shape[1] :].tolist()


def greedy(model) -> dict[str, Any]:
    config = model.config
    named = (getattr(config, f"{kind}_token_id", None) for kind in ("image", "video"))
    vocabulary = config.get_text_config().vocab_size
    return {
        "max_new_tokens": NEW,
        "do_sample": False,
        "suppress_tokens": [t for t in named if t and t < vocabulary],
    }


@torch.no_grad()
def looped(model, inputs: dict[str, Any], positions: bool = False) -> list[list[int]]:
    """Decode by hand: the mask grows by one, and perhaps `position_ids` and `cache_position` of the
    whole prompt.
    """
    mask, told, out = inputs["attention_mask"], {}, []
    past = mask.shape[1] - inputs["input_ids"].shape[1]
    if positions:
        told["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, past:]
        told["cache_position"] = torch.arange(past, mask.shape[1])
    output = model(**inputs, **told, use_cache=True)
    for _ in range(NEW):
        logits = output.logits[:, -1:].clone()
        logits[..., greedy(model)["suppress_tokens"]] = -torch.inf
        out.append(logits.argmax(-1))
        mask = torch.cat([mask, torch.ones_like(out[-1])], dim=1)
        if positions:
            told = {
                "position_ids": mask.cumsum(-1)[:, -1:] - 1,
                "cache_position": torch.tensor([mask.shape[1] - 1]),
            }
        output = model(out[-1], attention_mask=mask, past_key_values=output.past_key_values, **told)
    return torch.cat(out, dim=1).tolist()


class Chat:
    """A first turn that was answered while a pruner was attached, and its cache."""

    def __init__(
        self, pruner: Pruner, name: str, texts: list[str], images: list[list[Any]]
    ) -> None:
        self.pruner, self.name, self.model = pruner, name, tiny(name).model
        self.inputs, self.images = prepared(name, texts, images), images
        self.texts = texts
        self.cache = DynamicCache(config=self.model.config.get_text_config(decoder=True))
        with pruner.attached(self.model):
            self.ids = self.model.generate(
                **self.inputs, **greedy(self.model), past_key_values=self.cache
            )
        self.chosen = self._selection(self.inputs)[1]
        self.read = self.ids.shape[1] - 1  # the last token of an answer is not in the cache yet

    def _selection(self, inputs: dict[str, Any]) -> tuple[Encoding, Selection]:
        encoding = self.pruner.encode(self.model, inputs)
        budget = [self.pruner.budget(n) for n in encoding.tokens.counts]
        return encoding, self.pruner.select(encoding.tokens, budget)

    def then(
        self, turn: dict[str, Any], images: dict[str, Any] | None = None, whole: bool = True
    ) -> dict[str, Any]:
        """Inputs of the next turn: the chat so far, or what is new in it alone."""
        answer = torch.ones(len(self.ids), NEW, dtype=torch.long)
        out = {"input_ids": torch.cat([self.ids, turn["input_ids"]], dim=1)}
        out["attention_mask"] = torch.cat(
            [self.inputs["attention_mask"], answer, turn["attention_mask"]], dim=1
        )
        for name in along(turn) if images else ():
            out[name] = torch.cat([self.inputs[name], answer * 0, turn[name]], dim=1)
        if not whole:
            out |= {
                name: out[name][:, self.read :]
                for name in ("input_ids", *along(turn))
                if name in out
            }
        return out | (images or {}) | {"past_key_values": deepcopy(self.cache)}

    def anew(self, turn: dict[str, Any], images: dict[str, Any], new: int) -> list[list[int]]:
        """The answer to the whole chat, read without a cache; the first turn's images keep what
        they kept.
        """
        chat = self.then(turn, images)
        for name in along(self.inputs):
            rest = turn[name] if name in turn else torch.zeros_like(turn["input_ids"])
            chat[name] = torch.cat([self.inputs[name], self.ids[:, -NEW:] * 0, rest], dim=1)
        del chat["past_key_values"]
        encoding, selection = self._selection(chat)
        kept, features = list(selection.kept), selection.features and list(selection.features)
        for row in range(len(self.ids)):
            kept[row * (1 + new)] = self.chosen.kept[row]
            if features:
                features[row * (1 + new)] = self.chosen.features[row]
        short = rebuild(self.model, chat, encoding, kept, features, positions=self.pruner.positions)
        return generated(self.model, short)


def only_text(chat: Chat) -> dict[str, Any]:
    ids = text_of(chat.name, NEXT, len(chat.ids))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def batch(pruner: Pruner, name: str) -> Chat:
    """Two chats of different lengths, that lose different numbers of tokens where images have
    their own sizes.
    """
    return Chat(pruner, name, [FIRST, SHORTER], [[show(80, 48)], [show(48, 48, 3)]])


@pytest.mark.parametrize("pruning", ["adafv", "visionzip"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_next_turn_is_that_of_the_chat_read_anew(name, pruning):
    """From the cache, by `generate` and by hand, with all ids or the new ones, the first turn's
    pixels or none.
    """
    chat = batch(method(pruning, keep=0.5), name)
    turn = only_text(chat)
    expected = chat.anew(turn, pixels(chat.inputs), new=0)
    with chat.pruner.attached(chat.model):
        assert generated(chat.model, chat.then(turn)) == expected
        assert generated(chat.model, chat.then(turn, pixels(chat.inputs))) == expected
        assert generated(chat.model, chat.then(turn, whole=False)) == expected
        assert looped(chat.model, chat.then(turn, whole=False)) == expected
        assert looped(chat.model, chat.then(turn)) == expected


@pytest.mark.parametrize("told", ["call", "configuration"])
@pytest.mark.parametrize("pruning", ["adafv", "fastv"])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_padding_is_told_by_the_id_of_the_call(name, pruning, told):
    """Without a mask it is the one that `generate` infers from its own arguments, turn by turn."""
    pruner, model = method(pruning, keep=0.7), deepcopy(tiny(name).model)
    pad = tiny(name).processor.tokenizer.pad_token_id
    model.generation_config.pad_token_id = None
    given = prepared(name, [FIRST, SHORTER], [[show(80, 48)], [show(80, 48, 3)]])
    assert (given["input_ids"] == pad).any()
    bare = {key: x for key, x in given.items() if key != "attention_mask"}
    options: dict[str, Any] = {"pad_token_id": pad, "eos_token_id": None}
    if told == "configuration":
        options = {"generation_config": GenerationConfig(**options)}
    options |= greedy(model) | {"return_dict_in_generate": True}

    def chat(inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        first = model.generate(**inputs, **options)
        ids = torch.cat([first.sequences, text_of(name, NEXT, 2)], dim=1)
        turn = {"input_ids": ids, "past_key_values": first.past_key_values}
        if "attention_mask" in inputs:
            turn["attention_mask"] = ids.ne(pad).long()
        return first.sequences, model.generate(**turn, **options).sequences

    with pruner.attached(model):
        for with_mask, without in zip(chat(given), chat(bare), strict=True):
            assert torch.equal(with_mask, without)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_an_image_of_a_later_turn_beside_a_row_without_one(name):
    """What pads the other row is no placeholder: each row is what it is alone."""
    model, pruner = tiny(name).model, method("uniform", tokens=12)
    images = [[show(48, 48)], [show(48, 48, 1)]]
    first = prepared(name, [FIRST, FIRST], images)
    second = prepared(name, [ANOTHER, NEXT], [[show(48, 48, 2)], []])
    columns = ("input_ids", "attention_mask", *along(first))

    def answers(rows: list[int]) -> list[list[int]]:
        own = {key: x[rows] for key, x in first.items() if key in columns}
        own |= pixels(prepared(name, [FIRST] * len(rows), [images[row] for row in rows]))
        with pruner.attached(model):
            out = model.generate(**own, **greedy(model), return_dict_in_generate=True)
            answer = out.sequences[:, own["input_ids"].shape[1] :]
            turn = pixels(second) if 0 in rows else {}
            for key in columns:
                between = answer if key == "input_ids" else torch.full_like(answer, 0)
                between = torch.ones_like(answer) if key == "attention_mask" else between
                turn[key] = torch.cat([own[key], between, second[key][rows]], dim=1)
            return generated(model, turn, past_key_values=out.past_key_values)

    assert answers([0, 1]) == [*answers([0]), *answers([1])]


@pytest.mark.slow
@pytest.mark.parametrize("pruning", ["adafv", "tome"])
@pytest.mark.parametrize("name", FAMILIES)
def test_an_image_of_a_later_turn_is_pruned(name, pruning):
    """Its pixels come alone or after those of the first turn; rows lose different numbers of
    tokens.
    """
    chat = batch(method(pruning, keep=0.5), name)
    images = [[show(48, 80, 1)], [show(80, 48, 2)]]
    texts = [ANOTHER.replace("is there", "is there and is there"), ANOTHER]
    turn = prepared(name, texts, images)
    both = [a + b for a, b in zip(chat.images, images, strict=True)]
    everything = pixels(
        prepared(name, [a + " " + b for a, b in zip(chat.texts, texts, strict=True)], both)
    )
    expected = chat.anew(turn, everything, new=1)
    with chat.pruner.attached(chat.model):
        assert generated(chat.model, chat.then(turn, pixels(turn))) == expected
        assert generated(chat.model, chat.then(turn, everything)) == expected
        assert looped(chat.model, chat.then(turn, pixels(turn), whole=False)) == expected


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_chats_go_on_for_many_turns(name):
    """Each turn from the cache of the one before, with original positions; two chats take turns."""
    pruner = AdaFV(keep=0.5, positions="original")
    model = tiny(name).model
    chats = [Chat(pruner, name, [FIRST], [[show(80, 48, seed)]]) for seed in (0, 1)]
    for _ in range(2):
        for chat in chats:
            turn = only_text(chat)
            expected = chat.anew(turn, pixels(chat.inputs), new=0)
            with pruner.attached(model):
                inputs = chat.then(turn) | {"past_key_values": chat.cache}
                assert generated(model, inputs) == expected
            answer = torch.tensor(expected)
            grown = torch.cat([chat.ids, turn["input_ids"]], dim=1)
            for extended in along(chat.inputs):
                more = torch.zeros_like(grown[:, chat.inputs["input_ids"].shape[1] :])
                chat.inputs[extended] = torch.cat([chat.inputs[extended], more], dim=1)
            chat.inputs |= {"input_ids": grown, "attention_mask": torch.ones_like(grown)}
            chat.ids = torch.cat([grown, answer], dim=1)


@pytest.mark.parametrize("pruning", ["adafv", *BETWEEN])
@pytest.mark.parametrize("name", ["llava", "llava_next", "internvl", "idefics3"])
def test_own_loops_are_generate(name, pruning):
    """Over a batch that pads, with the caller's position ids or the model's, for methods between
    layers too.
    """
    model, pruner = tiny(name).model, method(pruning, keep=0.7)
    inputs = prepared(name, [FIRST, ANOTHER], [[show(80, 48)], [show(48, 48, 1)]])
    with pruner.attached(model):
        expected = generated(model, inputs)
        assert looped(model, inputs) == looped(model, inputs, positions=True) == expected


@pytest.mark.parametrize("pruning", ["adafv", "fastv"])
@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "glm4v"])
def test_own_loops_of_models_with_m_rope(name, pruning):
    """With position ids as the caller numbers the whole prompt, and without."""
    model, pruner = tiny(name).model, method(pruning, keep=0.7)
    inputs = prepared(name, [FIRST, ANOTHER], [[show(80, 48)], [show(48, 80, 1)]])
    with pruner.attached(model), torch.no_grad():
        expected = generated(model, inputs)
        assert looped(model, inputs) == expected
        positions = model._prepare_position_ids_for_generation(inputs["input_ids"], dict(inputs))[
            -3:
        ]
        output, out, mask = model(**inputs, position_ids=positions), [], inputs["attention_mask"]
        for step in range(NEW):
            logits = output.logits[:, -1:].clone()
            logits[..., greedy(model)["suppress_tokens"]] = -torch.inf
            out.append(logits.argmax(-1))
            mask = torch.cat([mask, torch.ones_like(out[-1])], dim=1)
            output = model(
                out[-1],
                attention_mask=mask,
                position_ids=positions[..., -1:] + 1 + step,
                past_key_values=output.past_key_values,
            )
    assert torch.cat(out, dim=1).tolist() == expected


@pytest.mark.parametrize("pruning", BETWEEN)
@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_the_next_turn_of_methods_between_layers(name, pruning):
    """Every layer goes on from what it holds: as a pass over the whole chat that decides as the
    first turn did.
    """
    chat = batch(method(pruning, keep=0.7), name)
    turn, model = only_text(chat), chat.model
    whole = chat.then(turn) | pixels(chat.inputs)
    for extended in along(chat.inputs):
        more = torch.zeros(
            len(chat.ids), whole["input_ids"].shape[1] - chat.inputs[extended].shape[1]
        ).long()
        whole[extended] = torch.cat([chat.inputs[extended], more], dim=1)
    del whole["past_key_values"]
    first = chat.pruner.encode(model, chat.inputs)
    with torch.no_grad(), chat.pruner.between_layers(model, first):
        short = chat.pruner.prune(model, whole, chat.pruner.encode(model, whole))
        # it begins with the first turn, and passes for it
        short["mm_encoder_outputs"] = PrunedOutputs(short["mm_encoder_outputs"], first.number)
        expected = generated(model, short, use_cache=False)
    with chat.pruner.attached(model):
        assert generated(model, chat.then(turn)) == expected
        assert looped(model, chat.then(turn, whole=False)) == expected
        more = prepared(name, [ANOTHER, ANOTHER], [[show(48, 80, 1)], [show(80, 48, 2)]])
        with pytest.raises(ValueError, match="image of a later turn"):
            generated(model, chat.then(more, pixels(more)))


def test_a_chat_is_what_the_plain_model_makes_of_it_where_all_is_kept():
    """keep=1.0 is the identity of later turns, too."""
    chat = batch(AdaFV(keep=1.0), "llava")
    turn, model = only_text(chat), chat.model
    cache = DynamicCache()
    model.generate(**chat.inputs, **greedy(model), past_key_values=cache)
    with torch.no_grad():
        inputs = chat.then(turn, whole=False)
        plain = model(**inputs | {"past_key_values": cache}).logits
        with chat.pruner.attached(model):
            assert torch.equal(model(**inputs).logits, plain)


def test_text_that_was_cached_before_goes_on_with_an_image():
    """A system prompt that the plain model has read."""
    model, pruner = tiny("llava").model, AdaFV(keep=0.5)
    system, turn = text_of("llava", NEXT, 1), prepared("llava", [FIRST], [[show()]])
    ids = torch.cat([system, turn["input_ids"]], dim=1)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pixels(turn)}
    cache = DynamicCache()
    with torch.no_grad():
        model(system, past_key_values=cache)
    with pruner.attached(model):
        expected = generated(model, inputs)
        assert generated(model, inputs | {"past_key_values": deepcopy(cache)}) == expected
        new = inputs | {"input_ids": turn["input_ids"], "past_key_values": cache}
        assert looped(model, new) == expected


@torch.no_grad()
@pytest.mark.parametrize("question", ["turn", "chat"])
@pytest.mark.parametrize("way", ["forward", "loop", "generate"])
def test_text_that_was_read_while_attached_asks_along(way, question, monkeypatch):
    """The cache remembers it: the new ids alone keep what the full chat keeps."""
    model = tiny("llava").model
    system = text_of("llava", "is there a red knight left of the anchor ? how many red", 1)
    turn = prepared("llava", ["<IMG> what color ?"], [[show(80, 48)]])
    for pruner in (AdaFV(keep=0.3, question=question), method("random", keep=0.3)):
        kept: list[list[int]] = []
        choose = type(pruner).choose

        def noted(self, encoding, choose=choose, kept=kept):
            selection = choose(self, encoding)
            kept.append(selection.kept[0].tolist())
            return selection

        monkeypatch.setattr(type(pruner), "choose", noted)
        for whole in (True, False):
            cache, read = DynamicCache(), system
            with pruner.attached(model):
                if way == "forward":
                    model(system, past_key_values=cache)
                elif way == "loop":
                    for ids in (system[:, :5], system[:, 5:]):
                        model(ids, past_key_values=cache)
                else:
                    read = model.generate(system, past_key_values=cache, **greedy(model))[:, :-1]
                ids = torch.cat([read, turn["input_ids"]], dim=1)
                inputs = pixels(turn) | {"attention_mask": torch.ones_like(ids)}
                inputs["input_ids"] = ids if whole else turn["input_ids"]
                model.generate(**inputs, **greedy(model), past_key_values=cache)
        assert kept[0] == kept[1]


@torch.no_grad()
def test_text_that_nobody_knows_asks_nothing(monkeypatch):
    """Read by the plain model, of which the caller passes only what is new."""
    model, pruner = tiny("llava").model, AdaFV(keep=0.3)
    system = text_of("llava", "is there a red knight ? how many red", 1)
    turn = prepared("llava", ["<IMG> what color ?"], [[show(80, 48)]])
    asked: list[list[int]] = []
    choose = type(pruner).choose

    def noted(self, encoding):
        [columns] = encoding.asked
        asked.append(encoding.prompt.ids[0, columns].tolist())
        return choose(self, encoding)

    monkeypatch.setattr(type(pruner), "choose", noted)
    cache = DynamicCache()
    model(system, past_key_values=cache)
    mask = torch.ones(1, system.shape[1] + turn["input_ids"].shape[1], dtype=torch.long)
    with pruner.attached(model):
        model(**turn | {"attention_mask": mask, "past_key_values": cache})
        model(**turn)
    assert asked[0] == asked[1]


@pytest.mark.parametrize("rows", [1, 3])
def test_several_answers_go_on(rows):
    """Sampled answers of one prompt are a batch of their own."""
    chat = Chat(AdaFV(keep=0.5), "llava", [FIRST], [[show(80, 48)]])
    model, cache = chat.model, DynamicCache()
    with chat.pruner.attached(model):
        options = greedy(model) | {"do_sample": rows > 1, "num_return_sequences": rows}
        ids = model.generate(**chat.inputs, **options, past_key_values=cache)
        full = torch.cat([ids, text_of("llava", NEXT, rows)], dim=1)
        answers = generated(
            model,
            {"input_ids": full, "attention_mask": torch.ones_like(full)},
            past_key_values=cache,
        )
        for row, expected in enumerate(answers):
            chat.ids = ids[row : row + 1]
            assert chat.anew(only_text(chat), pixels(chat.inputs), new=0) == [expected]


def test_what_cannot_go_on_is_refused_before_anything_runs():
    """Caches that were filled, cropped or reordered elsewhere, other ids, another batch, a mask
    that fits nothing.
    """
    chat = batch(AdaFV(keep=0.5), "llava")
    model, turn = chat.model, only_text(chat)

    def refused(inputs: dict[str, Any], match: str) -> None:
        length = inputs["past_key_values"].get_seq_length()
        for call in (lambda: generated(model, inputs), lambda: looped(model, inputs)):
            with pytest.raises(ValueError, match=match):
                call()
        assert inputs["past_key_values"].get_seq_length() == length

    plain, beams = DynamicCache(), DynamicCache()
    model.generate(**chat.inputs, **greedy(model), past_key_values=plain)
    with chat.pruner.attached(model):
        model.generate(**chat.inputs, **greedy(model), num_beams=2, past_key_values=beams)
        with pytest.raises(ValueError, match="images that this pruner has not read"):
            generated(model, chat.then(turn) | {"past_key_values": plain})
        refused(chat.then(turn) | {"past_key_values": beams}, "beams")
        for edit in (
            lambda cache: cache.crop(-2),
            lambda cache: cache.reorder_cache(torch.tensor([1, 0])),
            lambda cache: cache.batch_select_indices(torch.tensor([0])),
        ):
            edited = chat.then(turn)
            edit(edited["past_key_values"])
            refused(edited, "not as the pruned prompt left it")
        other = chat.then(turn)
        other["input_ids"][1, 3] = 9
        refused(other, "does not go on from what the cache holds")
        one = {
            name: x[:1] if name != "past_key_values" else x for name, x in chat.then(turn).items()
        }
        refused(one, "holds 2 prompts, 1 are passed")
        narrow = chat.then(turn, whole=False)
        narrow["attention_mask"] = narrow["attention_mask"][:, 3:]
        refused(narrow, "attention_mask is")
