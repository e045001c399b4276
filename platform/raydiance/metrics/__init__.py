"""Metrics of images, of sets of images and of sets of shapes."""

from raydiance.metrics.features import FEATURES, FEATURES_NAME, ViewFeatures, view_features
from raydiance.metrics.frechet import (
    KernelDistance,
    frechet_distance,
    frechet_spread,
    gaussian_frechet_distance,
    kernel_distance,
)
from raydiance.metrics.geometry import SetScores, chamfer_distances, set_scores
from raydiance.metrics.image import psnr, ssim

__all__ = [
    "FEATURES",
    "FEATURES_NAME",
    "KernelDistance",
    "SetScores",
    "ViewFeatures",
    "chamfer_distances",
    "frechet_distance",
    "frechet_spread",
    "gaussian_frechet_distance",
    "kernel_distance",
    "psnr",
    "set_scores",
    "ssim",
    "view_features",
]
