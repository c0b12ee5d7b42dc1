"""Measure a bridge: exact match after normalising on new scenes of seen pictures and on pictures
never seen; the same blind (a grey picture in place of the scene); and what became of text alone.

    python -m training.photo.measure                     # the last checkpoint of the run "first"
    python -m training.photo.measure --checkpoint runs/first/final.pt --scenes 200
"""

import argparse
import json
from collections import defaultdict
from math import sqrt
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from training.photo.features import Shard, encode, shards
from training.photo.parts import language_model, tokenizer, tower
from training.photo.places import CACHE
from training.photo.questions import Question, matches, questions
from training.photo.scenes import PIXELS
from training.photo.train import Packer, Student

__all__ = ["answers", "interval", "measure", "perplexity"]

LONGEST = 40  # tokens of an answer
UNSEEN_SEED = 1_000_003  # questions of the test are not those of training


def interval(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    if not n:
        return 0.0, 1.0
    z, p = 1.96, hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return middle - half, middle + half


@torch.inference_mode()
def answers(
    student: Student, packer: Packer, features: Tensor, texts: list[str], prefix=None
) -> tuple[list[str], object]:
    """Answer several questions about one picture, greedily: its features (K, C) run through the
    model once.

    Returns the answers and the cache of the picture, to be passed again for the same picture.
    """
    lm = student.lm
    embed = lm.get_input_embeddings()
    if prefix is None:
        parts = [
            embed(torch.tensor(packer.opening)),
            student.projector(features),
            embed(torch.tensor(packer.newline)),
        ]
        prefix = lm(
            inputs_embeds=torch.cat(parts)[None], use_cache=True, logits_to_keep=1
        ).past_key_values
    length = prefix.get_seq_length()
    prompts = [packer.encode(text) + packer.turn for text in texts]
    longest = max(map(len, prompts))
    pads = torch.tensor([longest - len(prompt) for prompt in prompts])  # (Q)
    # (Q, longest)
    ids = torch.tensor([[packer.end[0]] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.cat(
        [torch.ones(len(texts), length), (torch.arange(longest) >= pads[:, None]).float()], 1
    )
    places = length + (torch.arange(longest) - pads[:, None]).clamp(min=0)
    cache = _repeated(prefix, len(texts))
    said: list[list[int]] = [[] for _ in texts]
    done = torch.zeros(len(texts), dtype=torch.bool)
    for _ in range(LONGEST):
        out = lm(
            input_ids=ids,
            attention_mask=mask,
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        ids = out.logits[:, -1].argmax(1, keepdim=True)  # (Q, 1)
        done |= ids[:, 0] == packer.end[0]
        if done.all():
            break
        for row in range(len(texts)):
            if not done[row]:
                said[row].append(int(ids[row]))
        mask = torch.cat([mask, torch.ones(len(texts), 1)], 1)
        places = places[:, -1:] + 1
    return [packer.decode(tokens) for tokens in said], prefix


def _repeated(cache, times: int):
    import copy

    copied = copy.deepcopy(cache)
    copied.batch_repeat_interleave(times)
    return copied


def measure(
    student: Student, split: str, scenes: int, blind: bool, count: int = 10
) -> dict[str, list[tuple[Question, str]]]:
    """What the model says to the questions of some scenes of a split, by question type."""
    packer = Packer()
    grey = (
        encode(tower(), [Image.new("RGB", (PIXELS, PIXELS), (128, 128, 128))])[0] if blind else None
    )
    said: dict[str, list[tuple[Question, str]]] = defaultdict(list)
    prefix, number = None, 0
    for path in shards(split):
        shard = Shard(path)
        for index in tqdm(
            range(min(len(shard.things), scenes - number)),
            desc=f"{split} {'blind' if blind else 'dense'}",
        ):
            random = np.random.default_rng([UNSEEN_SEED, number])
            number += 1
            asked = questions(shard.things[index], random, count) if shard.things[index] else []
            if not asked:
                continue
            features = grey if blind else torch.from_numpy(shard.features[index].astype(np.float32))
            spoken, cache = answers(
                student, packer, features, [question.text for question in asked], prefix
            )
            prefix = cache if blind else None
            for question, answer in zip(asked, spoken, strict=True):
                said[question.type].append((question, answer))
    return said


@torch.inference_mode()
def perplexity(lm, tokens: int = 6000, window: int = 512) -> float:
    """Of Python's own help texts, which nobody here trained on."""
    from pydoc_data.topics import topics

    ids = tokenizer()("\n".join(topics[name] for name in sorted(topics))).input_ids[
        5000 : 5000 + tokens
    ]
    losses = []
    for start in range(0, len(ids) - 1, window):
        part = torch.tensor(ids[start : start + window + 1])
        logits = lm(input_ids=part[None, :-1], use_cache=False).logits[0]
        losses.append(F.cross_entropy(logits, part[1:], reduction="none"))
    return float(torch.cat(losses).mean().exp())


@torch.inference_mode()
def says(lm, question: str) -> str:
    """The language model's greedy answer to a question without a picture."""
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--checkpoint", default="runs/first/last.pt", help=f"below {CACHE}, or a path"
    )
    parser.add_argument("--scenes", type=int, default=50, help="of each split")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-text", action="store_true")
    parser.add_argument(
        "--wrong", type=int, default=0, help="print so many wrong answers of each type"
    )
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    saved = torch.load(CACHE / given.checkpoint)
    rank = next(value.shape[0] for name, value in saved["bridge"].items() if name.endswith(".down"))
    student = Student(rank).eval()
    student.load_trained(saved["bridge"])
    result: dict = {
        "checkpoint": given.checkpoint,
        "step": saved["step"],
        "minutes": round(saved["seconds"] / 60, 1),
    }
    for split in ("seen", "unseen"):
        for blind in (False, True):
            said = measure(student, split, given.scenes, blind)
            hits = {
                type_: [matches(answer, question) for question, answer in pairs]
                for type_, pairs in sorted(said.items())
            }
            hits["all"] = [hit for type_ in said for hit in hits[type_]]
            result[f"{split} {'blind' if blind else 'dense'}"] = {
                type_: {
                    "n": len(some),
                    "accuracy": round(float(np.mean(some)), 3),
                    "interval": [round(edge, 3) for edge in interval(sum(some), len(some))],
                }
                for type_, some in hits.items()
            }
            for type_, pairs in said.items() if not blind else ():
                for question, answer in [pair for pair in pairs if not matches(pair[1], pair[0])][
                    : given.wrong
                ]:
                    print(f"{split} {type_}: {question.text} | {question.answer} | said: {answer}")
    if not given.no_text:
        before = language_model()
        result["perplexity"] = {
            "before": round(perplexity(before), 3),
            "after": round(perplexity(student.lm), 3),
        }
        result["France"] = {
            "before": says(before, "What is the capital of France?"),
            "after": says(student.lm, "What is the capital of France?"),
        }
    print(json.dumps(result, indent=1))
    path = (CACHE / given.checkpoint).with_suffix(".json")
    Path(path).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
