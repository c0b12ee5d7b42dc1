"""Tensors in, tensors out: what methods compute with. PyTorch alone, but for `kernels`."""
