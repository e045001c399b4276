"""The shape of the house: where which framework may be imported, and that every public surface is exact."""

import ast
import importlib
import pkgutil
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

import raydiance

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "platform" / "raydiance"
MODULES = sorted(PACKAGE.rglob("*.py"))

# framework -> the places under platform/raydiance that may import it
GUESTS = {
    "ray": ("cluster", "tuning", "serving"),
    "mlflow": ("tracking/mlflow_client.py", "tracking/history.py"),
    "hydra": ("config",),
    "omegaconf": ("config",),
    "pydantic": ("config", "serving/schema.py", "serving/uploads.py"),
    "fastapi": ("serving",),
    "starlette": ("serving",),
    "typer": ("cli.py", "cli"),
    "dvc": (),
    "pickle": (),
    "dill": (),
    "marshal": (),
    "shelve": (),
}
PACKAGES = sorted(info.name for info in pkgutil.iter_modules(raydiance.__path__, "raydiance.") if info.ispkg)


def imported_names(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="ascii"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_frameworks_stay_in_their_rooms(path: Path) -> None:
    place = path.relative_to(PACKAGE)
    strangers = {
        name
        for name in imported_names(path) & GUESTS.keys()
        if not any(place == Path(room) or Path(room) in place.parents for room in GUESTS[name])
    }
    assert not strangers, f"{place} imports {sorted(strangers)}"


@pytest.mark.parametrize("package", PACKAGES)
def test_public_surface_is_exact(package: str) -> None:
    """Each name in `__all__` exists, is listed once and sorted; each module of the package lists its own."""
    module = importlib.import_module(package)
    assert list(module.__all__) == sorted(set(module.__all__))
    assert all(hasattr(module, name) for name in module.__all__)
    for info in pkgutil.iter_modules(module.__path__, f"{package}."):
        tree = ast.parse(Path(importlib.util.find_spec(info.name).origin).read_text())
        targets = [node.targets[0] for node in tree.body if isinstance(node, ast.Assign)]
        targets += [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
        assert "__all__" in {target.id for target in targets if isinstance(target, ast.Name)}, info.name


def test_platform_is_the_standard_library() -> None:
    """The source root is called platform; it must never shadow the standard library's module."""
    code = "import platform, sysconfig; assert platform.__file__.startswith(sysconfig.get_path('stdlib'))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert not (ROOT / "platform" / "__init__.py").exists()


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("raydiance", {"ray", "torch", "mlflow", "hydra", "omegaconf", "pydantic"}),
        ("raydiance.client", {"ray", "torch", "mlflow", "hydra", "omegaconf"}),
        ("raydiance.serving.replicas", {"torch", "numba"}),  # loaded without hurry, see there
        ("raydiance.serving.compiled", {"sympy", "torch._dynamo", "aiohttp"}),  # before anything is compiled
    ],
)
def test_import_has_no_side_effect(module: str, without: set[str]) -> None:
    """None of the frameworks comes with the package, and none that only a server needs with its client."""
    code = f"import sys, {module}; print(*sys.modules)"
    environment = {"PYTHONPATH": str(ROOT / "platform"), "PATH": "/usr/bin:/bin"}
    loaded = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    ).stdout.split()
    assert not without & set(loaded)


def test_no_two_test_files_have_one_name() -> None:
    """pytest takes them for one module."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_jobs_are_thin() -> None:
    jobs = sorted((ROOT / "jobs").glob("*.py"))
    assert [job.stem for job in jobs], "no jobs"
    lengths = {job.name: len(job.read_text().splitlines()) for job in jobs}
    assert max(lengths.values()) <= 25, lengths


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_source_is_ascii_and_finished(path: Path) -> None:
    with tokenize.open(path) as file:
        comments = [
            token.string
            for token in tokenize.generate_tokens(file.readline)
            if token.type == tokenize.COMMENT
        ]
    path.read_text(encoding="ascii")
    assert not [comment for comment in comments if "TODO" in comment or "FIXME" in comment]
