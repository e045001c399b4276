"""Raydiance: distributed experiments in latent 3D diffusion, from meshes to a served, traceable sample."""

__all__ = ["__version__"]

__version__ = "0.1.0"
