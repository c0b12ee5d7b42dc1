"""Measure a bridge on new scenes.

What counts is exact match after normalising, on seen pictures and on pictures never seen; the same
blind (a grey image instead of the scene); and what became of text alone.

    python -m training.photo.measure                     # the last checkpoint of the run "first"
    python -m training.photo.measure --checkpoint runs/first/final.pt --scenes 200
"""

import argparse
import copy
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm
from transformers import LlamaForCausalLM

from adafv.utils.stats import wilson
from training.photo.cache import CACHE
from training.photo.features import Shard, encode, shards
from training.photo.lora import merge_lora
from training.photo.parts import language_model, tokenizer, tower
from training.photo.questions import Question, matches, questions
from training.photo.scenes import PIXELS
from training.photo.train import Packer, Student

__all__ = ["answers", "measure", "perplexity"]

Said = tuple[int, Question, str]
"""A scene's number, a question about it, and what was answered."""
LONGEST = 40  # tokens of an answer
UNSEEN_SEED = 1_000_003  # questions of the test are not those of training


@torch.inference_mode()
def answers(
    student: Student, packer: Packer, features: Tensor, texts: list[str], prefix: Any = None
) -> tuple[list[str], Any]:
    """Answer several questions about one image, greedily; the image is read once.

    Args:
        features: (K, D) of the image.
        texts: Q questions.
        prefix: the cache of the image; None: it is read now.

    Returns:
        The answers, and the cache of the image, to be passed again for the same image.
    """
    # read the image
    lm = student.lm
    embed = lm.get_input_embeddings()
    if prefix is None:
        opening = embed(torch.tensor(packer.opening))
        newline = embed(torch.tensor(packer.newline))
        visual = student.projector(features.to(embed.weight.dtype))  # (K, D)
        embeddings = torch.cat([opening, visual, newline])[None]  # (1, L, D)
        prefix = lm(inputs_embeds=embeddings, use_cache=True, logits_to_keep=1).past_key_values
    length = prefix.get_seq_length()

    # the questions, padded on the left between the image and themselves
    prompts = [packer.encode(text) + packer.turn for text in texts]
    longest = max(map(len, prompts))
    pads = torch.tensor([longest - len(prompt) for prompt in prompts])  # (Q,)
    padded = [[packer.end[0]] * (longest - len(prompt)) + prompt for prompt in prompts]
    ids = torch.tensor(padded)  # (Q, longest)
    visible = (torch.arange(longest) >= pads[:, None]).float()  # (Q, longest)
    mask = torch.cat([torch.ones(len(texts), length), visible], 1)  # (Q, length + longest)
    positions = length + (torch.arange(longest) - pads[:, None]).clamp(min=0)  # (Q, longest)
    cache = _repeated(prefix, len(texts))

    # decode greedily, until every answer has ended
    said: list[list[int]] = [[] for _ in texts]
    done = torch.zeros(len(texts), dtype=torch.bool)
    for _ in range(LONGEST):
        out = lm(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        # the best token of each row
        ids = out.logits[:, -1].argmax(1, keepdim=True)  # (Q, 1)
        # an answer that has ended is decoded on, and not kept
        done |= ids[:, 0] == packer.end[0]
        if done.all():
            break
        for row in range(len(texts)):
            if not done[row]:
                said[row].append(int(ids[row]))
        mask = torch.cat([mask, torch.ones(len(texts), 1)], 1)
        positions = positions[:, -1:] + 1
    return [packer.decode(tokens) for tokens in said], prefix


def _repeated(cache: Any, times: int) -> Any:
    """Return a copy of a cache of one row with so many rows."""
    # decoding writes into it
    copied = copy.deepcopy(cache)
    copied.batch_repeat_interleave(times)
    return copied


def measure(
    student: Student, split: str, scenes: int, blind: bool, count: int = 10
) -> dict[str, list[Said]]:
    """Return what the model says to the questions of some scenes of a split, by question type."""
    packer = Packer()
    grey = None
    if blind:
        grey = encode(tower(), [Image.new("RGB", (PIXELS, PIXELS), (128, 128, 128))])[0]
    said: dict[str, list[Said]] = defaultdict(list)
    title = f"{split} {'blind' if blind else 'dense'}"
    prefix = None
    number = 0
    for path in shards(split):
        shard = Shard(path)
        for index in tqdm(range(min(len(shard.things), scenes - number)), desc=title):
            # the questions, the same whether blind or not
            random = np.random.default_rng([UNSEEN_SEED, number])
            number += 1
            things = shard.things[index]
            about = questions(things, random, count) if things else []
            if not about:
                continue

            # the grey image is read once for all scenes
            features = grey
            if features is None:
                features = torch.from_numpy(shard.features[index].astype(np.float32))
            texts = [question.text for question in about]
            spoken, cache = answers(student, packer, features, texts, prefix)
            prefix = cache if blind else None
            for question, answer in zip(about, spoken, strict=True):
                said[question.type].append((number, question, answer))
    return said


@torch.inference_mode()
def perplexity(lm: LlamaForCausalLM, tokens: int = 6000, window: int = 512) -> float:
    """Return the perplexity of Python's own help texts, which nobody here trained on."""
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics))
    ids = tokenizer()(text).input_ids[5000 : 5000 + tokens]
    losses = []
    for start in range(0, len(ids) - 1, window):
        part = torch.tensor(ids[start : start + window + 1])
        # (window, words)
        logits = lm(input_ids=part[None, :-1], use_cache=False).logits[0].float()
        losses.append(F.cross_entropy(logits, part[1:], reduction="none"))
    return float(torch.cat(losses).mean().exp())


@torch.inference_mode()
def says(lm: LlamaForCausalLM, question: str) -> str:
    """Return the language model's greedy answer to a question without an image."""
    tok = tokenizer()
    inputs = tok.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    out = lm.generate(**inputs, max_new_tokens=24, do_sample=False, pad_token_id=tok.pad_token_id)
    return tok.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def main() -> None:
    """Measure a checkpoint, print what was found, and write it beside the checkpoint."""
    given = _parser().parse_args()
    torch.set_num_threads(given.threads)
    saved = torch.load(CACHE / given.checkpoint)
    # the checkpoint knows its rank
    rank = next(value.shape[0] for name, value in saved["bridge"].items() if name.endswith(".down"))
    dtype = torch.bfloat16 if given.bfloat16 else torch.float32
    student = Student(rank)
    student.load_trained(saved["bridge"])
    # as the bridge is put into a model that ships
    merge_lora(student.lm)
    student.to(dtype).eval()
    result: dict = {
        "checkpoint": given.checkpoint,
        "step": saved["step"],
        "minutes": round(saved["seconds"] / 60, 1),
    }
    for split in ("seen", "unseen"):
        for blind in (False, True):
            said = measure(student, split, given.scenes, blind)
            result[f"{split} {'blind' if blind else 'dense'}"] = _shares(said)
            if not blind:
                _print_wrong(split, said, given.wrong)
    if not given.no_text:
        result |= _text_results(student, dtype)
    print(json.dumps(result, indent=1))
    path = (CACHE / given.checkpoint).with_suffix(".json")
    Path(path).write_text(json.dumps(result, indent=1))


def _shares(said: dict[str, list[Said]]) -> dict[str, dict]:
    """Return accuracy and interval of every type of question, and of all."""
    everything = [answer for some in said.values() for answer in some]
    shares = {}
    for type_, some in [*sorted(said.items()), ("all", everything)]:
        # answers on one scene go right or wrong together
        by_scene: dict[int, list[bool]] = defaultdict(list)
        for scene, question, answer in some:
            by_scene[scene].append(matches(answer, question))
        low, high = wilson([*by_scene.values()])
        right = sum(map(sum, by_scene.values()))
        shares[type_] = {
            "n": len(some),
            "scenes": len(by_scene),
            "accuracy": round(right / len(some), 3),
            "interval": [round(low, 3), round(high, 3)],
        }
    return shares


def _print_wrong(split: str, said: dict[str, list[Said]], most: int) -> None:
    """Print some wrong answers of each type."""
    for type_, some in said.items():
        wrong = [
            (question, answer) for _, question, answer in some if not matches(answer, question)
        ]
        for question, answer in wrong[:most]:
            print(f"{split} {type_}: {question.text} | {question.answer} | said: {answer}")


def _text_results(student: Student, dtype: torch.dtype) -> dict[str, dict]:
    """Return what the language model knew of text before training, and what it knows now."""
    before = language_model(dtype)
    capital = "What is the capital of France?"
    return {
        "perplexity": {
            "before": round(perplexity(before), 3),
            "after": round(perplexity(student.lm), 3),
        },
        "France": {"before": says(before, capital), "after": says(student.lm, capital)},
    }


def _parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--checkpoint", default="runs/first/last.pt", help=f"below {CACHE}, or a path"
    )
    parser.add_argument("--scenes", type=int, default=50, help="of each split")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-text", action="store_true")
    parser.add_argument("--bfloat16", action="store_true", help="as the model that ships")
    parser.add_argument(
        "--wrong", type=int, default=0, help="print so many wrong answers of each type"
    )
    return parser


if __name__ == "__main__":
    main()
