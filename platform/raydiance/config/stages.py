"""The stages of a pipeline and the earlier ones each of them reads."""

__all__ = ["STAGES"]

STAGES: dict[str, tuple[str, ...]] = {
    "ingest": (),
    "render": ("ingest",),
    "train_autodecoder": ("render",),
    "encode": ("train_autodecoder",),
    "train_diffusion": ("encode", "train_autodecoder"),
    "tune": ("train_diffusion", "encode"),
    "evaluate": ("train_autodecoder", "encode", "train_diffusion", "tune", "render"),
    "publish": ("train_autodecoder", "encode", "train_diffusion", "tune", "evaluate"),
}
