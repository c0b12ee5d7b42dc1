"""The small LLaVA-NeXT-architecture model that ships with the package.

See README.md beside this file.
"""

from pathlib import Path

NAME = "embedded"
MODEL_DIR: Path = Path(__file__).resolve().parent / "model"

__all__ = ["MODEL_DIR", "NAME"]
