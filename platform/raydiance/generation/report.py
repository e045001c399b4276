"""The report of a pipeline: one HTML page that holds all it shows, for light and dark screens, without a
script.
"""

import base64
import mimetypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from raydiance.metrics import frechet_name
from raydiance.storage import Artifact

__all__ = ["Command", "StageRow", "write_report"]

Points = Sequence[tuple[float, float]]

# metric -> (what it is called, how it is written)
NAMES = {
    "psnr_held_out": ("PSNR", "{:.1f} dB"),
    "ssim_held_out": ("SSIM", "{:.3f}"),
    "fd_views": ("fd_views", "{:.3g}"),
    "fid": ("FID", "{:.3g}"),
    "fd_ratio": ("of direct sampling", "{:.0%}"),
    "denoising_loss": ("loss", "{:.3f}"),
    "gate_passed": ("gate", "{:.0f}"),
    "model_version": ("version", "{:.0f}"),
}
SETS = {
    "diffusion": "Latent diffusion",
    "direct": "Direct latent sampling",
    "reconstruction": "Reconstructed training objects",
}
FIGURES = {
    "distances": "The views of three sets of objects against the views of the real ones. Reconstructions are "
    "about the nearest that any latent can come.",
    "latents": "Diffusion is trained on latents of about unit size: their values, and how their variance is "
    "spread.",
    "plans": "Every sampling plan that was tried. The line joins those that none beats in both quality and "
    "speed.",
}
SAMPLES_INTRO = "Drawn one after the other, none chosen. The same seed gives the same object again."
QUALITY_INTRO = (
    "fd_views is a score in a feature network of our own: it compares runs with each other and is not the FID of "
    "papers. Lower distances and MMD are better, higher coverage is, and 1-NNA is best at 50 %."
)
LINEAGE_INTRO = (
    "Each sample carries its bundle, plan and seed; from there the manifests lead back to the meshes."
)
PICTURES = {
    "reconstructions": "Views that were never trained on: the truth above, the reconstruction below.",
    "nearest": "Samples above, below each the training object whose shape is nearest.",
}
HIDDEN = ("duration_s",)


@dataclass(frozen=True)
class StageRow:
    """A stage as the report tells of it: how long it took, what it made and found, where its run is, a note."""

    name: str
    seconds: float
    artifact: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    run_url: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Command:
    """One way to go on."""

    purpose: str
    line: str


def write_report(
    path: Path,
    *,
    title: str,
    stages: Sequence[StageRow],
    evaluation: Artifact,
    bundle: Artifact,
    gate: Sequence[Mapping[str, object]] = (),
    turntable: Path | None = None,
    views: Path | None = None,
    losses: Mapping[str, Points] | None = None,
    commands: Sequence[Command] = (),
) -> None:
    """Write the page. turntable: .mp4 or .webp of one sample; views: a sheet of it; losses: (step, value) by
    name.
    """
    metrics: Mapping[str, float] = evaluation.read_json("metrics.json")
    total = sum(stage.seconds for stage in stages)
    body = [
        _hero(metrics, turntable),
        _samples(evaluation, views),
        _stages(stages, total),
        _quality(evaluation, gate),
        _figures(evaluation, losses or {}),
        _lineage(evaluation, bundle),
        _commands(commands),
    ]
    page = Template(files("raydiance.generation").joinpath("report.html").read_text(encoding="utf-8"))
    text = page.substitute(
        title=escape(title),
        lead=f"From meshes to samples in {_duration(total)}: {len(stages)} stages, "
        "each an artifact with a manifest.",
        body="\n".join(part for part in body if part),
        footer=f"Made by Raydiance {escape(bundle.manifest.code_version)}. "
        "This page holds everything it shows and loads nothing.",
    )
    path.write_text(text, encoding="utf-8")


def _hero(metrics: Mapping[str, float], turntable: Path | None) -> str:
    frechet = frechet_name(metrics)
    numbers = [
        (
            "Reconstruction",
            f"{metrics['psnr_held_out']:.1f} <small>dB PSNR</small>",
            "views never trained on",
        ),
        ("Structure", f"{metrics['ssim_held_out']:.3f} <small>SSIM</small>", "the same views"),
        (
            "Samples to real objects",
            f"{metrics[frechet]:.3g} <small>{frechet}</small>",
            f"direct latent sampling: {metrics[f'{frechet}_direct']:.3g}",
        ),
        (
            "Speed",
            f"{metrics['nfe']:.0f} <small>network calls</small>",
            f"{metrics['seconds_per_sample']:.2g} s per sample",
        ),
    ]
    rows = "".join(
        f"<div><dt>{name}</dt><dd>{value}</dd><dd>{note}</dd></div>" for name, value, note in numbers
    )
    listed = f'<dl class="numbers">{rows}</dl>'
    if turntable is None:
        return f'<section class="hero plain">{listed}</section>'
    return f'<section class="hero"><figure class="sheet">{_moving(turntable)}</figure>{listed}</section>'


def _samples(evaluation: Artifact, views: Path | None) -> str:
    parts = [_sheet(evaluation.path("samples.png"), "Samples of the model, with their seeds")]
    if views is not None:
        parts.append(_sheet(views, "One sample from several sides"))
    page = evaluation.path("samples.html").read_text(encoding="utf-8")
    parts.append(
        '<iframe class="hide-print" title="Samples to turn" loading="lazy" sandbox="allow-scripts" '
        f'srcdoc="{escape(page)}"></iframe>'
    )
    return _section("Samples", SAMPLES_INTRO, f'<div class="stack">{"".join(parts)}</div>')


def _stages(stages: Sequence[StageRow], total: float) -> str:
    longest = max((stage.seconds for stage in stages), default=1.0)
    rows = []
    for stage in stages:
        name = escape(stage.name)
        link = f'<a href="{escape(stage.run_url)}">{name}</a>' if stage.run_url else name
        width = 100 * stage.seconds / max(longest, 1e-9)
        rows.append(
            f'<tr><td>{link}<span class="bar" style="width:{width:.1f}%"></span></td>'
            f'<td class="n">{_duration(stage.seconds)}</td><td>{_told(stage.metrics)}{_noted(stage.note)}</td>'
            f'<td class="hide"><code>{escape(stage.artifact)}</code></td></tr>'
        )
    head = '<th>Stage</th><th class="n">Time</th><th>Found</th><th class="hide">Made</th>'
    return _section("How it was made", f"{_duration(total)} in all.", _table(head, rows))


def _noted(note: str) -> str:
    return f'<br><span class="soft">{escape(note)}</span>' if note else ""


def _quality(evaluation: Artifact, gate: Sequence[Mapping[str, object]]) -> str:
    sets = evaluation.read_json("sets.json")
    frechet = frechet_name(sets[0])
    columns = (
        (frechet, NAMES[frechet][0], "{:.3g}"),
        ("coverage", "Coverage", "{:.0%}"),
        ("nearest_neighbour_accuracy", "1-NNA", "{:.0%}"),
        ("minimum_matching_x1e3", "MMD x1000", "{:.2f}"),
    )
    head = "<th>Objects</th>" + "".join(f'<th class="n">{label}</th>' for _, label, _ in columns)
    rows = []
    for row in sets:
        cells = "".join(f'<td class="n">{form.format(row[name])}</td>' for name, _, form in columns)
        first = ' class="first"' if row["set"] == "diffusion" else ""
        rows.append(f"<tr{first}><td>{SETS.get(row['set'], escape(row['set']))}</td>{cells}</tr>")
    pictures = "".join(
        f"<figure>{_sheet(evaluation.path(f'{name}.png'), caption)}"
        f"<figcaption>{caption}</figcaption></figure>"
        for name, caption in PICTURES.items()
    )
    return _section(
        "How good it is",
        QUALITY_INTRO,
        _table(head, rows),
        _gate(gate),
        f'<div class="stack">{pictures}</div>',
    )


def _gate(gate: Sequence[Mapping[str, object]]) -> str:
    if not gate:
        return ""
    items = "".join(
        f'<li class="{"good" if row["passed"] else "bad"}">{escape(str(row["metric"]))} '
        f"{_number(row['found'])}, {escape(str(row['rule']))} {_number(row['bound'])}</li>"
        for row in gate
    )
    return f'<p class="soft">The gate to the champion\'s place</p><ul class="gate">{items}</ul>'


def _figures(evaluation: Artifact, losses: Mapping[str, Points]) -> str:
    from raydiance.generation import figures

    drawn = []
    for name, points in losses.items():
        light, dark = figures.svg_pair(figures.curves({name: points}, "loss"))
        drawn.append(_figure(light, dark, f"Loss of {name}."))
    for name, caption in FIGURES.items():
        if f"figures/{name}-light.svg" in evaluation.files:
            light, dark = (
                evaluation.path(f"figures/{name}-{palette}.svg").read_text(encoding="utf-8")
                for palette in ("light", "dark")
            )
            drawn.append(_figure(light, dark, caption, wide=name == "latents"))
    return _section("Figures", "", f'<div class="pair">{"".join(drawn)}</div>')


def _figure(light: str, dark: str, caption: str, *, wide: bool = False) -> str:
    sources = [f"data:image/svg+xml;base64,{_base64(text.encode())}" for text in (light, dark)]
    return (
        f'<figure{" class=wide" if wide else ""}><picture><source media="(prefers-color-scheme: dark)" '
        f'srcset="{sources[1]}"><img src="{sources[0]}" alt="{escape(caption)}"></picture>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _lineage(evaluation: Artifact, bundle: Artifact) -> str:
    facts = [
        ("Bundle", bundle.ref.key),
        ("SHA-256", bundle.ref.sha256),
        ("Evaluation", evaluation.ref.key),
        ("Code", bundle.manifest.code_version),
        ("Made", bundle.manifest.created.replace("T", " ").partition(".")[0] + " UTC"),
        ("Store", bundle.store.url),
    ]
    rows = "".join(f"<dt>{name}</dt><dd><code>{escape(value)}</code></dd>" for name, value in facts)
    return _section("Where it comes from", LINEAGE_INTRO, f'<dl class="plain">{rows}</dl>')


def _commands(commands: Sequence[Command]) -> str:
    if not commands:
        return ""
    items = "".join(
        f'<p class="soft">{escape(command.purpose)}</p><pre>{escape(command.line)}</pre>'
        for command in commands
    )
    return _section("How to go on", "", items)


def _section(title: str, intro: str, *parts: str) -> str:
    lead = f'<p class="intro">{intro}</p>' if intro else ""
    return f"<section><h2>{title}</h2>{lead}{''.join(parts)}</section>"


def _table(head: str, rows: Sequence[str]) -> str:
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _sheet(path: Path, alt: str) -> str:
    return f'<div class="sheet">{_image(path, alt)}</div>'


def _told(metrics: Mapping[str, float]) -> str:
    """The first figures of a stage, those with a name before the others."""
    shown = [name for name in metrics if name not in HIDDEN]
    shown.sort(key=lambda name: list(NAMES).index(name) if name in NAMES else len(NAMES))
    texts = []
    for name in shown[:2]:
        label, form = NAMES.get(
            name, (name.replace("_", " "), "{:,.0f}" if metrics[name] >= 1000 else "{:.4g}")
        )
        texts.append(f'<span class="soft">{escape(label)}</span>&nbsp;{form.format(metrics[name])}')
    return ", ".join(texts)


def _moving(path: Path) -> str:
    if path.suffix == ".mp4":
        return f'<video autoplay loop muted playsinline src="{_data_uri(path)}"></video>'
    return _image(path, "A sample, turning")


def _image(path: Path, alt: str) -> str:
    return f'<img src="{_data_uri(path)}" alt="{escape(alt)}">'


def _data_uri(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{_base64(path.read_bytes())}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "missing"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
