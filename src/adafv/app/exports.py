"""Turn what the page shows into files for whoever asks: data URLs, nothing is written to disk."""

import json
from base64 import b64encode
from io import BytesIO
from typing import Any

from adafv.app.view import DENSE, Result, View
from adafv.utils.checks import checked
from adafv.viz import side_by_side

__all__ = ["json_file", "png_file"]


@checked
def json_file(view: View) -> str:
    """Return question, answers, counts, times and kept tokens as a JSON file."""
    rows = [_row(result) for result in view.results]
    summary = {
        "question": view.question,
        "keep": view.keep,
        "vision_ms": view.vision_ms,
        "results": rows,
    }
    return _data_url("application/json", json.dumps(summary, indent=1).encode())


@checked
def png_file(view: View) -> str:
    """Return what each method keeps of the image, and what it answers, as a PNG file.

    Raises:
        ValueError: nothing of it can be drawn.
    """
    drawn = {}
    for result in view.results:
        if result.explanation is not None:
            drawn[result.method] = result.explanation
    if not drawn:
        raise ValueError("no method here keeps tokens that can be drawn: choose e.g. adafv")
    # the dense model's answer stands beside the question already
    if len(drawn) > 1:
        drawn.pop(DENSE, None)
    buffer = BytesIO()
    side_by_side([*drawn.values()]).savefig(buffer, format="png")
    return _data_url("image/png", buffer.getvalue())


def _row(result: Result) -> dict[str, Any]:
    """Return what a method answered and kept, as far as it is known."""
    row: dict[str, Any] = {"method": result.method, "note": result.note}
    if result.answer is not None:
        row |= {
            "answer": result.answer.answer,
            "visual_tokens": result.answer.visual_tokens,
            "kept_tokens": result.answer.kept_tokens,
            # an answer's own names are those of times with the vision tower
            "first_token_ms_after_encoding": result.answer.prefill_ms,
            "total_ms_after_encoding": result.answer.total_ms,
            "cut": result.answer.cut,
        }
    if result.explanation is not None:
        row["kept_indices"] = result.explanation.kept.tolist()
    return row


def _data_url(kind: str, content: bytes) -> str:
    """Return a file as a data URL."""
    return f"data:{kind};base64,{b64encode(content).decode()}"
