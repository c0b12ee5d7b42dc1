"""The table of model families: what the library does with each, and what vLLM does."""

from writing import table

from adafv.families import record
from adafv.integrations.vllm.architectures import ARCHITECTURES, Architecture


def engines() -> str:
    """A line for each proven family, as `adafv families` lists them with either engine."""
    served: dict[str, list[Architecture]] = {}
    for architecture in ARCHITECTURES.values():
        served.setdefault(architecture.family, []).append(architecture)
    rows = []
    for name, family in record()["families"].items():
        architectures = served.get(name, [])
        rows.append(
            [
                f"`{name}`",
                family["saliency"],
                _clips(bool(family["passed"].get("clips"))),
                ", ".join(one.title for one in architectures) or "–",
                _clips(any(one.videos for one in architectures)),
            ]
        )
    return table(["family", "saliency", "clips in the library", "on vLLM", "clips on vLLM"], rows)


def _clips(pruned: bool) -> str:
    return "pruned" if pruned else "–"
