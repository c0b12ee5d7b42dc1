"""The table of model families: what the library does with each, and what vLLM does."""

from writing import table

from adafv.families import record
from adafv.integrations.vllm.architectures import ARCHITECTURES


def engines() -> str:
    """A line for each proven family, as `adafv families` lists them with either engine."""
    served = {architecture.family: architecture for architecture in ARCHITECTURES.values()}
    rows = []
    for name, family in record()["families"].items():
        architecture = served.get(name)
        rows.append(
            [
                f"`{name}`",
                family["saliency"],
                _clips(bool(family["passed"].get("clips"))),
                "–" if architecture is None else architecture.title,
                _clips(architecture is not None and architecture.videos),
            ]
        )
    return table(["family", "saliency", "clips in the library", "on vLLM", "clips on vLLM"], rows)


def _clips(pruned: bool) -> str:
    return "pruned" if pruned else "–"
