"""Gradio's page, on which nothing that a visitor sends is a fault of the server."""

from typing import Any

import gradio as gr
from fastapi import Request
from fastapi.responses import JSONResponse

__all__ = ["REFUSALS", "CarefulBlocks"]

REFUSED = "The page sent what its fields cannot hold: reload it"


class CarefulBlocks(gr.Blocks):
    """Blocks that answer input which no field can hold with a sentence, not with a traceback."""

    async def preprocess_data(self, block_fn: Any, *args: Any, **options: Any) -> Any:
        """Turn what came in into what functions get.

        Raises:
            gr.Error: it is not what the page itself would send; nothing is printed.
        """
        try:
            # what runs in the browser alone is no function to call
            if block_fn.fn is None:
                raise ValueError(REFUSED)
            return await super().preprocess_data(block_fn, *args, **options)
        except Exception as error:
            raise gr.Error(REFUSED, print_exception=False) from error


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    """Answer a request that names nothing on the page."""
    return JSONResponse({"error": REFUSED}, status_code=400)


REFUSALS = dict.fromkeys((LookupError, TypeError, ValueError, AttributeError), _refuse)
"""What Gradio's routes raise at requests that the page itself never sends, and what is answered."""
