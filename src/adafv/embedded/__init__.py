"""The small LLaVA-NeXT-architecture model that ships with the package.

See README.md beside this file.
"""

from pathlib import Path

MODEL_DIR: Path = Path(__file__).resolve().parent / "model"

__all__ = ["MODEL_DIR"]
