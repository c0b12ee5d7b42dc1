"""The two pretrained halves, as stock classes."""

from transformers import Dinov2Model, LlamaForCausalLM, PreTrainedTokenizerFast

from training.photo.places import CACHE

__all__ = ["language_model", "tokenizer", "tower"]


def tower() -> Dinov2Model:
    return Dinov2Model.from_pretrained(CACHE / "parts/tower", attn_implementation="sdpa").eval()


def language_model() -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(CACHE / "parts/lm", attn_implementation="sdpa").eval()


def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(CACHE / "parts/lm")
