"""Kernels for decoder layers on a CPU: `decoder_layer` (the arithmetic and its backward pass), `fused` (the layers)."""
