"""Raydiance: distributed experiments in latent 3D diffusion, from meshes to a served, traceable sample."""

import os

__all__ = ["__version__"]

__version__ = "0.1.0"

# torch reads this at its first operation. With its kernels for AVX-512 a sample's bytes depend on what else is in
# its batch, with those for AVX2 they do not (docs/log.md, "Another processor, other bytes").
os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")
