"""The numba backend in other processes: no folder for its cache, forked children, many threads."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from raydiance.fields import VoxelField, render, spiral_cameras
from raydiance.fields.threads import for_ranges

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import multiprocessing, torch
from raydiance.fields import VoxelField, render, spiral_cameras
torch.set_num_threads(2)
rays = spiral_cameras(2, size=32, radius=2.5, fov_degrees=50.0).rays().reshape(-1)
grid = torch.rand(1, 4, 4, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
def step(_):
    result = render(VoxelField(grid), rays, num_samples=16, backend="numba").colour
    result.sum().backward()
    return float(result.detach().sum())
if __name__ == "__main__":
    here = step(0)  # the pool of threads is running when the child is forked
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            there, = pool.map(step, [0])
        assert there == here, (method, there, here)
"""


def test_without_a_cache_and_in_children(tmp_path: Path) -> None:
    """Homes and cache folders that cannot be made: compiled for the process only, without a warning."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    (tmp_path / "program.py").write_text(PROGRAM)
    package = ROOT / "platform"
    environment = {
        **os.environ,
        "PYTHONPATH": str(package),
        "NUMBA_CACHE_DIR": str(blocked / "numba"),
        "PYTHONWARNINGS": "error::RuntimeWarning,error::UserWarning",
    }
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


def test_no_folder_means_no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from raydiance.fields import compiling

    blocked = tmp_path / "file"
    blocked.write_text("")
    copy = tmp_path / "package"
    copy.mkdir()
    for name in compiling.SOURCES:
        (copy / name).write_bytes((Path(compiling.__file__).parent / name).read_bytes())
    (copy / "__pycache__").write_text("")  # a file where the folder would be
    monkeypatch.setattr(compiling, "__file__", str(copy / "compiling.py"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(blocked / "numba"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked / "home"))
    assert compiling._cache_folder() is None
    monkeypatch.setattr(compiling, "CACHE_FOLDER", None)
    assert compiling.jit(lambda x: x + 1)(2) == 3
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    folder = compiling._cache_folder()
    assert folder is not None and folder.parent == tmp_path / "home" / "raydiance"


def test_several_threads_may_render_at_once() -> None:
    rays = spiral_cameras(2, size=32, radius=2.5, fov_degrees=50.0).rays().reshape(-1)
    field = VoxelField(torch.rand(1, 6, 6, 6, 4))
    want = render(field, rays, num_samples=16).colour
    got: list[torch.Tensor] = []
    workers = [
        threading.Thread(target=lambda: got.append(render(field, rays, num_samples=16).colour))
        for _ in range(6)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(got) == 6 and all(torch.equal(colour, want) for colour in got)


def test_ranges_cover_everything_once_and_errors_come_out() -> None:
    seen: list[int] = []
    for_ranges(lambda begin, end: seen.extend(range(begin, end)), 103, smallest=7)
    assert sorted(seen) == list(range(103))
    for_ranges(lambda begin, end: seen.extend(range(begin, end)), 0)
    assert len(seen) == 103

    def fail(begin: int, end: int) -> None:
        raise KeyError(begin)

    with pytest.raises(KeyError):
        for_ranges(fail, 103, smallest=7)
