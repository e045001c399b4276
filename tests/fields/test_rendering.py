"""One suite for all backends: the torch backend in float64 is the reference."""

import importlib.util
import math
from typing import Any

import pytest
import torch

from raydiance.errors import DataError
from raydiance.fields import (
    Rays,
    Rendering,
    VoxelField,
    rendering,
    spiral_cameras,
    torch_backend,
    triton_backend,
)

GPU = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # TRITON_INTERPRET=1: triton on the CPU
HAS_TRITON = triton_backend.why_not(GPU, torch.float32) is None
BACKENDS = ("torch", "numba", *(["triton"] if HAS_TRITON else []))
BACKGROUND = (0.1, 0.5, 0.9)


@pytest.fixture(autouse=True)
def large_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What interprets the kernels takes as long for a large block as for a small one."""
    if HAS_TRITON and GPU.type == "cpu":
        monkeypatch.setattr(triton_backend, "BLOCK", 1024)


def render(field: VoxelField, rays: Rays, *, backend: Any = "auto", **options: Any) -> Rendering:
    """Render where the backend can; the result comes back to the CPU."""
    device = GPU if backend == "triton" else field.grid.device
    result = rendering.render(field.to(device), rays.to(device), backend=backend, **options)
    parts = (result.colour, result.opacity, result.depth, result.normals)
    return Rendering(*(None if part is None else part.cpu() for part in parts))


def scene(num_objects: int = 3, num_rays: int = 200, degree: int = 0) -> tuple[torch.Tensor, Rays]:
    """A random grid, a third of it empty, and rays from all around; some miss the box."""
    generator = torch.Generator().manual_seed(5)
    grid = torch.rand(num_objects, 7, 6, 9, (4, 13, 28)[degree], generator=generator)
    grid[..., 0] = 6 * (grid[..., 0] - 0.35).clamp(min=0)
    rays = spiral_cameras(12, size=16, radius=2.2, fov_degrees=70.0).rays().reshape(-1)
    pick = torch.randint(0, rays.shape[0], (num_objects, num_rays), generator=generator)
    return grid, rays[pick]


def loss(result: Rendering) -> torch.Tensor:
    total = result.colour.square().sum() + result.opacity.sin().sum() + 0.3 * result.depth.cos().sum()
    if result.normals is not None:  # away from silhouettes, where they turn fast
        total = total + ((result.opacity.detach() > 0.1)[..., None] * result.normals[..., :2]).sum()
    return total


def both(backend: str, grid: torch.Tensor, rays: Rays, **options: Any) -> tuple[Rendering, torch.Tensor]:
    """The rendering and the gradient of the loss with respect to the grid."""
    grid = grid.clone().requires_grad_()
    result = render(VoxelField(grid), rays, backend=backend, background=BACKGROUND, **options)
    loss(result).backward()
    assert grid.grad is not None
    return result, grid.grad


def test_a_function_is_rendered_as_the_grid_that_it_looks_up() -> None:
    grid, rays = scene()
    volume = grid.permute(0, 4, 1, 2, 3)

    def look_up(points: torch.Tensor) -> torch.Tensor:
        found = torch.nn.functional.grid_sample(volume, points.flip(-1)[:, None], align_corners=True)
        return found[:, :, 0].movedim(1, -1)

    jitter = torch.rand(rays.shape, generator=torch.Generator().manual_seed(1))
    options = {"num_samples": 20, "background": BACKGROUND, "jitter": jitter}
    found = rendering.render_function(look_up, rays, **options)
    expected = render(VoxelField(grid), rays, backend="torch", **options)
    for name in ("colour", "opacity", "depth"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("degree", "options"),
    [(0, {}), (0, {"jitter": True}), (0, {"early_stop": 0.02}), (0, {"normals": True}), (1, {}), (2, {})],
    ids=["middle", "jitter", "stop", "normals", "degree 1", "degree 2"],
)
def test_values_and_gradients_match_the_reference(backend: str, degree: int, options: dict[str, Any]) -> None:
    grid, rays = scene(degree=degree)
    options = {"num_samples": 33, **options}
    if "jitter" in options:
        options["jitter"] = torch.rand(3, 200, generator=torch.Generator().manual_seed(1))
    want, want_grad = both("torch", grid.double(), rays.to(torch.float64), **options)
    got, got_grad = both(backend, grid, rays, **options)
    for name in ("colour", "opacity", "depth", *(["normals"] if "normals" in options else [])):
        reference = getattr(want, name)
        assert (getattr(got, name) - reference).abs().max() <= 1e-5 * reference.abs().max()
    assert (got_grad - want_grad).abs().max() <= 1e-4 * want_grad.abs().max()


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_the_reference_passes_gradcheck(degree: int) -> None:
    grid, rays = scene(num_objects=2, num_rays=3, degree=degree)
    grid = grid[: 2 - degree // 2, :2, :2, :2].double().contiguous()
    grid[..., 0] += 0.2  # away from 0, where density has a kink
    target = torch.tensor([[0.3, 0.1, -0.2], [-0.4, 0.2, 0.1], [0.1, -0.3, 0.5]])
    rays = Rays(rays.origins[0], torch.nn.functional.normalize(target - rays.origins[0], dim=-1))

    def run(grid: torch.Tensor, background: torch.Tensor) -> tuple[torch.Tensor, ...]:
        options = {"num_samples": 3, "background": background, "normals": True}
        result = render(VoxelField(grid), rays.to(torch.float64), **options)
        assert result.normals is not None
        return result.colour, result.opacity, result.depth, result.normals

    background = torch.rand(3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(run, (grid.requires_grad_(), background.requires_grad_()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_and_background_make_one(backend: str) -> None:
    grid, rays = scene()
    grid[..., 1:] = 1.0
    result = render(VoxelField(grid), rays, backend=backend, background=0.0)
    torch.testing.assert_close(result.colour, result.opacity[..., None].expand(-1, -1, 3), atol=1e-6, rtol=0)
    whole = render(VoxelField(grid), rays, backend=backend, background=1.0)
    torch.testing.assert_close(whole.colour, torch.ones_like(whole.colour), atol=1e-6, rtol=0)
    assert float(result.opacity.max()) > 0.9 and float(result.opacity.min()) == 0.0


@pytest.mark.parametrize("backend", BACKENDS)
def test_uniform_density_follows_beer_lambert(backend: str) -> None:
    rays = Rays(torch.tensor([[-3.0, 0.1, 0.2]]), torch.tensor([[1.0, 0.0, 0.0]]))
    grid = torch.full((1, 4, 4, 4, 4), 0.7)
    for num_samples in (1, 2, 64):  # splitting a uniform segment changes nothing
        result = render(VoxelField(grid), rays, num_samples=num_samples, backend=backend, background=0.0)
        torch.testing.assert_close(result.opacity, torch.tensor([[1 - math.exp(-1.4)]]))
        torch.testing.assert_close(result.colour, 0.7 * result.opacity[..., None].expand(1, 1, 3))
    mean = 1 / 0.7 - 2 * math.exp(-1.4) / (1 - math.exp(-1.4)) + 2  # of an exponential cut off at length 2
    torch.testing.assert_close(result.depth / result.opacity, torch.tensor([[mean]]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_is_transparent_and_missed_is_background(backend: str) -> None:
    grid, rays = scene()
    empty, gradient = both(backend, torch.cat((torch.zeros_like(grid[..., :1]), grid[..., 1:]), -1), rays)
    assert torch.equal(empty.colour, torch.tensor(BACKGROUND).expand(3, 200, 3))
    assert not empty.opacity.any() and not empty.depth.any() and bool(gradient[..., 0].any())
    away = Rays(rays.origins, rays.origins / rays.origins.norm(dim=-1, keepdim=True))
    missed, gradient = both(backend, grid, away)
    assert torch.equal(missed.colour, torch.tensor(BACKGROUND).expand(3, 200, 3))
    assert not gradient.any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("exponent", [-100.0, -30.0, 0.0, 10.0, 80.0])
def test_finite_at_the_extremes(backend: str, exponent: float) -> None:
    grid, rays = scene()
    grid[..., 0] = math.exp(exponent) * (grid[..., 0] > 0)
    result, gradient = both(backend, grid, rays)
    for tensor in (result.colour, result.opacity, result.depth, gradient):
        assert bool(torch.isfinite(tensor).all())


@pytest.mark.parametrize("backend", BACKENDS)
def test_turning_camera_and_field_together_changes_nothing(backend: str) -> None:
    grid, rays = scene()
    turned = torch.rot90(grid, 1, dims=(1, 2))  # field(x, y) -> field'(-y, x)

    def turn(v: torch.Tensor) -> torch.Tensor:
        return torch.stack((-v[..., 1], v[..., 0], v[..., 2]), dim=-1)

    one = render(VoxelField(grid), rays, backend=backend)
    two = render(VoxelField(turned), Rays(turn(rays.origins), turn(rays.directions)), backend=backend)
    torch.testing.assert_close(one.colour, two.colour, atol=2e-6, rtol=0)
    torch.testing.assert_close(one.depth, two.depth, atol=5e-6, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_rotation_of_camera_and_field_changes_nothing(backend: str) -> None:
    grid, rays = scene(degree=2)
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2)))
    rotation, shift = q * torch.linalg.det(q), torch.tensor([0.3, -2.0, 5.0])
    moved = VoxelField(grid, to_world=torch.cat((rotation, shift[:, None]), dim=1))
    moved_rays = Rays(rays.origins @ rotation.mT + shift, rays.directions @ rotation.mT)
    one = render(VoxelField(grid), rays, backend=backend, normals=True)
    two = render(moved, moved_rays, backend=backend, normals=True)
    torch.testing.assert_close(one.colour, two.colour, atol=2e-5, rtol=0)
    torch.testing.assert_close(one.depth, two.depth, atol=2e-5, rtol=0)
    assert one.normals is not None and two.normals is not None
    solid = one.opacity > 0.3
    torch.testing.assert_close((one.normals @ rotation.mT)[solid], two.normals[solid], atol=1e-3, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_normals_of_a_ball_point_outwards(backend: str, ball_field: VoxelField) -> None:
    rays = spiral_cameras(5, size=12, radius=2.5, fov_degrees=30.0).rays().reshape(-1)
    seen = render(ball_field, rays, num_samples=200, backend=backend, normals=True)
    assert seen.normals is not None
    hit = seen.opacity[0] > 0.99
    surface = rays.origins[hit] + (seen.depth[0, hit] / seen.opacity[0, hit])[:, None] * rays.directions[hit]
    outwards = torch.nn.functional.normalize(surface, dim=-1)
    assert int(hit.sum()) > 100 and float((outwards * seen.normals[0, hit]).sum(-1).min()) > 0.99
    assert not seen.normals[0, seen.opacity[0] == 0].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_colour_of_degree_one_is_linear_in_the_direction(backend: str) -> None:
    grid = torch.zeros(1, 2, 2, 2, 13)
    grid[..., 0], grid[..., 1:4] = 50.0, 0.5
    grid[..., 10] = 0.2 / 0.4886025119029199  # the red coefficient of x
    directions = torch.nn.functional.normalize(torch.randn(20, 3), dim=-1)
    seen = render(VoxelField(grid), Rays(-4 * directions, directions), backend=backend, background=0.0)
    want = torch.stack((0.5 + 0.2 * directions[:, 0], torch.full((20,), 0.5), torch.full((20,), 0.5)), dim=-1)
    torch.testing.assert_close(seen.colour[0], want, atol=1e-5, rtol=0)


def test_pieces_of_the_torch_backend_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    grid, rays = scene()
    want, want_grad = both("torch", grid, rays)
    monkeypatch.setattr(torch_backend, "PIECE_SAMPLES", 3 * 64 * 13)
    for kept in (1 << 24, 0):  # with all that autograd keeps, and with each piece rendered again
        monkeypatch.setattr(torch_backend, "KEPT_SAMPLES", kept)
        got, got_grad = both("torch", grid, rays)
        torch.testing.assert_close(got.colour, want.colour, atol=1e-6, rtol=0)
        torch.testing.assert_close(got_grad, want_grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("degree", [0, 1])
def test_skipping_changes_no_bit(degree: int) -> None:
    grid, rays = scene(degree=degree)
    grid[:, 3:, :, 4:, 0] = 0
    dense = render(VoxelField(grid), rays, backend="numba", skip_empty=False)
    skipped = render(VoxelField(grid), rays, backend="numba", skip_empty=True)
    assert torch.equal(dense.colour, skipped.colour) and torch.equal(dense.depth, skipped.depth)


def test_skipping_is_exact_behind_relu() -> None:
    grid, rays = scene()
    grid[..., 0] -= 1.5
    gradients = []
    for skip_empty in (False, True):
        leaf = grid.clone().requires_grad_()
        active = torch.cat((leaf[..., :1].relu(), leaf[..., 1:]), dim=-1)
        loss(render(VoxelField(active), rays, backend="numba", skip_empty=skip_empty)).backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


def test_one_object_does_not_see_its_batch_nor_its_threads() -> None:
    grid, rays = scene(num_objects=4, num_rays=700)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        batch, gradient = both("numba", grid, rays)
        torch.set_num_threads(1)
        for i in range(4):
            alone, alone_gradient = both("numba", grid[i : i + 1], rays[i : i + 1])
            assert torch.equal(alone.colour[0], batch.colour[i])
            assert torch.equal(alone_gradient[0], gradient[i])
    finally:
        torch.set_num_threads(threads)


def test_shared_rays_are_rays_of_each_object() -> None:
    grid, rays = scene()
    for backend in BACKENDS:
        result = render(VoxelField(grid), rays[1], backend=backend)
        each = render(
            VoxelField(grid),
            Rays(*(v[1].expand(3, -1, -1) for v in (rays.origins, rays.directions))),
            backend=backend,
        )
        assert torch.equal(result.colour, each.colour)


def test_views_come_as_images() -> None:
    grid, _ = scene()
    cameras = spiral_cameras(5, size=6, radius=2.2, fov_degrees=50.0)
    images = rendering.render_views(VoxelField(grid), cameras, [4, 1], background=BACKGROUND)
    assert images.colour.shape == (3, 2, 6, 6, 3) and images.depth.shape == (3, 2, 6, 6)
    one = rendering.render_views(VoxelField(grid[1:2]), cameras, 1, background=BACKGROUND)
    assert one.colour.shape == (1, 1, 6, 6, 3)
    assert torch.equal(one.colour[0, 0], images.colour[1, 1])


def test_a_generator_draws_jitter() -> None:
    grid, rays = scene()
    jitter = torch.rand(3, 200, generator=torch.Generator().manual_seed(9))
    given = render(VoxelField(grid), rays, jitter=jitter)
    drawn = render(VoxelField(grid), rays, generator=torch.Generator().manual_seed(9))
    assert torch.equal(given.colour, drawn.colour)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_field_is_refused_by_name(value: float) -> None:
    grid, rays = scene()
    grid[1, 2, 3, 4, 2] = value
    with pytest.raises(DataError, match=r"\[1, 2, 3, 4, 2\]"):
        render(VoxelField(grid), rays)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_nan_reaches_the_loss_in_training(backend: str) -> None:
    grid, rays = scene()
    grid[:, 2:5, 2:5, 2:5, 0] = math.nan
    result, _ = both(backend, grid, rays, skip_empty=True)
    assert bool(result.colour.isnan().any())


@pytest.mark.skipif(HAS_TRITON, reason="triton can be used here, which the whole suite then does")
def test_triton_is_refused_by_name_where_it_cannot_be() -> None:
    grid, rays = scene()
    with pytest.raises(ValueError, match=r"triton backend cannot be used: .*(not installed|CUDA)"):
        render(VoxelField(grid), rays, backend="triton")


def test_triton_says_what_it_needs() -> None:
    if importlib.util.find_spec("triton") is None:
        assert "not installed" in str(triton_backend.why_not(torch.device("cuda"), torch.float32))
    else:
        assert "float64" in str(triton_backend.why_not(torch.device("cuda"), torch.float64))


@pytest.mark.skipif(not HAS_TRITON, reason="needs triton on a CUDA device, or TRITON_INTERPRET=1")
def test_triton_skips_empty_cells_and_takes_half_precision() -> None:
    grid, rays = scene(num_rays=50)
    grid[:, 3:, :, 4:, 0] = 0
    dense, _ = both("triton", grid, rays, num_samples=17)
    leaf = grid.half().requires_grad_()
    skipped = render(
        VoxelField(grid), rays, backend="triton", num_samples=17, skip_empty=True, background=BACKGROUND
    )
    half = render(VoxelField(leaf), rays, backend="triton", num_samples=17, background=BACKGROUND)
    half.colour.sum().backward()
    assert torch.equal(dense.colour, skipped.colour) and leaf.grad is not None
    assert half.colour.dtype == torch.float32 and leaf.grad.dtype == torch.float16
    torch.testing.assert_close(half.colour, dense.colour, atol=5e-3, rtol=0)


def test_what_does_not_fit_is_refused() -> None:
    grid, rays = scene()
    field = VoxelField(grid)
    with pytest.raises(ValueError, match=r"\[B, N\] with B = 3"):
        render(field, rays[:2])
    with pytest.raises(ValueError, match="jitter needs shape"):
        render(field, rays, jitter=torch.zeros(3, 7))
    with pytest.raises(ValueError, match="num_samples"):
        render(field, rays, num_samples=0)
    with pytest.raises(ValueError, match="float32"):
        render(VoxelField(grid.double()), rays, backend="numba")
    with pytest.raises(ValueError, match="rotation"):
        VoxelField(grid, to_world=2 * torch.eye(3, 4))
    with pytest.raises(ValueError, match=r"\[B, X, Y, Z, 4\]"):
        VoxelField(grid[..., :3])
    with pytest.raises(ValueError, match="lower < upper"):
        VoxelField(grid, lower=(1.0, -1.0, -1.0))
