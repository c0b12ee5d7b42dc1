"""Prepare text without images, so that the language model keeps what it knows.

It is trained on what it answered before any training.
"""

import json
from pathlib import Path

import torch
from tqdm import tqdm

from training.photo.cache import CACHE
from training.photo.names import lines_of
from training.photo.parts import language_model, tokenizer

__all__ = ["OWN_ANSWERS", "prepare"]

OWN_ANSWERS = CACHE / "own-answers.json"
TOKENS = 40  # of the longest answer


def prompts() -> list[str]:
    """Return questions without an image."""
    return lines_of(Path(__file__).with_name("prompts.txt"))


def prepare(batch: int = 24) -> None:
    """Let the untrained language model answer, sampling, and keep prompts and answers."""
    if OWN_ANSWERS.is_file():
        return
    torch.manual_seed(0)
    model = language_model()
    tok = tokenizer()
    tok.padding_side = "left"
    pairs = []
    questions = prompts()
    for start in tqdm(range(0, len(questions), batch), desc="own answers"):
        some = questions[start : start + batch]
        texts = []
        for text in some:
            messages = [{"role": "user", "content": text}]
            texts.append(
                tok.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            )
        inputs = tok(texts, return_tensors="pt", padding=True)
        # sampled: greedy answers would be all alike
        with torch.inference_mode():
            out = model.generate(
                **inputs,
                max_new_tokens=TOKENS,
                do_sample=True,
                temperature=0.7,
                top_p=0.95,
                pad_token_id=tok.pad_token_id,
            )
        new = out[:, inputs.input_ids.shape[1] :]  # (B, new)
        for text, prompt, row in zip(some, texts, new, strict=True):
            # up to its end, which is learned too; behind it stands padding
            ids = row.tolist()
            end = ids.index(tok.eos_token_id) + 1 if tok.eos_token_id in ids else len(ids)
            pairs.append({"question": text, "prompt": tok(prompt).input_ids, "answer": ids[:end]})
    OWN_ANSWERS.write_text(json.dumps(pairs))


if __name__ == "__main__":
    torch.set_num_threads(1)
    prepare()
