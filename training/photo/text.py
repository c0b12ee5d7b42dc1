"""Text alone, so that the language model stays itself: its own answers, given before any training, are what it goes on learning."""

import json

import torch
from tqdm import tqdm

from training.photo.parts import language_model, tokenizer
from training.photo.places import CACHE

__all__ = ["OWN_ANSWERS", "prepare"]

OWN_ANSWERS = CACHE / "own-answers.json"
TOKENS = 40
COUNTRIES = "Italy, Spain, Japan, Egypt, Brazil, Canada, Norway, Greece, Kenya, India, Peru, Poland".split(", ")
THINGS = "rain, a volcano, gravity, an atom, bread, the moon, a rainbow, glass, the heart, a whale, photosynthesis, the ocean, music, electricity, a bridge, honey, paper, a computer, time, salt, wind, a forest, money, a poem, language".split(", ")
TASKS = """Explain what {t} is.|Write two sentences about {t}.|Why is {t} important?|Tell me an interesting fact about {t}.|Write a short story about {t}."""
OTHERS = """What is 7 plus 5?|Write a Python function that adds two numbers.|How do I boil an egg?|Give me three tips for sleeping well.|Write a polite email asking for a day off.|What is the difference between a list and a tuple in Python?|Who wrote Romeo and Juliet?|Translate "good morning" into Spanish.
How many days are in a year?|What are the primary colors?|Summarize the story of Cinderella.|Name three planets.|How does a bicycle stay upright?|What should I pack for a trip to the beach?|Write a haiku about autumn.|What is the largest animal on Earth?|Hello!|How are you today?|What can you help me with?|Is the earth round?
What does HTTP stand for?|How do plants grow?|Give me a recipe for pancakes.|What is a prime number?|Explain recursion to a child.|Who are you?|Why is the sky blue?|What is the square root of 81?|List some healthy snacks.|What happened in 1969?"""


def prompts() -> list[str]:
    """Questions without a picture. That for the capital of France is kept for the test."""
    asked = [f"What is the capital of {country}?" for country in COUNTRIES]
    tasks = TASKS.split("|")
    asked += [tasks[number % len(tasks)].format(t=thing) for number, thing in enumerate(THINGS)]
    return asked + [line for lines in OTHERS.splitlines() for line in lines.split("|")]


def prepare(batch: int = 24) -> None:
    """Let the untrained language model answer, sampling, and keep prompts and answers."""
    if OWN_ANSWERS.is_file():
        return
    torch.manual_seed(0)
    model, tok = language_model(), tokenizer()
    tok.padding_side = "left"
    pairs = []
    asked = prompts()
    for start in tqdm(range(0, len(asked), batch), desc="own answers"):
        some = asked[start : start + batch]
        texts = [tok.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False) for text in some]
        inputs = tok(texts, return_tensors="pt", padding=True)
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=True, temperature=0.7, top_p=0.95, pad_token_id=tok.pad_token_id)
        for text, prompt, row in zip(some, texts, out[:, inputs.input_ids.shape[1] :], strict=True):
            ids = row.tolist()
            end = ids.index(tok.eos_token_id) + 1 if tok.eos_token_id in ids else len(ids)
            pairs.append({"question": text, "prompt": tok(prompt).input_ids, "answer": ids[:end]})
    OWN_ANSWERS.write_text(json.dumps(pairs))


if __name__ == "__main__":
    torch.set_num_threads(1)
    prepare()
