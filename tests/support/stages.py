"""The artifacts of all stages before `evaluate`, in miniature, made backwards: the views are rendered from
the fields of a random autodecoder, so its reconstructions are perfect and everything that measures them can
be checked.
"""

import torch
from safetensors.torch import save_file
from tests.support.bundles import DECODER, tiny_model

from raydiance.data.latents import RobustStatistics
from raydiance.data.pinholes import ViewArrays
from raydiance.data.views import ViewedObject, ViewsIndex, write_views
from raydiance.fields import VoxelField, render_views, spiral_cameras
from raydiance.models import Autodecoder, save_weights
from raydiance.spec import to_plain
from raydiance.storage import Artifact, Store, write_json
from raydiance.training.randomness import seeded

SIZE, VIEWS, SAMPLES_PER_RAY = 24, 6, 32


def stage_artifacts(
    store: Store, *, num_objects: int = 6, num_test: int = 1, words: tuple[str, ...] = ()
) -> dict[str, Artifact]:
    """Artifacts by stage: render, train_autodecoder, encode, train_diffusion, tune. The last objects are for
    tests.
    """
    generator = torch.Generator().manual_seed(5)
    with seeded(5):
        autodecoder = Autodecoder(DECODER, num_objects)
    model = tiny_model(words=words)
    autodecoder.decoder.load_state_dict(model.decoder.state_dict())
    trained = num_objects - num_test
    with torch.inference_mode():
        latents = 3.0 * torch.randn(num_objects, *DECODER.latent_shape, generator=generator)
        views = _views(store, VoxelField(autodecoder.decode(latents)), trained)
    described = {"object_ids": [f"object{i}" for i in range(trained)], "categories": ["chair"] * trained}
    captions = {"captions": [" ".join(words)] * trained} if words else {}
    artifacts = {"render": views}

    weights = autodecoder.state_dict() | {"codes.weight": autodecoder.codes.weight[:trained]}
    with store.create("autodecoder", "tiny", parents=[views.ref]) as draft:
        save_weights(draft.path("weights.safetensors"), weights)
        write_json(draft.path("spec.json"), {"model": to_plain(DECODER), "num_objects": trained, **described})
    artifacts["train_autodecoder"] = draft.artifact

    raw = latents[:trained].clone()
    statistics = RobustStatistics.fit(raw)
    with store.create("latents", "tiny", parents=[draft.artifact.ref]) as draft:
        save_file(
            {"latents": raw, "center": statistics.center, "scale": statistics.scale},
            draft.path("latents.safetensors"),
        )
        write_json(draft.path("latents.json"), described | captions | {"shape": list(raw.shape[1:])})
    artifacts["encode"] = draft.artifact

    with store.create("denoiser", "tiny", parents=[draft.artifact.ref]) as draft:
        save_weights(draft.path("weights.safetensors"), model.denoiser.state_dict())
        plain = {"model": to_plain(model.spec.denoiser), "sigma_data": 1.0, "classes": ["chair"]}
        plain["words"] = list(words)
        write_json(draft.path("spec.json"), plain)
    artifacts["train_diffusion"] = draft.artifact

    with store.create("plans", "tiny", parents=[draft.artifact.ref]) as draft:
        for name, plan in model.plans.items():
            draft.path(f"plans/{name}.json").write_text(plan.to_json())
        rows = [
            {"plan": plan.name, "nfe": plan.nfe, "error": None if plan.is_stochastic else 1.0 / plan.nfe}
            for plan in model.plans.values()
        ]
        write_json(draft.path("front.json"), {"trials": rows, "front": rows[:1]})
    artifacts["tune"] = draft.artifact
    return artifacts


def _views(store: Store, field: VoxelField, trained: int) -> Artifact:
    cameras = spiral_cameras(VIEWS, size=SIZE, radius=3.0, fov_degrees=40.0)
    seen = render_views(field, cameras, num_samples=SAMPLES_PER_RAY)
    alpha = seen.opacity[..., None]
    straight = ((seen.colour - (1 - alpha)) / alpha.clamp(min=1e-6)).clamp(0, 1)  # over white, so taken back
    rgba = (torch.cat([straight, alpha], dim=-1) * 255).round().to(torch.uint8).numpy()
    depth = (seen.depth / seen.opacity.clamp(min=1e-6)).half().numpy()
    objects = tuple(
        ViewedObject(id=f"object{i}", category="chair", split="train" if i < trained else "test")
        for i in range(len(field))
    )
    index = ViewsIndex(objects=objects, cameras=cameras, held_out=(0, 3))
    with store.create("views", "tiny") as draft:
        write_views(draft.path, index, (ViewArrays(rgba[i], depth[i]) for i in range(len(field))))
    return draft.artifact
