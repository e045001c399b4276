"""The report is one page that is whole: well-formed, self-contained, and true to the figures it is given."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from tests.generation.test_evaluate import SPEC
from tests.support.stages import stage_artifacts

from raydiance.fields import write_png
from raydiance.generation import Command, PublishSpec, StageRow, evaluate, publish, write_report
from raydiance.storage import Store
from raydiance.tracking import MemoryTracker, local_run

VOID = {"meta", "img", "source", "br", "link", "input"}


class Outline(HTMLParser):
    """Checks that tags close in order; keeps headings, sources and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.scripts += tag == "script"
        self.addresses += [value or "" for name, value in attrs if name in ("src", "srcset", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    store = Store.open(folder / "store")
    inputs = stage_artifacts(store)
    evaluation = evaluate(SPEC, local_run(store, inputs=inputs))
    inputs.pop("render")
    inputs["evaluate"] = evaluation.artifact
    bundle = publish(PublishSpec(name="tiny"), local_run(store, inputs=inputs, tracker=MemoryTracker()))
    sheet = folder / "views.png"
    write_png(sheet, np.full((8, 8, 3), 200, np.uint8))
    write_report(
        folder / "report.html",
        title="Chairs & <tables>",
        stages=[
            StageRow(
                "train_autodecoder", 95.0, "autodecoder/a-1", {"duration_s": 95.0, "psnr_held_out": 24.26}
            ),
            StageRow(
                "evaluate", 4.25, evaluation.artifact.ref.key, evaluation.metrics, "http://127.0.0.1:5000/#/x"
            ),
        ],
        evaluation=evaluation.artifact,
        bundle=bundle.artifact,
        gate=bundle.tables["gate"],
        views=sheet,
        losses={"autodecoder": [(1.0, 0.5), (10.0, 0.1)]},
        commands=[Command("Ask for one", "curl -d '{\"seed\": 7}' http://127.0.0.1:8000/v1/samples > a.glb")],
    )
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    parser.close()
    return parser


def test_the_page_is_well_formed_and_has_no_script(outline: Outline) -> None:
    assert outline.open == []
    assert outline.scripts == 0


def test_the_page_loads_nothing(outline: Outline) -> None:
    """Only links that a reader may follow lead out of it."""
    outside = [address for address in outline.addresses if not address.startswith("data:")]
    assert outside == ["http://127.0.0.1:5000/#/x"]
    assert len(outline.addresses) >= 10


def test_what_it_is_given_stands_in_it_escaped(page: str, outline: Outline) -> None:
    assert "Chairs &amp; &lt;tables&gt;" in page
    for text in ("Chairs & <tables>", "24.3 dB", "1 min 39 s", "autodecoder/a-1", "> a.glb", "psnr_held_out"):
        assert text in outline.text
    assert "duration" not in outline.text


def test_each_figure_exists_for_light_and_for_dark(page: str) -> None:
    assert page.count('media="(prefers-color-scheme: dark)"') == 4  # loss, distances, latents, plans
    assert "prefers-color-scheme: dark" in page[: page.index("</style>")]


def test_the_page_is_plain_where_nothing_optional_is_given(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    inputs = stage_artifacts(store)
    evaluation = evaluate(SPEC, local_run(store, inputs=inputs)).artifact
    write_report(tmp_path / "r.html", title="T", stages=[], evaluation=evaluation, bundle=evaluation)
    text = (tmp_path / "r.html").read_text()
    parser = Outline()
    parser.feed(text)
    assert "How to go on" not in parser.text
    assert not re.search(r"\$\w", parser.text)
