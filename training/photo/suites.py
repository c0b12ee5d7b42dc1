"""Write the suites of the photo model: folders of images and questions for `adafv eval --suite`.

    python -m training.photo.suites                      # 1,000 questions each, in the cache
    adafv eval --model photo --suite ~/.cache/adafv/training/photo/suites/photos-dull --out out/dull

`photos` shows pictures that the bridge was trained on in new scenes, `photos-unseen` pictures that
it never saw. In `photos-dull` the question is about what is small, faded and at the border, while
the rest is large and colourful. `photos-polling` asks whether something is there, as often yes as
no, and for what is absent by names that go with what is shown (POPE, arXiv 2305.10355).
`photos-clips` shows the four frames of a clip on a contact sheet and asks what is to be seen;
`photos-motion` asks of such clips which way, how often and in which order.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from adafv.data.sample import Box
from training.photo import clips, pictures
from training.photo.cache import CACHE
from training.photo.names import NOUNS, with_article
from training.photo.questions import Question, absent_names, questions
from training.photo.scenes import Scene, Thing, compose

__all__ = ["SUITES", "asked", "polls", "write"]

# What is asked of a clip.
OF_CLIPS = {"photos-clips": clips.ask, "photos-motion": clips.ask_over_time}
SUITES = ("photos", "photos-unseen", "photos-dull", "photos-polling", *OF_CLIPS)
SPLITS = {"photos-unseen": "unseen", "photos-dull": "dull"}
FIRST = 100_000  # number of a suite's first scene: those before are for choices
A_SCENE = 4  # questions
POLLS = 6  # of a scene, half of them with the answer yes
# A description is right in many words.
LEFT_OUT = ("describe", "list")
# Of a dull thing: what can be guessed without it, and the colour, which is faded.
NOT_OF_DULL = ("exists", "either", "count", "colour")


def drawn(
    name: str, number: int
) -> tuple[Image.Image, tuple[tuple[Box, ...], ...], list[Question]]:
    """Return an image of a suite, the boxes of each thing on it, and what is asked."""
    if name in OF_CLIPS:
        clip = clips.compose_clip(number)
        random = np.random.default_rng([number, SUITES.index(name)])
        return clip.image, clip.boxes, OF_CLIPS[name](clip, random) if clip.things else []
    scene, found = asked(name, number)
    return scene.image, tuple((thing.box,) for thing in scene.things), found


def asked(name: str, number: int) -> tuple[Scene, list[Question]]:
    """Return a scene of a suite of images with its questions."""
    scene = compose(SPLITS.get(name, "seen"), number)
    random = np.random.default_rng([number, SUITES.index(name)])
    if not scene.things:
        return scene, []
    if name == "photos-polling":
        return scene, polls(scene.things, random)
    found: dict[str, Question] = {}
    last = (len(scene.things) - 1,)
    for question in questions(scene.things, random, 40):
        of_dull = question.about == last and question.type not in NOT_OF_DULL
        if question.type not in LEFT_OUT and (name != "photos-dull" or of_dull):
            # one of a type
            found.setdefault(question.type, question)
    return scene, list(found.values())[:A_SCENE]


def polls(things: tuple[Thing, ...], random: np.random.Generator) -> list[Question]:
    """Ask for as many things that are there as for things that are not.

    An absent name is, as likely, any, one of the kinds that are shown, or one of the most frequent.
    """
    shown = sorted({thing.name for thing in things})
    kinds = {thing.kind for thing in things}
    absent = absent_names(things)
    near = [name for name in absent if NOUNS[name].kind in kinds] or absent
    frequent = [name for name in _by_frequency() if name in absent]
    half = min(POLLS // 2, len(shown))

    found = []
    for name in random.permutation(shown)[:half]:
        about = tuple(index for index, thing in enumerate(things) if thing.name == name)
        found.append(_poll(str(name), about, random))
    sources = (absent, near, frequent[:40])
    for _ in range(half):
        names = sources[int(random.integers(len(sources)))]
        found.append(_poll(names[int(random.integers(len(names)))], (), random))
    return found


def _poll(name: str, about: tuple[int, ...], random: np.random.Generator) -> Question:
    """Ask whether there is a thing, or whether there is none."""
    there = bool(about)
    if random.random() < 0.25:
        # the same fact, asked the other way round
        return Question(f"Is there no {name}?", "no" if there else "yes", "no", about)
    return Question(f"Is there {with_article(name)}?", "yes" if there else "no", "is", about)


def _by_frequency() -> list[str]:
    """Return the names by how many pictures they have, most first."""
    counts: dict[str, int] = {}
    for row in pictures.read_index():
        counts[row["name"]] = counts.get(row["name"], 0) + 1
    return sorted(counts, key=lambda name: (-counts[name], name))


def lines_of(
    image: str,
    boxes: tuple[tuple[Box, ...], ...],
    found: list[Question],
    frames: tuple[int, int] | None,
) -> Iterator[str]:
    """Yield the lines of an image for `questions.jsonl`."""
    for question in found:
        about = []
        for index in question.about:
            about += boxes[index]
        line = {
            "image": image,
            "question": question.text,
            "answer": [question.answer, *question.accepted],
            "type": question.type,
            "boxes": about,
        }
        if frames is not None:
            line["frame_grid"] = frames
        yield json.dumps(line, ensure_ascii=False)


def write(name: str, count: int, out: Path) -> int:
    """Write a suite of at least `count` questions into a folder; return how many there are."""
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    number = FIRST
    with tqdm(total=count, desc=name, unit="question") as bar:
        while len(lines) < count:
            image, boxes, found = drawn(name, number)
            file = f"{number}.jpg"
            number += 1
            if not found:
                continue
            image.save(folder / file, quality=95)
            lines += lines_of(file, boxes, found, clips.FRAME_GRID if name in OF_CLIPS else None)
            bar.update(len(found))
    # last, so that a suite is whole or none
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def main() -> None:
    """Write all suites."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=1000, help="of each suite")
    parser.add_argument("--suites", default=",".join(SUITES))
    parser.add_argument("--out", type=Path, default=CACHE / "suites")
    given = parser.parse_args()
    pictures.prepare()
    for name in given.suites.split(","):
        print(f"{name}: {write(name, given.questions, given.out)} questions")


if __name__ == "__main__":
    main()
