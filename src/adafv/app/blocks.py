"""Gradio's page, on which nothing that a visitor sends is a fault of the server."""

from typing import Any

import gradio as gr

__all__ = ["CarefulBlocks"]


class CarefulBlocks(gr.Blocks):
    """Blocks that answer input which no field can hold with a sentence, not with a traceback."""

    async def preprocess_data(self, *args: Any, **options: Any) -> Any:
        """Turn what came in into what functions get.

        Raises:
            gr.Error: it is not what the page itself would send; nothing is printed.
        """
        try:
            return await super().preprocess_data(*args, **options)
        except Exception as error:
            raise gr.Error(
                "The page sent what its fields cannot hold: reload it", print_exception=False
            ) from error
