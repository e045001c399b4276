"""Mesh files: GLB written here to the letter of glTF 2.0, PLY, OBJ and STL through trimesh, and a viewer
page.

glTF wants +Y up and linear colours; meshes here are +Z up and sRGB-encoded. The other formats keep +Z.
"""

import base64
import io
import json
import struct
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import trimesh

__all__ = ["export_glb", "export_html", "export_mesh", "srgb_to_linear"]

Array = NDArray[Any]
FLOAT, UNSIGNED_SHORT, UNSIGNED_INT = 5126, 5123, 5125  # glTF component types
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963


def srgb_to_linear(encoded: Array) -> Array:
    """Linear light of sRGB-encoded values in [0, 1]. IEC 61966-2-1."""
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def export_glb(
    mesh: "trimesh.Trimesh",
    path: str | Path | None = None,
    *,
    extras: Mapping[str, Any] | None = None,
    unlit: bool = True,
) -> bytes:
    """The mesh as GLB, written to the path if one is given; the same mesh always gives the same bytes.

    Colours of vertices become COLOR_0, linear with 16 bits a channel; a baked texture is embedded as PNG.
    extras: JSON, kept as asset.extras. unlit: a field's colours hold their light already, so viewers that
    know KHR_materials_unlit show them as they are.
    """
    from trimesh.visual import TextureVisuals

    builder = _Glb()
    attributes = {
        "POSITION": builder.accessor(_y_up(mesh.vertices), FLOAT, "VEC3", ARRAY_BUFFER, bounds=True),
        "NORMAL": builder.accessor(_y_up(_unit_normals(mesh)), FLOAT, "VEC3", ARRAY_BUFFER),
    }
    texture: dict[str, Any] = {}
    if isinstance(mesh.visual, TextureVisuals):
        uv = np.asarray(mesh.visual.uv, "<f4") * np.array([1, -1], "<f4") + np.array(
            [0, 1], "<f4"
        )  # v downwards
        attributes["TEXCOORD_0"] = builder.accessor(uv, FLOAT, "VEC2", ARRAY_BUFFER)
        texture = {
            "images": [{"bufferView": builder.view(_png(mesh.visual.material)), "mimeType": "image/png"}],
            "samplers": [{"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}],
            "textures": [{"source": 0, "sampler": 0}],
        }
    else:
        attributes["COLOR_0"] = builder.accessor(
            _linear_colours(mesh), UNSIGNED_SHORT, "VEC4", ARRAY_BUFFER, normalized=True
        )
    indices = np.asarray(mesh.faces, "<u4").reshape(-1)
    material: dict[str, Any] = {
        "name": "field",
        "doubleSided": not mesh.is_watertight,
        "pbrMetallicRoughness": {
            "baseColorFactor": [1.0, 1.0, 1.0, 1.0],
            "metallicFactor": 0.0,
            "roughnessFactor": 1.0,
        },
    }
    if texture:
        material["pbrMetallicRoughness"]["baseColorTexture"] = {"index": 0}
    if unlit:
        material["extensions"] = {"KHR_materials_unlit": {}}
    primitive = {
        "attributes": attributes,
        "indices": builder.accessor(indices, UNSIGNED_INT, "SCALAR", ELEMENT_ARRAY_BUFFER),
        "material": 0,
    }
    data = builder.finish(
        {
            "asset": {"version": "2.0", "generator": "raydiance", "extras": dict(extras or {})},
            **({"extensionsUsed": ["KHR_materials_unlit"]} if unlit else {}),
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0, "name": "field"}],
            "meshes": [{"name": "field", "primitives": [primitive]}],
            "materials": [material],
            **texture,
        }
    )
    if path is not None:
        Path(path).write_bytes(data)
    return data


def export_mesh(
    mesh: "trimesh.Trimesh", path: str | Path, *, extras: Mapping[str, Any] | None = None
) -> None:
    """Write .glb, .ply, .obj, .stl (which holds no colours) or .html, as the path's suffix says."""
    from trimesh.visual import TextureVisuals

    path = Path(path)
    kind = path.suffix.lower()
    if kind == ".glb":
        export_glb(mesh, path, extras=extras)
    elif kind == ".html":
        path.write_text(export_html(mesh, title=path.stem), encoding="utf-8")
    elif kind == ".obj" and isinstance(mesh.visual, TextureVisuals):
        from trimesh.exchange.obj import export_obj

        text, parts = export_obj(  # type: ignore[no-untyped-call]
            mesh, return_texture=True, mtl_name=f"{path.stem}.mtl"
        )
        path.write_text(text, encoding="utf-8")
        for name, part in parts.items():
            path.with_name(name).write_bytes(part)
    elif kind in (".ply", ".obj", ".stl"):
        mesh.export(path, file_type=kind[1:])
    else:
        raise ValueError(f"cannot write a mesh as {path.name}: choose .glb, .ply, .obj, .stl or .html")


def export_html(mesh: "trimesh.Trimesh", *, title: str = "Raydiance") -> str:
    """One page that shows the mesh in its colours and lets one turn it; it needs no network."""
    vertices = np.asarray(mesh.vertices, "<f4")
    parts = {
        "positions": vertices.tobytes(),
        "colours": np.ascontiguousarray(_colours(mesh)[:, :3]).tobytes(),
        "indices": np.asarray(mesh.faces, "<u4").tobytes(),
    }
    centre = (vertices.min(0) + vertices.max(0)) / 2
    radius = float(np.linalg.norm(vertices - centre, axis=1).max())
    value = {
        "centre": centre.tolist(),
        "radius": radius,
        **{name: base64.b64encode(part).decode() for name, part in parts.items()},
    }
    page = files("raydiance.fields").joinpath("viewer.html").read_text(encoding="utf-8")
    return page.replace("{{title}}", escape(title)).replace("{{mesh}}", json.dumps(value))


def _y_up(vectors: Array) -> Array:
    """(x, y, z) with +Z up -> (x, z, -y) with +Y up, float32."""
    turned: Array = np.asarray(vectors, np.float32)[:, [0, 2, 1]] * np.array([1, 1, -1], "<f4")
    return turned


def _unit_normals(mesh: "trimesh.Trimesh") -> Array:
    """Vertex normals of unit length; +Z where faces have no area, because glTF allows no zero normal."""
    normals = np.array(mesh.vertex_normals, np.float32)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.where(length > 0.5, normals / np.maximum(length, 1e-12), np.array([0, 0, 1], np.float32))


def _colours(mesh: "trimesh.Trimesh") -> Array:
    """uint8 sRGB [N, 4] of the vertices."""
    from trimesh.visual import ColorVisuals

    if not isinstance(mesh.visual, ColorVisuals):
        raise ValueError("the mesh has a texture, where colours of its vertices are wanted")
    return np.asarray(mesh.visual.vertex_colors, np.uint8)


def _linear_colours(mesh: "trimesh.Trimesh") -> Array:
    encoded = _colours(mesh) / 255
    linear = np.concatenate((srgb_to_linear(encoded[:, :3]), encoded[:, 3:]), axis=1)
    return np.round(linear * 65535).astype("<u2")


def _png(material: Any) -> bytes:
    stream = io.BytesIO()
    material.image.save(stream, format="PNG")
    return stream.getvalue()


class _Glb:
    """Collects accessors over one binary buffer."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def accessor(
        self,
        values: Array,
        component: int,
        kind: str,
        target: int,
        *,
        normalized: bool = False,
        bounds: bool = False,
    ) -> int:
        """Append values and return the index of their accessor."""
        view = self.view(np.ascontiguousarray(values).tobytes())
        self.views[view]["target"] = target
        accessor: dict[str, Any] = {
            "bufferView": view,
            "componentType": component,
            "count": len(values),
            "type": kind,
        }
        if normalized:
            accessor["normalized"] = True
        if bounds:
            accessor |= {"min": values.min(0).tolist(), "max": values.max(0).tolist()}
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def view(self, data: bytes) -> int:
        """Append bytes, at a multiple of four, and return the index of their view."""
        self.buffer += bytes(-len(self.buffer) % 4)
        self.views.append({"buffer": 0, "byteOffset": len(self.buffer), "byteLength": len(data)})
        self.buffer += data
        return len(self.views) - 1

    def finish(self, tree: dict[str, Any]) -> bytes:
        """The whole file: header, JSON chunk, binary chunk."""
        tree |= {
            "accessors": self.accessors,
            "bufferViews": self.views,
            "buffers": [{"byteLength": len(self.buffer)}],
        }
        text = json.dumps(tree, separators=(",", ":"), allow_nan=False).encode()
        text += b" " * (-len(text) % 4)
        binary = bytes(self.buffer) + bytes(-len(self.buffer) % 4)
        total = 12 + 8 + len(text) + 8 + len(binary)
        chunks = (
            struct.pack("<II", len(part), kind) + part
            for part, kind in ((text, 0x4E4F534A), (binary, 0x004E4942))
        )
        return struct.pack("<III", 0x46546C67, 2, total) + b"".join(chunks)
