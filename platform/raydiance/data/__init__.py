"""What comes in: furniture, meshes read safely, views rendered from them, shards, latents encoded."""

__all__: list[str] = []
