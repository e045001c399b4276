"""Raydiance: distributed experiments in latent 3D diffusion, from meshes to a served, traceable sample."""

import os

__all__ = ["__version__"]

__version__ = "0.1.0"

# torch reads this at its first operation. Its kernels for AVX-512 treat the ends of a tensor otherwise than its
# middle, so that a sample's bytes would depend on what else is in its batch; those for AVX2 do not.
os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")
