"""Handwritten digits: 1797 real images of 8 x 8 pixels that come with scikit-learn, so nothing is downloaded.

They stand in the place of latents, which is what the training of a denoiser and the search for its plans read.
"""

import torch
from safetensors.torch import save_file

from raydiance.data.latents import RobustStatistics
from raydiance.errors import ConfigError
from raydiance.spec import spec, to_plain
from raydiance.storage import write_json
from raydiance.tracking import Outcome, Run

__all__ = ["DigitsSpec", "digits"]

WHITE = 16.0  # ink is told in whole numbers from 0 to this


@spec
class DigitsSpec:
    """How many images, 0 for all, and how they lie in a tensor.

    `dims` = 2: one channel of 8 x 8 pixels. 1: the rows are 8 channels of 8 pixels, so that a network whose
    convolutions run along a row sees whole columns at once: the cheapest network of equal quality.
    """

    num_images: int = 0
    dims: int = 1

    def __post_init__(self) -> None:
        if self.dims not in (1, 2):
            raise ValueError(
                f"dims must be 1 (rows are channels) or 2 (pixels of one channel), got {self.dims}"
            )
        if self.num_images and self.num_images < 2:
            raise ValueError(f"num_images must be 0 (all) or at least 2, got {self.num_images}")


def digits(spec: DigitsSpec, run: Run) -> Outcome:
    """The digits as an artifact of kind "latents", raw ink 0 .. 16 that normalises to -1 .. 1.

    latents.safetensors holds "latents" [N, 8, 8] or [N, 1, 8, 8], "center" and "scale" [1]; latents.json the
    label of each image.
    """
    run.tracker.log_params(to_plain(spec))
    from sklearn.datasets import load_digits  # seconds to import, which every other job would spend in vain

    found = load_digits()
    images, labels = torch.from_numpy(found.images).float(), found.target.tolist()
    count = spec.num_images or len(images)
    if count > len(images):
        raise ConfigError(
            f"digits.num_images = {count}, but there are {len(images)} images: 0 takes them all"
        )
    images, labels = images[:count], labels[:count]
    statistics = RobustStatistics(torch.full((1,), WHITE / 2), torch.full((1,), WHITE / 2))
    raw = images if spec.dims == 1 else images[:, None]
    with run.store.create("latents", run.name, spec=spec, seeds={"seed": run.seed}) as draft:
        tensors = {"latents": raw.contiguous(), "center": statistics.center, "scale": statistics.scale}
        save_file(tensors, draft.path("latents.safetensors"))
        described = {
            "object_ids": [f"digit{i:04d}" for i in range(count)],
            "categories": [str(k) for k in labels],
        }
        write_json(draft.path("latents.json"), described | {"shape": list(raw.shape[1:])})
    metrics = {"images": float(count), "deviation": float(statistics.normalise(raw).std())}
    run.tracker.log_metrics(metrics)
    return Outcome(draft.artifact, metrics)
