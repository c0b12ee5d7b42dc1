"""Make a bridge read more layers of the tower, or be of a larger rank, and compute the same."""

from torch import Tensor

__all__ = ["widened"]


def widened(bridge: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a bridge at the shapes of another.

    Args:
        bridge: of the same shapes, or smaller ones.
        own: fresh tensors of a bridge; of a LoRA's `down` (rank, in) the rows beyond those of the
            bridge stay, for where `up` is zero, too, nothing would be learned.
    """
    found = {}
    for name, fresh in own.items():
        trained = bridge[name].to(fresh.dtype)
        wide = fresh.detach().clone()
        if name.endswith(".down"):
            wide[: len(trained)] = trained
        else:
            # columns of a layer that was not read, or of a product that was not there
            wide.zero_()
            wide[..., : trained.shape[-1]] = trained
        found[name] = wide
    return found
