"""Run everything in order, each step only where it is missing; run again to train on.

python -m training.photo --minutes 600 --until 600    # train; run again after an interruption
python -m training.photo.measure --checkpoint runs/first/final.pt
python -m training.photo.export runs/first/final.pt src/adafv/models/photo/bridge.safetensors
"""

import argparse
import sys

import torch

from training.photo import align, features, parts, pictures, text, train
from training.photo.cache import CACHE


def main() -> None:
    """Prepare what is missing, and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--scenes", type=int, default=2000, help="of training, and a third as many crowded ones"
    )
    parser.add_argument("--held", type=int, default=300, help="of each test split")
    parser.add_argument("--epochs", type=int, default=40, help="of stage 1")
    train.add_options(parser)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)

    # what both stages read
    parts.prepare()
    pictures.prepare()
    tower = parts.tower(torch.bfloat16 if given.bfloat16 else torch.float32)
    features.prepare(tower, "train", given.scenes)
    features.prepare(tower, "crowd", given.scenes // 3)
    features.prepare(tower, "dull", given.scenes // 2)
    features.prepare(tower, "seen", given.held)
    features.prepare(tower, "unseen", given.held)
    text.prepare()

    # stage 1 to its end, then stage 2
    if not (CACHE / "aligned.pt").is_file():
        align.align(given.epochs)
    train.train(given)


if __name__ == "__main__":
    try:
        main()
    except ValueError as problem:
        sys.exit(f"error: {problem}")
