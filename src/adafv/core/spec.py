"""Shares and methods as people write them: `10%`, `adafv:reserve=0.5:keep=0.1`.

Text alone, no PyTorch.
"""

from decimal import Decimal, InvalidOperation
from typing import Any

from adafv.utils.checks import checked

__all__ = ["share_of", "without_budget"]


@checked
def share_of(text: str) -> float:
    """Return a share as a number: "0.1" and "10%" are the same.

    Raises:
        ValueError: it is neither; whether it lies between 0 and 1 is for others to say.
    """
    number, percent, rest = text.strip().partition("%")
    if rest:
        raise ValueError(f"{text!r} is not a number: pass a share such as 0.1, or 10%")
    try:
        # decimal: 7% is 0.07 and not 0.07000000000000001
        return float(Decimal(number) / (100 if percent else 1))
    except (InvalidOperation, OverflowError):
        raise ValueError(f"{text!r} is not a number: pass a share such as 0.1, or 10%") from None


@checked
def without_budget(spec: str) -> tuple[str, dict[str, Any]]:
    """Take the budget out of a method's spec.

    Args:
        spec: as `adafv.methods.from_spec` reads it, e.g. "adafv:reserve=0.5:keep=10%".

    Returns:
        The spec without it, "adafv:reserve=0.5", and the budget, {"keep": 0.1}; empty where the
        spec names none.

    Raises:
        ValueError: a budget that is not a number, or given twice.
    """
    name, *parts = spec.split(":")
    rest = [name]
    budget: dict[str, Any] = {}
    for part in parts:
        option, _, value = part.partition("=")
        # an option of the method's own, or one that `from_spec` refuses
        if option not in ("keep", "tokens") or not value:
            rest.append(part)
        elif option in budget:
            raise ValueError(f"{option} of {spec!r} is given twice: leave one of the two out")
        elif option == "keep":
            budget["keep"] = share_of(value)
        else:
            budget["tokens"] = _number(value)
    return ":".join(rest), budget


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(
            f"tokens={text!r} is not a number of visual tokens: pass an integer of 1 or more"
        ) from None
