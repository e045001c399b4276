"""How well and how fast fields are fitted: 64^3 from 50 views of 128^2, 8 more held out.

    python benchmarks/fit_fields.py [MESH.glb ...] [--threads 2] [--resolution 64]

Without files two procedural pieces of furniture are taken. For each mesh: PSNR of the held-out views over white,
wall and CPU seconds of the fit, and the surface taken from the field beside the true one. The last line is
one JSON object.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import torch
import trimesh
from scipy.spatial import KDTree

from raydiance.data.furniture import generate
from raydiance.data.ingest import into_unit_ball
from raydiance.data.meshes import Mesh
from raydiance.data.raycast import render_mesh
from raydiance.data.render import RenderSpec, camera_arrays, held_out_views, spiral
from raydiance.data.sandbox import read_mesh
from raydiance.errors import DataError
from raydiance.fields import extract_mesh
from raydiance.training.fitting import FieldFit, PosedImages, fit_field, held_out_psnr

VIEWS = RenderSpec(size=128, num_views=58, held_out_every=7, supersample=3)
ASKED = {"psnr": 28.0, "wall_s": 60.0}


def surface_distance(found: trimesh.Trimesh, mesh: Mesh) -> float:
    """Mean distance from 5000 points of the found surface to the true one, in units of the unit ball."""
    true = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    points, _ = trimesh.sample.sample_surface(found, 5_000, seed=0)
    truth, _ = trimesh.sample.sample_surface(true, 200_000, seed=1)
    return float(KDTree(truth).query(points)[0].mean())


def measure(mesh: Mesh, fit: FieldFit) -> dict[str, object]:
    """Fit one mesh and tell what came of it."""
    mesh, _, _ = into_unit_ball(mesh, 0.95)
    cameras, held_out = spiral(VIEWS), list(held_out_views(VIEWS))
    rgba = torch.from_numpy(render_mesh(mesh, camera_arrays(cameras), supersample=VIEWS.supersample).rgba)
    views = PosedImages(rgba, cameras)
    train = [view for view in range(len(cameras)) if view not in held_out]
    wall, cpu = time.perf_counter(), time.process_time()
    fitted = fit_field(views[train], fit, seed=0)
    row: dict[str, object] = {
        "wall_s": round(time.perf_counter() - wall, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "steps": fitted.steps,
        "psnr": round(float(held_out_psnr(fitted, views[held_out]).mean()), 2),
    }
    try:
        found = extract_mesh(fitted.field, iso=0.35 / min(fitted.field.cell_size), fill_cavities=True)
    except DataError:
        return {**row, "surface": None, "watertight": False}
    return {
        **row,
        "surface": round(surface_distance(found, mesh), 4),
        "watertight": bool(found.is_watertight),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("meshes", nargs="*", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument(
        "--tight", action="store_true", help="a box round the object in place of the unit box"
    )
    parser.add_argument("--undershoot", type=float, default=FieldFit().undershoot)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    fit = FieldFit(resolution=arguments.resolution, tight=arguments.tight, undershoot=arguments.undershoot)
    sources = {path.stem: path for path in arguments.meshes} or {"chair": None, "sofa": None}
    rows = {}
    for name, path in sources.items():
        rows[name] = measure(read_mesh(path) if path else generate(name, 3), fit)
        print(f"{name:34s}", *(f"{key} {value}" for key, value in rows[name].items()), flush=True)
    result = {
        "benchmark": "fit_fields",
        "machine": f"{platform.machine()}, {arguments.threads} threads, load {os.getloadavg()[0]:.1f}",
        "rows": rows,
        "psnr_mean": round(float(np.mean([row["psnr"] for row in rows.values()])), 2),
        "asked": ASKED,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
