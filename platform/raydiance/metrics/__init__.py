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
from raydiance.metrics.registry import EXTRACTORS, ImageExtractor, extractor, image_set_scores
from raydiance.metrics.vgg import VggPyramid, read_vgg

__all__ = [
    "EXTRACTORS",
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
    "chamfer_distances",
    "extractor",
    "frechet_distance",
    "frechet_spread",
    "gaussian_frechet_distance",
    "image_set_scores",
    "inception_score",
    "jensen_shannon",
    "kernel_distance",
    "masked_psnr",
    "precision_recall",
    "psnr",
    "read_inception",
    "read_lpips",
    "read_vgg",
    "set_scores",
    "ssim",
    "view_features",
]
