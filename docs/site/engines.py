"""Tables of model families: what the library does with each, what vLLM does, and what not."""

import json
from importlib.resources import files

from writing import table

from adafv.cli.listing import PROVEN_SERVED
from adafv.families import record
from adafv.integrations.vllm.architecture import Architecture
from adafv.integrations.vllm.architectures import ARCHITECTURES
from adafv.integrations.vllm.left_out_architectures import by_reason


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
    return table(["family", "saliency", "videos in the library", "on vLLM", "videos on vLLM"], rows)


def served() -> str:
    """A line for each architecture on vLLM, with what the tests proved of it."""
    proven = json.loads(files("adafv.integrations").joinpath("vllm", "proven.json").read_text())
    rows = []
    for name, checks in proven["architectures"].items():
        proven_here = [word for check, (word, _) in PROVEN_SERVED.items() if check in checks]
        rows.append([ARCHITECTURES[name].title, f"`{name}`", ", ".join(proven_here)])
    return table(["model", "architecture", "proven"], rows)


def left_out() -> str:
    """A line for each reason for which architectures are not pruned on vLLM."""
    rows = [[", ".join(f"`{x}`" for x in names), why] for why, names in by_reason().items()]
    return table(["architecture in vLLM", "why it is not pruned"], rows)


def _clips(pruned: bool) -> str:
    return "pruned" if pruned else "–"
