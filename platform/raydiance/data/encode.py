"""Encoding: every trained code's latent volume, and the statistics that normalise them."""

import torch
from safetensors.torch import save_file

from raydiance.data.field_latents import FieldEncode, encode_fields
from raydiance.data.latents import RobustStatistics, StatisticsMode
from raydiance.models import Autodecoder, read_autodecoder
from raydiance.spec import spec, to_plain
from raydiance.storage import write_json
from raydiance.tracking import Outcome, Run

__all__ = ["EncodeSpec", "encode", "encode_codes"]


@spec
class EncodeSpec:
    """How latents are put on a common scale: "robust" by median and IQR, "moments" by mean and deviation."""

    statistics: StatisticsMode = "robust"
    per_channel: bool = True
    batch_size: int = 16


def encode(spec: EncodeSpec | FieldEncode, run: Run) -> Outcome:
    """Encode what the spec is for."""
    return encode_codes(spec, run) if isinstance(spec, EncodeSpec) else encode_fields(spec, run)


def encode_codes(spec: EncodeSpec, run: Run) -> Outcome:
    """Latents of all objects of inputs["train_autodecoder"]: artifact kind "latents".

    latents.safetensors holds "latents" [N, C, L, L, L] as generated, "center" and "scale" [C] or
    [1]; latents.json holds the objects' ids, categories and captions in the same order.
    """
    trained = run.inputs["train_autodecoder"]
    run.tracker.log_params(to_plain(spec))
    run.tracker.log_input(trained, "encode")
    described = trained.read_json("spec.json")
    model = read_autodecoder(trained.path("spec.json"), trained.path("weights.safetensors"))
    latents = generate_latents(model, spec.batch_size)
    statistics = RobustStatistics.fit(latents, spec.statistics, per_channel=spec.per_channel)
    normalised = statistics.normalise(latents)
    with run.store.create(
        "latents", run.name, spec=spec, seeds={"seed": run.seed}, parents=[trained.ref]
    ) as draft:
        save_file(
            {"latents": latents, "center": statistics.center, "scale": statistics.scale},
            draft.path("latents.safetensors"),
        )
        write_json(
            draft.path("latents.json"),
            {key: described[key] for key in ("object_ids", "categories")}
            | {"captions": described.get("captions", described["categories"])}
            | {"shape": list(latents.shape[1:])},
        )
    metrics = {
        "deviation": float(normalised.std()),
        "largest": float(normalised.abs().max()),
        "raw_largest": float(latents.abs().max()),
    }
    run.tracker.log_metrics(metrics)
    return Outcome(draft.artifact, metrics)


@torch.no_grad()
def generate_latents(model: Autodecoder, batch_size: int) -> torch.Tensor:
    """G1 of every code: [N, C, L, L, L]."""
    model.eval()
    latents = [model.latent(codes) for codes in torch.split(model.codes.weight, batch_size)]
    return torch.cat(latents).contiguous()  # convolutions may have left the channels last
