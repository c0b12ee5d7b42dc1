"""Name the folders where training keeps what it makes: outside the repository."""

import os
from pathlib import Path

__all__ = ["CACHE", "HOME"]

HOME = Path(os.environ.get("ADAFV_HOME", "~/.cache/adafv")).expanduser()
CACHE = HOME / "training" / "photo"
