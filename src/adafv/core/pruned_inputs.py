"""Inputs of encoded images, that `generate` may be given any number of times.

For beams and several answers `generate` repeats the images of each prompt, and writes that into the
outputs of encoders that it was given.
"""

from collections.abc import Iterator, Mapping
from copy import copy
from typing import Any

from transformers.utils import ModelOutput

from adafv.utils.checks import checked

__all__ = ["PrunedInputs", "PrunedOutputs"]

REPEATED = "pooler_output"
"""The field of an encoder's output that `generate` repeats."""


@checked
class PrunedOutputs(dict[str, ModelOutput]):
    """Outputs of encoders by modality, for `mm_encoder_outputs`, of the tokens that are kept.

    Args:
        outputs: of which it is a copy.
        encoding: number of the encoding that they are of. None: not known any more.
    """

    def __init__(self, outputs: Mapping[str, ModelOutput], encoding: int | None = None) -> None:
        super().__init__(outputs)
        self.encoding = encoding
        self._once = dict(outputs)

    def get(self, modality: str, default: Any = None) -> Any:
        """Return what `generate` may repeat; models read what they are given by item."""
        if modality not in self:
            return default
        return _Repeatable(self, modality, self._once.get(modality, self[modality]))

    def once(self) -> "PrunedOutputs":
        """Return the same without what `generate` has repeated."""
        return PrunedOutputs(self._once, self.encoding)


class _Repeatable:
    """The output of an encoder, of which the first write makes a copy."""

    def __init__(self, outputs: PrunedOutputs, modality: str, output: ModelOutput) -> None:
        vars(self).update(_outputs=outputs, _modality=modality, _output=output, _own=False)

    def __getattr__(self, name: str) -> Any:
        if name == REPEATED and getattr(self._output, name, None) is None:
            raise ValueError(
                "transformers does not repeat the encoded images of this model for beams or "
                "several answers: generate one answer at a time, without beams"
            )
        return getattr(self._output, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not self._own:
            vars(self).update(_output=copy(self._output), _own=True)
            self._outputs[self._modality] = self._output
        setattr(self._output, name, value)


@checked
class PrunedInputs(dict[str, Any]):
    """Inputs of a model that hand out their encoded images as they were, each time anew."""

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        return value.once() if isinstance(value, PrunedOutputs) else value

    def __iter__(self) -> Iterator[str]:
        # without this, ** and dict() would not ask for the items
        return super().__iter__()

    def __or__(self, other: Any) -> "PrunedInputs":  # type: ignore[override]
        return PrunedInputs(super().__or__(other))
