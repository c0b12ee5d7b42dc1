"""What pruning has to know of an architecture of vLLM."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["VISION_CHUNK", "Architecture", "HubFormat"]

VISION_CHUNK = "vision_chunk"
"""vLLM's modality of a model that takes images and chunks of videos alike."""


@dataclass(frozen=True, kw_only=True)
class HubFormat:
    """A format of checkpoints that is the hub's own, see `adafv.integrations.vllm.hub_format`.

    Attributes:
        config: transformers' class of its configuration.
        reader: one of `hub_format.READERS`, by whose names its configuration says the same.
        placeholder: the token that vLLM repeats in the place of a marker.
        markers: texts that stand for an image, or a video, in a prompt, by modality.
        tiles: its images have tiles, which may lie otherwise than in transformers.
        chat_in_parts: the chat template of its tokenizer takes messages in parts.
    """

    config: str
    reader: str
    placeholder: str
    markers: Mapping[str, str]
    tiles: bool = False
    chat_in_parts: bool = False


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A model class of vLLM, and what pruning has to know of it.

    Attributes:
        name: of the pruned class that takes its place.
        title: what people call the model.
        module, model: of vLLM's own class; the module is below `vllm.model_executor.models`.
        family: its `model_type` in `adafv.families`.
        about: what else there is to say of it.
        mrope: kept tokens have the rows and columns of the dense image (M-RoPE).
        marker: the attribute of the processor that names the token which stands for an image in a
            prompt, before vLLM repeats placeholders. Empty: the placeholder itself stands for it.
        hub: the format of its checkpoints, where vLLM reads one of the hub's own. None: vLLM
            reads that of transformers.
        structure: tokens that are no visual tokens may stand between those of one image.
        weights: prefixes of weights as transformers 5 writes them, where vLLM reads other ones.
        videos: its videos are pruned, too.
        merged_frames: how many frames of a video become one, before the language model reads it.
        normalizes: the processor has to normalize pixels. vLLM leaves that to the tower unless
            told otherwise, and this model's tower does not do it.
        tower: path of its vision tower, where that is a module of transformers. Empty: it is one
            of vLLM's own.
        per_image: inputs with a row for each image, which vLLM would share out by patches.
        sorts: vLLM sorts images by how many patches they have before the tower sees them.
        in_front: vLLM puts the one image of a prompt in front of it, and a line break behind it;
            nothing in the prompt stands for the image.
        routes: ids say which experts read a token, see `adafv.integrations.vllm.routing`.
        vision_chunks: vLLM takes its images and chunks of videos as one modality, and its
            processor is vLLM's own, without a chat template. Images are pruned, chunks are not.
        encodes_by_rank: each rank can encode images of its own
            (`--mm-encoder-tp-mode data`): nothing behind the tower is shared out among ranks.
    """

    name: str
    title: str
    module: str
    model: str
    family: str
    about: str = ""
    mrope: bool = False
    marker: str = ""
    hub: HubFormat | None = None
    structure: bool = False
    weights: Mapping[str, str] = field(default_factory=dict)
    videos: bool = False
    merged_frames: int = 1
    normalizes: bool = False
    tower: str = ""
    per_image: tuple[str, ...] = ()
    sorts: bool = False
    in_front: bool = False
    routes: bool = False
    vision_chunks: bool = False
    encodes_by_rank: bool = True

    @property
    def modalities(self) -> tuple[str, ...]:
        """Return what is pruned of a prompt, images first, by vLLM's names."""
        if self.vision_chunks:
            return (VISION_CHUNK,)
        return ("image", "video") if self.videos else ("image",)

    def multi_modal_data(self, image: Any) -> dict[str, Any]:
        """Return a prompt's one image as vLLM takes it."""
        if self.vision_chunks:
            return {VISION_CHUNK: [{"type": "image", "image": image, "uuid": None}]}
        return {"image": image}
