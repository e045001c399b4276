"""Encoding for diffusion on fields themselves: a change of scale, and no network."""

from typing import Annotated

import torch
from annotated_types import Ge, Lt
from safetensors.torch import save_file

from raydiance.data.fieldsets import FieldCode, FieldSet
from raydiance.errors import DataError
from raydiance.spec import spec, to_plain
from raydiance.storage import write_json
from raydiance.tracking import Outcome, Run

__all__ = ["FieldEncode", "encode_fields"]


@spec
class FieldEncode:
    """How fields become data of diffusion: see data.fieldsets.FieldCode."""

    margin: Annotated[float, Ge(0), Lt(0.5)] = 0.1


def encode_fields(spec: FieldEncode, run: Run) -> Outcome:
    """The training objects' fields of inputs["fit"]: artifact kind "latents", as data.encode writes it."""
    fitted = run.inputs["fit"]
    run.tracker.log_params(to_plain(spec))
    run.tracker.log_input(fitted, "encode")
    found = FieldSet.of(fitted, "train")
    if not found:
        raise DataError(f"{fitted.ref.key}: none of its objects is for training; fit more objects")
    fields = list(found)
    code = FieldCode.fit(fields, spec.margin)
    latents = torch.cat([code.encode(field) for field in fields])
    raw = code.statistics.denormalise(latents).contiguous()
    with run.store.create("latents", run.name, spec=spec, parents=[fitted.ref]) as draft:
        statistics = {"center": code.statistics.center, "scale": code.statistics.scale}
        save_file({"latents": raw, **statistics}, draft.path("latents.safetensors"))
        described = {"object_ids": found.ids, "categories": [str(row["category"]) for row in found.rows]}
        shape = {"shape": list(raw.shape[1:]), "margin": spec.margin}
        write_json(draft.path("latents.json"), described | shape)
    solid = float((raw[:, 0] > spec.margin).float().mean())
    metrics = {"objects": float(len(found)), "solid_share": solid, "largest": float(latents.abs().max())}
    run.tracker.log_metrics(metrics)
    return Outcome(draft.artifact, metrics)
