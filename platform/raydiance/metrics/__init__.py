"""Metrics of images, of sets of images and of sets of shapes."""

from raydiance.metrics.features import FEATURES, FEATURES_NAME, ViewFeatures, view_features
from raydiance.metrics.frechet import (
    KernelDistance,
    frechet_distance,
    frechet_spread,
    gaussian_frechet_distance,
    kernel_distance,
)
from raydiance.metrics.geometry import SetScores, chamfer_distances, jensen_shannon, set_scores
from raydiance.metrics.image import masked_psnr, psnr, ssim
from raydiance.metrics.inception import FidInception, read_inception
from raydiance.metrics.manifolds import PrecisionRecall, inception_score, precision_recall
from raydiance.metrics.perceptual import PerceptualDistance, read_lpips
from raydiance.metrics.registry import (
    ImageExtractor,
    frechet_name,
    image_set_scores,
    inception_extractor,
    seeded_extractor,
    trained_extractor,
)
from raydiance.metrics.trained import ViewNetwork, ViewNetworkSpec, read_view_network
from raydiance.metrics.vgg import VggPyramid, read_vgg

__all__ = [
    "FEATURES",
    "FEATURES_NAME",
    "FidInception",
    "ImageExtractor",
    "KernelDistance",
    "PerceptualDistance",
    "PrecisionRecall",
    "SetScores",
    "VggPyramid",
    "ViewFeatures",
    "ViewNetwork",
    "ViewNetworkSpec",
    "chamfer_distances",
    "frechet_distance",
    "frechet_name",
    "frechet_spread",
    "gaussian_frechet_distance",
    "image_set_scores",
    "inception_extractor",
    "inception_score",
    "jensen_shannon",
    "kernel_distance",
    "masked_psnr",
    "precision_recall",
    "psnr",
    "read_inception",
    "read_lpips",
    "read_vgg",
    "read_view_network",
    "seeded_extractor",
    "set_scores",
    "ssim",
    "trained_extractor",
    "view_features",
]
