"""Merging in one pass at the speed of memory: kernels compiled by Numba, with the bits of the PyTorch path."""
