"""Prepare text without images, so that the language model keeps what it knows.

It is trained on what it answered before any training, and held to what it predicted then in
passages of the standard library's docstrings.
"""

import ast
import json
import sysconfig
from pathlib import Path

import torch
from tqdm import tqdm

from adafv.utils.files import write_text
from training.photo.cache import CACHE
from training.photo.names import lines_of
from training.photo.parts import language_model, tokenizer

__all__ = ["OWN_ANSWERS", "passages", "prepare"]

OWN_ANSWERS = CACHE / "own-answers.json"
TOKENS = 40  # of the longest answer
PASSAGE = 96  # tokens


def prompts() -> list[str]:
    """Return questions without an image."""
    return lines_of(Path(__file__).with_name("prompts.txt"))


def passages() -> list[list[int]]:
    """Return ids of passages from the docstrings of Python's standard library.

    Its help texts (`pydoc_data`), with which a bridge is measured, are no docstrings.
    """
    tok = tokenizer()
    cut = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        tree = ast.parse(path.read_bytes())
        for node in ast.walk(tree):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                continue
            ids = tok(ast.get_docstring(node) or "").input_ids
            for start in range(0, len(ids) - PASSAGE + 1, PASSAGE):
                cut.append(ids[start : start + PASSAGE])
    return cut


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
    write_text(OWN_ANSWERS, json.dumps(pairs))


if __name__ == "__main__":
    torch.set_num_threads(1)
    prepare()
