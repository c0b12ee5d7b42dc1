"""Models with adapters of PEFT around them."""

from typing import Any

from torch import nn

from adafv.utils.checks import checked

__all__ = ["without_adapters"]


@checked
def without_adapters(model: nn.Module) -> Any:
    """Return the model that PEFT has wrapped in another, or else the model itself."""
    return getattr(model, "get_base_model", lambda: model)()
