"""The parts of the vLLM plugin that need no vLLM: what a request may ask, what makes images
equal, what stays.
"""

import copy
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from zoo.families import ask, show, tiny

from adafv import METHODS, method
from adafv.core.config import PruneConfig
from adafv.families import FAMILIES
from adafv.families.crop_layout import join, raster
from adafv.integrations.vllm import mrope
from adafv.integrations.vllm import select as selecting
from adafv.integrations.vllm.encoder_cache import Encoded, Encodings
from adafv.integrations.vllm.meta_model import MetaModel
from adafv.integrations.vllm.options import (
    VLLMOptions,
    check_restricted,
    settings,
)
from adafv.integrations.vllm.prune_spec import PruneSpec
from adafv.integrations.vllm.select import select
from adafv.integrations.vllm.structure import between, with_structure

SERVED = ("llava", "llava_next", "llava_onevision", "qwen2_5_vl")
METHODS_SERVED = (
    *(
        "adafv",
        "adafv+",
        "fastervlm",
        "t2i",
        "divprune",
        "cdpruner",
        "dart",
        "scope",
        "sfpruner",
        "coverpruner",
        "mmr",
        "random",
        "uniform",
        "pool",
    ),
)
QUESTION, OTHER = "what color is the anchor ?", "how many red . left of the knight ?"


class Config:
    """What `settings` reads of vLLM's configuration."""

    def __init__(
        self, given: dict | None, block: dict | None = None, model: str = "owner/name"
    ) -> None:
        self.model = model
        self.hf_config = type("Hf", (), {"adafv": block} if block else {})()
        self.mm_processor_kwargs = given

    def get_multimodal_config(self) -> "Config":
        return self


@pytest.mark.parametrize(
    ("request_", "server", "expected"),
    [
        ({}, {}, None),
        ({"adafv_keep": 0.25}, {}, VLLMOptions(PruneConfig(keep=0.25))),
        (
            {},
            {"adafv_keep": 0.1, "adafv_method": "adafv+"},
            VLLMOptions(PruneConfig("adafv+", 0.1)),
        ),
        (
            {"adafv_tokens": 9},
            {"adafv_keep": 0.1, "adafv_pin": "first"},
            VLLMOptions(PruneConfig(tokens=9), "first"),
        ),
        ({"adafv_method": "t2i"}, {"adafv_keep": 0.1}, VLLMOptions(PruneConfig("t2i", 0.1))),
        ({"adafv_method": "none"}, {}, VLLMOptions(PruneConfig("none", 1.0))),
        (
            {"adafv_method": "adafv:top=3:skip=template", "adafv_keep": 1},
            {},
            VLLMOptions(PruneConfig("adafv", 1, options={"top": 3, "skip": "template"})),
        ),
        (
            {"adafv_method": "t2i", "adafv_pin": "none"},
            {"adafv_method": "adafv:reserve=0.5:keep=10%"},
            VLLMOptions(PruneConfig("t2i", 0.1), "none"),
        ),
    ],
)
def test_a_request_goes_before_the_server(request_, server, expected):
    """A method takes its options along, a budget the other's place."""
    options = VLLMOptions.of_request(request_).request(VLLMOptions.of_server(server))
    assert options == expected
    if options is not None:
        assert VLLMOptions.of_request(options.to_dict()) == options


def test_none_keeps_everything_whatever_the_server_does():
    server = VLLMOptions.of_server({"adafv_keep": 0.1, "adafv_method": "adafv+"})
    options = VLLMOptions.of_request({"adafv_method": "none"}).request(server)
    assert options.config == PruneConfig("none", 1.0)
    with pytest.raises(ValueError, match="keeps every token"):
        VLLMOptions.of_request({"adafv_method": "none", "adafv_keep": 0.2}).request(server)


def test_requests_may_name_methods_of_linear_cost():
    """Others hold up whoever waits, so the server says which; its own is always allowed."""
    for name in ("sfpruner", "divprune"):
        asked = {"adafv_method": name, "adafv_keep": 0.1}
        with pytest.raises(ValueError, match=f"{name!r} is not allowed on this server"):
            VLLMOptions.of_request(asked).request(VLLMOptions())
    for server in ({"adafv_methods": "adafv, divprune"}, {"adafv_method": "divprune"}):
        options = VLLMOptions.of_request(asked).request(VLLMOptions.of_server(server))
        assert options.config.method == "divprune"
    with pytest.raises(ValueError, match="pass one of scope, or"):
        VLLMOptions.of_request({"adafv_method": "t2i", "adafv_keep": 0.1}).request(
            VLLMOptions.of_server({"adafv_methods": "scope"})
        )
    with pytest.raises(ValueError, match="no option of a request"):
        VLLMOptions.of_request({"adafv_methods": "divprune"})


def test_the_methods_that_any_request_may_name():
    """No other becomes one of them by lacking a flag; the page names the same."""
    allowed = set()
    for name in METHODS:
        asked = {"adafv_method": name, "adafv_keep": 1 if name == "none" else 0.1}
        with suppress(ValueError):
            VLLMOptions.of_request(asked).request(VLLMOptions())
            allowed.add(name)
    linear = {"adafv", "adafv+", "fastervlm", "t2i", "dart", "random", "uniform", "pool", "none"}
    assert allowed == linear
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    [row] = [line for line in page.splitlines() if line.startswith("| `adafv_method`")]
    assert {name for name in METHODS if f"`{name}`" in row} == linear


def test_on_some_servers_methods_have_no_options_of_requests():
    """Whoever asks names a method alone, or the server's own as it is."""
    with pytest.raises(ValueError, match="name the method alone"):
        check_restricted({"adafv_method": "adafv+:spread=9"}, "adafv+")
    check_restricted({"adafv_method": "adafv+:spread=9"}, "adafv+:spread=9")
    # 0.25 is the default, and 0.50 is 0.5
    check_restricted({"adafv_method": "adafv:reserve=0.25"}, "adafv")
    check_restricted({"adafv_method": "adafv:reserve=0.50"}, "adafv:reserve=0.5")
    check_restricted({"adafv_method": "scope"}, "adafv+")
    check_restricted({}, None)


def test_the_text_that_an_image_is_asked_about():
    """A method's own option counts on vLLM, too, and `adafv_pin` is another name for it."""
    for given, expected in (
        ({}, "turn"),
        ({"adafv_pin": "first"}, "turn"),
        ({"adafv_pin": "none"}, "chat"),
        ({"adafv_method": "adafv:question=chat"}, "chat"),
    ):
        assert VLLMOptions.of_request(given).question == expected


FALSY: list[object] = ["", False, [], {}, 0]
"""Values of a wrong type that are false, and yet given. Of numbers 0 has the right type."""


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"adafv_keep": 0}, "keep=0 is not a share"),
        ({"adafv_keep": 1.5}, "keep=1.5 is not a share"),
        ({"adafv_keep": float("nan")}, "keep=nan is not a number"),
        ({"adafv_keep": "0.1"}, "adafv_keep='0.1' is not a number"),
        ({"adafv_keep": True}, "adafv_keep=True is not a number"),
        ({"adafv_keep": [0.1]}, "is not a number"),
        ({"adafv_tokens": 0}, "tokens=0 is not a number of visual tokens"),
        ({"adafv_keep": 0.1, "adafv_tokens": 9}, "both are given"),
        ({"adafv_method": "adafv"}, "neither is given"),
        ({"adafv_keep": 0.1, "adafv_method": "adafw"}, "did you mean 'adafv'"),
        ({"adafv_keep": 0.1, "adafv_method": 7}, "adafv_method=7 is not text"),
        ({"adafv_keep": 0.1, "adafv_method": "fastv"}, "between the layers"),
        ({"adafv_keep": 0.1, "adafv_method": "visionzip"}, "needs 'keys'"),
        ({"adafv_keep": 0.1, "adafv_method": "adafv_released"}, "doesn't keep to its budget"),
        ({"adafv_keep": 0.1, "adafv_method": "vidcom2"}, "compares the frames of a video"),
        (
            {"adafv_keep": 0.1, "adafv_method": "adafv:positions=original"},
            "positions='original' is not done",
        ),
        ({"adafv_keep": 0.1, "adafv_method": f"random:seed={10**23}"}, "is out of range"),
        ({"adafv_keep": 0.1, "adafv_method": "random:seed=-1"}, "is not a valid seed"),
        ({"adafv_tokens": 10**400}, "adafv_tokens=1000"),
        ({"adafv_keep": 0.1, "adafv_pin": "last"}, "adafv_pin='last' is unknown"),
        *[({"adafv_pin": nothing}, "is unknown: pass one of 'none', 'first'") for nothing in FALSY],
        *[({"adafv_keep": nothing}, "adafv_keep=.* is not") for nothing in FALSY[:-1]],
        *[({"adafv_tokens": nothing}, "adafv_tokens=.* is not") for nothing in FALSY[:-1]],
        *[({"adafv_method": nothing}, "adafv_method=.* is not text") for nothing in FALSY[1:]],
        ({"adafv_method": "", "adafv_keep": 0.1}, "'' is unknown"),
        (
            {"adafv_keep": 0.1, "adafv_pin": "first", "adafv_method": "adafv:question=chat"},
            "leave one of them out",
        ),
        ({"adafv_keep": 0.1, "adafv_method": "adafv:skip=words"}, "not a list of token ids"),
        ({"adafv_kep": 0.1}, "adafv_kep is no option of a request"),
        ({"adafv_cache_mb": 1}, "adafv_cache_mb is no option of a request"),
    ],
)
def test_a_bad_request_gets_a_sentence(given, sentence):
    with pytest.raises(ValueError, match=sentence.replace("(", r"\(")):
        VLLMOptions.of_request(given).request(VLLMOptions())


def test_the_servers_options_are_found_again_and_out_of_the_processors_way():
    """From the flag or the model's own configuration; asked twice, since vLLM makes its processor
    twice.
    """
    config = Config({"adafv_keep": 0.1, "min_pixels": 64}, {"method": "adafv+", "keep": 0.5})
    expected = VLLMOptions(PruneConfig("adafv+", 0.1))
    assert settings(config) == settings(config) == expected
    assert config.mm_processor_kwargs == {"min_pixels": 64}
    with pytest.raises(ValueError, match="adafv_kep is no option of a server"):
        settings(Config({"adafv_kep": 1}))
    with pytest.raises(ValueError, match="adafv_cache_mb=-1 is no size"):
        settings(Config({"adafv_cache_mb": -1}))
    with pytest.raises(ValueError, match=r"adafv_cache_mb=1000.*… is out of range"):
        settings(Config({"adafv_cache_mb": 10**400}))
    with pytest.raises(ValueError, match="adafv_image_cache_mb='1' is no size"):
        settings(Config({"adafv_image_cache_mb": "1"}))
    # what images cost the server's process says nothing of pruning
    assert not settings(Config({"adafv_image_cache_mb": 64})).prunes


def test_what_decides_a_choice_is_in_its_hash():
    """Two images share a hash exactly when the same tokens of them stay; whole ones have the
    image's own.
    """
    ticket = PruneSpec("p", "adafv", 0.1, None, (1, 2))
    others = [
        PruneSpec("q", "adafv", 0.1, None, (1, 2)),
        PruneSpec("p", "t2i", 0.1, None, (1, 2)),
        PruneSpec("p", "adafv", 0.2, None, (1, 2)),
        PruneSpec("p", "adafv", None, 9, (1, 2)),
        PruneSpec("p", "adafv", 0.1, None, (1,)),
    ]
    assert len({t.hash for t in (ticket, *others)}) == 6
    assert PruneSpec.read(ticket.tensor()) == ticket
    assert copy.copy(ticket).hash == ticket.hash
    assert PruneSpec("p").hash == "p"
    assert PruneSpec("p").dense


def test_the_methods_on_vllm():
    """The others are refused, each for its reason, before anything is served."""
    done = []
    for name in METHODS:
        try:
            VLLMOptions(PruneConfig(name, 0.3)).check()
        except ValueError as error:
            assert name in str(error)
        else:
            done.append(name)
    assert tuple(done) == METHODS_SERVED


@pytest.mark.parametrize("family", SERVED)
@pytest.mark.parametrize("name", METHODS_SERVED)
def test_what_stays_is_what_the_library_keeps(family, name, monkeypatch):
    """The same features and the same indices, image by image, in one batch with mixed budgets, or
    in parts that take less memory.
    """
    if name == "t2i":
        monkeypatch.setattr(selecting, "MOST_VALUES", 1)
    model, budgets, tickets, pictures, expected = tiny(family).model, (0.3, 0.6, 1.0), [], [], []
    skeleton = MetaModel(model.config)
    for i, keep in enumerate(budgets):
        inputs = ask(family, ((QUESTION, OTHER)[i % 2], [show(48, 24 * (i + 1), i)]))
        pruner = method(name, keep=keep)
        with torch.no_grad():
            encoding = pruner.encode(model, inputs)
        [features], tokens = encoding.features, encoding.tokens
        shapes = {n: inputs[n][0] for n in ("image_sizes", "image_grid_thw") if n in inputs}
        layout = skeleton.layout(len(features), shapes)
        saliency = tokens.saliency[0] if tokens.signals else torch.zeros(tokens.counts[0])
        pictures.append(Encoded(features, saliency, layout))
        words = encoding.prompt.ids[0, encoding.prompt.question(encoding.spans[0])]
        tickets.append(PruneSpec(str(i), name, keep, None, tuple(words.tolist())))
        budget = [pruner.budget(tokens.counts[0])]
        selection = pruner.select(tokens, budget)
        merged = None if selection.features is None else selection.features[0]
        expected.append((selection.kept[0], encoding.patch_indices[0], features, merged))
    with torch.no_grad():
        stay = select(tickets, pictures, model.get_input_embeddings(), 3)
    for one, (kept, patch_indices, features, merged) in zip(stay, expected, strict=True):
        assert one.kept.tolist() == kept.tolist()
        if one.pruned:
            assert torch.equal(
                one.features, features[patch_indices[kept]] if merged is None else merged
            )
        else:
            assert torch.equal(one.features, features)


def test_padding_that_the_tower_does_not_read():
    """Each token is made of the patches that transformers makes it of, from LFM2-VL's tiles and a
    thumbnail of another shape.
    """
    model = tiny("lfm2_vl").model
    inputs = ask("lfm2_vl", (QUESTION, [show(90, 60)]))
    shapes = inputs["spatial_shapes"]  # (crops, 2)
    _, longest, _ = inputs["pixel_values"].shape
    count = int((inputs["input_ids"] == model.config.image_token_id).sum())
    [padded] = FAMILIES["lfm2_vl"].layouts(model, inputs, None, [count])
    packed = MetaModel(model.config).layout(count, {"spatial_shapes": shapes})
    assert packed.size == int(shapes.prod(1).sum()) < padded.size

    # where the patches that are packed stand among all
    places = []
    for i, size in enumerate(shapes.prod(1).tolist()):
        places.append(torch.arange(size) + i * longest)
    assert torch.equal(torch.cat(places)[packed.patches], padded.patches)
    assert torch.equal(packed.coordinates, padded.coordinates)


@pytest.mark.parametrize("name", METHODS_SERVED)
@pytest.mark.parametrize("words", [(), (1, 2, 3)])
def test_no_choice_fails_in_the_engine(name, words):
    """What a request may ask for can be done, with no word too: in vLLM's engine a failure would
    stop the server.
    """
    generator = torch.Generator().manual_seed(0)
    for side in (1, 6):
        picture = Encoded(
            torch.randn(side**2, 8, generator=generator),
            torch.rand(side**2),
            join([raster(side, side)]),
        )
        for keep, tokens in ((None, 1), (0.3, None), (None, 35)):
            ticket = PruneSpec("p", name, keep, tokens, words)
            [stay] = select([ticket], [picture], torch.nn.Embedding(4, 8), 2)
            assert len(stay.features) == ticket.pruner.budget(side**2)


def test_encodings_in_bounded_memory():
    """The least recently used go first; what is larger than the memory is not kept at all."""

    def encoded(n):
        return Encoded(torch.zeros(n, 3), torch.zeros(n), join([raster(1, n)]))

    encodings = Encodings(encoded(10).size)
    encodings.add("a", encoded(4))
    encodings.add("b", encoded(4))
    assert encodings.find("a") is not None
    encodings.add("c", encoded(5))
    assert encodings.find("b") is None
    assert encodings.find("a") is not None
    assert encodings.find("c") is not None
    encodings.add("d", encoded(11))
    assert encodings.find("d") is None
    assert encodings.used <= encodings.bytes

    # a part of a batch is kept, and not the batch with it
    batch = torch.zeros(9, 4, 3)
    encodings.add("e", Encoded(batch[2], torch.zeros(9, 4)[2], encoded(4).layout))
    found = encodings.find("e")
    assert found.features.untyped_storage().nbytes() == found.features.nbytes
    assert (encodings.encoded, encodings.reused, encodings.evicted) == (5, 4, 2)


def test_coordinates_survive_half_precision():
    """Times, rows and columns of the largest videos come through bfloat16 unharmed."""
    coordinates = torch.tensor([[0, 0, 0], [1, 255, 257], [9, 1000, 3], [65535, 16383, 9999]])
    features = torch.randn(4, 5, dtype=torch.bfloat16)
    both = mrope.with_coordinates(features, coordinates)
    assert torch.equal(mrope.coordinates_of(both), coordinates)
    assert torch.equal(both[:, : -mrope.CHANNELS], features)


@pytest.mark.parametrize("shapes", [[(48, 48)], [(96, 24), (24, 24)]])
def test_positions_are_the_models_own(shapes):
    """Whole images are numbered as the dense prompt is, text beside pruned ones too; of those, rows
    and columns are added later.
    """
    inputs = ask("qwen2_5_vl", (QUESTION, [show(*shape, i) for i, shape in enumerate(shapes)]))
    model, ids = tiny("qwen2_5_vl").model, inputs["input_ids"][0]
    names = ("image_grid_thw", "mm_token_type_ids", "attention_mask")
    expected, _ = model.model.get_rope_index(inputs["input_ids"], **{n: inputs[n] for n in names})
    counts = [int(h) // 2 * int(w) // 2 for _, h, w in inputs["image_grid_thw"]]
    starts = (
        (ids == model.config.image_token_id) & (ids.roll(1) != model.config.image_token_id)
    ).nonzero()[:, 0]
    whole = [mrope.Span(int(start), n, n) for start, n in zip(starts, counts, strict=True)]
    assert mrope.dense_tokens(ids.tolist(), whole) == ids.tolist()
    assert torch.equal(mrope.pruned_positions(expected[:, 0], whole), expected[:, 0])
    # one token of each stays
    gone = [sum(n - 1 for n in counts[:i]) for i in range(len(counts) + 1)]
    pruned = [mrope.Span(span.start - gone[i], 1, span.count) for i, span in enumerate(whole)]
    is_text = ids != model.config.image_token_id
    first = torch.zeros_like(is_text).index_fill(0, starts, True)
    assert mrope.dense_tokens(ids[is_text | first].tolist(), pruned) == ids.tolist()
    found = mrope.pruned_positions(expected[:, 0], pruned)
    assert torch.equal(found, expected[:, 0][:, is_text | first])


def test_structure_stays_in_its_place():
    """Tokens between the visual tokens of an image: found in what the prompt says of it, and put
    back between those that are kept.
    """
    image, row, edge = 7, 8, 9
    ids = [edge, image, image, row, image, image, row, image, edge]
    start, end, structure = between(ids, torch.tensor(ids) == image)
    assert (start, end, structure) == (1, 8, ((2, row), (5, row)))
    embed = torch.nn.Embedding(10, 3)
    features = torch.randn(5, 3)
    with torch.no_grad():
        for chosen in ([0, 1, 2, 3, 4], [1, 4], [2], [3, 4]):
            found = with_structure(
                features[chosen], torch.tensor(chosen), len(features), structure, embed
            )
            expected = []
            visual = 0
            for token in ids[start:end]:
                if token == row:
                    expected.append(embed.weight[row])
                else:
                    expected += [features[visual]] * (visual in chosen)
                    visual += 1
            assert torch.equal(found, torch.stack(expected))
    spec = PruneSpec("p", "adafv", 0.1, None, (1, 2))
    with_names = replace(spec, structure=structure)
    assert PruneSpec.read(with_names.tensor()) == with_names
    assert with_names.hash == spec.hash
