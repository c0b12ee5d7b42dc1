"""Protects the page on clients: what it shows of `vllm.LLM` runs as it stands, on an engine of its
own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("vllm", reason="needs vLLM: make test-engines")

from test_http import snippets

from adafv import AdaFV
from adafv.demo.server import ON_A_CPU
from adafv.embedded import MODEL_DIR
from adafv.models.ask import ask
from adafv.models.load import load

pytestmark = pytest.mark.engines

ROOT = Path(__file__).parents[2]
QUESTION = "what color is the umbrella?"


def test_a_call_has_its_own_budget(tmp_path):
    """A quarter, as the library keeps, where the engine has a tenth; only the model is another."""
    picture = Image.open(ROOT / "docs" / "drawings" / "scene.png")
    code = snippets()["vLLM in Python"]
    model = 'LLM("llava-hf/llava-1.5-7b-hf"'
    assert model in code
    small = f'LLM("{MODEL_DIR}", dtype="float32", enforce_eager=True, max_model_len=2048'
    script = "if __name__ == '__main__':\n"
    for line in code.replace(model, small).splitlines():
        script += f"    {line}\n"
    (tmp_path / "snippet.py").write_text(script)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "snippet.py")],
        cwd=ROOT,
        env={**ON_A_CPU, **os.environ},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *answer, count = done.stdout.strip().splitlines()
    said = ask(*load(None, "cpu", "float32"), picture, QUESTION, AdaFV(keep=0.25))
    assert "".join(answer).strip() == said.answer
    # the prompt is what is kept, and a few words
    assert said.kept_tokens < int(count) < said.kept_tokens + 20
