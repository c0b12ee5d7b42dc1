"""The spec that tells the model what to keep of an image; it travels with the image's pixels."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from adafv.core.pruner import Pruner
from adafv.integrations.vllm.architecture import VISION_CHUNK
from adafv.integrations.vllm.options import pruner_of

__all__ = ["FIELD", "FIELDS", "PruneSpec", "PruneSpecs", "Specs", "without_specs"]

FIELD = "adafv"
FIELDS = {"image": FIELD, "video": "adafv_video", VISION_CHUNK: "adafv_chunk"}
"""Under which a spec travels with the pixels of its image or video, by vLLM's modality."""


@dataclass(frozen=True)
class PruneSpec:
    """All that decides which visual tokens of an image are kept: equal specs, equal tokens.

    A video counts as an image. What the prompt says of the dense image is known once it is
    prepared, and goes with it: not part of the hash.

    Attributes:
        image: hash of the image itself.
        method, keep, tokens: see `adafv.core.config.PruneConfig`; the method is a spec.
        text_ids: the question's text tokens (M,), where the method looks at them.
        structure: tokens between the image's visual tokens, see
            `adafv.integrations.vllm.structure`.
        before, behind: ids before its first visual token, and behind its last.
        token, count: the id of its visual tokens, and how many there are; 0 where all are kept.
    """

    image: str
    method: str = "none"
    keep: float | None = 1.0
    tokens: int | None = None
    text_ids: tuple[int, ...] = ()
    structure: tuple[tuple[int, int], ...] = ()
    before: tuple[int, ...] = ()
    behind: tuple[int, ...] = ()
    token: int = 0
    count: int = 0

    @property
    def dense(self) -> bool:
        """Return whether every token of the image is kept."""
        return self.method == "none"

    @cached_property
    def hash(self) -> str:
        """Return the image's identity in vLLM's caches.

        An image of which everything is kept has its own, as without this plugin.
        """
        if self.dense:
            return self.image
        alone = PruneSpec(self.image, self.method, self.keep, self.tokens, self.text_ids)
        return hashlib.sha256(alone._bytes()).hexdigest()

    @property
    def pruner(self) -> Pruner:
        """Return the method at its budget."""
        return pruner_of(self.method, self.keep, self.tokens)

    def tensor(self) -> Tensor:
        """Return the spec as bytes (n,) uint8, to travel with the pixels."""
        return torch.frombuffer(bytearray(self._bytes()), dtype=torch.uint8)

    @classmethod
    def read(cls, tensor: Tensor) -> "PruneSpec":
        """Return the spec that `tensor` wrote."""
        values = json.loads(tensor.numpy().tobytes())
        # JSON knows lists only, and a spec has to be hashable
        for name in ("text_ids", "before", "behind"):
            values[name] = tuple(values[name])
        values["structure"] = tuple(map(tuple, values["structure"]))
        return cls(**values)

    def _bytes(self) -> bytes:
        # not `asdict`, which copies a long question word by word
        return json.dumps({one.name: getattr(self, one.name) for one in fields(self)}).encode()


Specs = Mapping[str, Sequence[PruneSpec]]
"""The specs of a prompt's images, and of its videos where they are pruned."""


@dataclass(frozen=True)
class PruneSpecs:
    """The specs of a prompt, by modality, and the hashes of everything in it."""

    of: Specs
    hashes: Mapping[str, list[str]]


def without_specs(kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], Specs]:
    """Return the options without the specs, and the specs by modality."""
    rest = dict(kwargs)
    specs = rest.pop(FIELD, None)
    return rest, specs.of if specs else {}
