"""Colours that mean the same in every picture: of signals, of answers, and of methods."""

from collections.abc import Iterable
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adafv.utils.checks import checked

__all__ = [
    "BOTH",
    "PLAIN",
    "RELEVANCE",
    "RIGHT",
    "RIGHT_ON_DARK",
    "SALIENCY",
    "WRONG",
    "WRONG_ON_DARK",
    "colors_of",
    "token_colors",
]

# of Okabe and Ito's palette: told apart by colour-blind readers, too
SALIENCY = "#0072b2"
RELEVANCE = "#d55e00"
BOTH = "#111111"
PLAIN = "#009e73"

# of answers: no hue of the signals, and read on white, and on a dark page, with WCAG's contrast;
# a mark beside them says the same
RIGHT = "#3d6b00"
WRONG = "#b3261e"
RIGHT_ON_DARK = "#a5d663"
WRONG_ON_DARK = "#ff8a8f"

# of methods that mix both, that go by one of them, and of chance; of the rivals that lead
_METHODS = {
    "adafv": "#6b7178",
    "adafv+": BOTH,
    "fastervlm": SALIENCY,
    "t2i": RELEVANCE,
    "random": "#b8a000",
    "uniform": "#8c564b",
    "pool": "#6a3d9a",
    "oracle": "#7fb800",
    "scope": PLAIN,
    "mmtok": "#cc79a7",
    "sfpruner": "#882255",
    "divprune": "#44aa99",
    "cdpruner": "#332288",
}
# of all others, in their order
_OTHERS = (PLAIN, "#cc79a7", "#882255", "#44aa99", "#999933", "#aa4499", "#332288", "#117733")


@checked
def colors_of(names: Iterable[str]) -> dict[str, str]:
    """Return a colour for each method; a method of these keeps its own whoever stands beside it.

    Args:
        names: of methods, options after a colon; those without a colour of their own share the
            rest in the order given, which comes again when all were given out.
    """
    found: dict[str, str] = {}
    others: list[str] = []
    for name in dict.fromkeys(names):
        own = _METHODS.get(name.split(":")[0])
        if own is not None and own not in found.values():
            found[name] = own
        else:
            others.append(name)
    # what no method here has for its own
    rest = [color for color in _OTHERS if color not in found.values()]
    return found | dict(zip(others, cycle(rest), strict=False))


@checked
def token_colors(by_relevance: NDArray[Any], by_saliency: NDArray[Any]) -> NDArray[Any]:
    """Return the colour (K,) of each kept token: of the list that it is on, both, or neither.

    Args:
        by_relevance: (K,), true for a token that relevance speaks for.
        by_saliency: (K,), true for one that saliency speaks for.
    """
    color = np.full(len(by_relevance), PLAIN, dtype=object)  # (K,)
    color[by_relevance] = RELEVANCE
    color[by_saliency] = SALIENCY
    color[by_relevance & by_saliency] = BOTH
    return color
