"""The page in a real browser, over a real engine; and the built files as they are committed."""

import gzip
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from tests.conftest import find_binary, running
from tests.serving.conftest import SPEC
from tests.support.asking import ask
from tests.support.bundles import tiny_model
from tests.support.chromium import Tab, browsing

from raydiance.generation import load_bundle, sample_glb, write_bundle
from raydiance.serving.assets import SECURITY
from raydiance.serving.keys import ApiKey, key_digest
from raydiance.serving.local import running_here
from raydiance.storage import Artifact, Store

PAGE = Path(__file__).resolve().parents[2] / "platform/raydiance/serving/page"
FIRST_LOAD = ("index.html", "page.css", "app.js", "viewer.js", "icon.svg", "inter.woff2", "mono.woff2")
MAX_FIRST_LOAD_BYTES = 1_000_000
SPEC_HERE = replace(SPEC, slots=8, queue=24)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_built_page_is_of_its_sources_and_unchanged() -> None:
    built = json.loads((PAGE / "dist/built.json").read_text())
    names = [
        "build.mjs",
        "package-lock.json",
        *sorted(f"src/{path.name}" for path in (PAGE / "src").iterdir()),
    ]
    listed = "".join(f"{name}\n{sha256((PAGE / name).read_bytes())}\n" for name in names)
    assert built["sources"] == sha256(listed.encode()), "run `npm ci && npm run build` in serving/page"
    files = {path.name: sha256(path.read_bytes()) for path in (PAGE / "dist").iterdir()}
    assert {name: digest for name, digest in files.items() if name != "built.json"} == built["files"]
    lock = json.loads((PAGE / "package-lock.json").read_text())
    assert not any("resolved" in package for package in lock["packages"].values())


def test_the_first_load_is_small_and_comes_compressed_with_its_tag(app: FastAPI) -> None:
    async def load(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [await client.get("/" if name == "index.html" else f"/page/{name}") for name in FIRST_LOAD]

    responses = ask(app, load)
    assert all(response.status_code == 200 for response in responses)
    raw = sum(len(gzip.compress(response.content)) for response in responses)
    assert raw < MAX_FIRST_LOAD_BYTES
    page, script = responses[0], responses[FIRST_LOAD.index("viewer.js")]
    assert (
        script.headers["content-encoding"] == "gzip" and SECURITY.items() <= dict(page.headers).items()
    ) or all(page.headers[name] == value for name, value in SECURITY.items())
    tag = {"If-None-Match": page.headers["etag"]}
    assert ask(app, lambda client: client.get("/", headers=tag)).status_code == 304
    for wrong in ("/page/none.js", "/page/..%2fapp.py", "/page/%2e%2e/app.py"):
        assert ask(app, lambda client, wrong=wrong: client.get(wrong)).status_code == 404  # type: ignore[misc]


def test_the_page_loads_nothing_from_elsewhere() -> None:
    text = (PAGE / "dist/index.html").read_text() + (PAGE / "dist/page.css").read_text()
    assert "http" not in text.replace("this-address", "")


@pytest.fixture(scope="module")
def captioned(store: Store) -> Artifact:
    return write_bundle(store, "captioned", tiny_model(words=("chair", "red", "blue"), seed=6))


@pytest.fixture(scope="module")
def url(store: Store, artifact: Artifact, captioned: Artifact) -> Iterator[str]:
    with running_here(replace(SPEC_HERE, also=(captioned.ref.key,)), store, artifact.ref) as url:
        yield url


@pytest.fixture(scope="module")
def new_tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Tab]]:
    binary = find_binary("chromium")
    assert binary is not None
    with browsing(binary, tmp_path_factory.mktemp("browser"), running) as new_tab:
        yield new_tab


@pytest.fixture
def tab(new_tab: Callable[[], Tab], url: str) -> Tab:
    tab = new_tab()
    tab.size(1440, 900)
    tab.open(url)
    tab.until("document.querySelector('#health').className === 'dot good'")
    return tab


def shown(tab: Tab) -> str:
    return str(tab.until("document.body.dataset.busy === 'false' && document.body.dataset.shown", 60.0))


@pytest.mark.needs("chromium")
def test_a_visitor_makes_a_sample_turns_it_and_takes_it_along(
    tab: Tab, url: str, artifact: Artifact, tmp_path: Path
) -> None:
    tab.press("Enter")
    name = shown(tab)
    assert name.split("~")[1:] == ["default", "7", "class0"]
    empty = tab.ask("document.querySelector('#empty').hidden")
    assert empty

    still, azimuth = tab.picture(), tab.ask("document.querySelector('#stage').dataset.azimuth")
    tab.drag("#stage", 160, 20)
    tab.until(f"Math.abs(document.querySelector('#stage').dataset.azimuth - {azimuth}) > 0.3")
    assert tab.picture() != still
    turned = tab.ask("document.querySelector('#stage').dataset.azimuth")
    tab.press("ArrowLeft")
    tab.until(f"document.querySelector('#stage').dataset.azimuth < {turned}")

    tab.download_to(tmp_path)
    for kind, start in {"glb": b"glTF", "png": b"\x89PNG"}.items():
        tab.click(f"[data-format={kind}]")
        content = downloaded(tmp_path, kind)
        assert content.startswith(start)
        if kind == "glb":
            bundle = load_bundle(artifact)
            assert content == sample_glb(bundle, 7, "default", category="class0")

    kinds = tab.until("[...document.querySelectorAll('#chain strong')].map(e => e.textContent).slice(1)")
    assert kinds[0] == "Model bundle" and kinds[-2:] == ["Data set", "Code"]
    assert tab.errors == []
    assert all(each.startswith((url, "data:", "blob:")) for each in tab.requests), "nothing from elsewhere"


def change(tab: Tab, field: str, value: str) -> None:
    """Set a field as a visitor does."""
    tab.ask(
        f"(() => {{ const e = document.getElementById({field!r}); e.value = {value!r};"
        " for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind, {bubbles: true})); })()"
    )


def downloaded(folder: Path, kind: str) -> bytes:
    end = time.monotonic() + 20
    while not (found := list(folder.glob(f"*.{kind}"))):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found[0].read_bytes()


@pytest.mark.needs("chromium")
def test_progress_and_previews_are_seen_while_several_samples_are_made(tab: Tab) -> None:
    for field, value in (("count", "3"), ("plan", "ddim"), ("steps", "64")):
        change(tab, field, value)
    tab.click("#go")
    tab.until("document.querySelector('#preview').src.startsWith('data:image/webp')")
    assert "step" in tab.ask("document.querySelector('#status').textContent")
    assert tab.ask("document.querySelectorAll('.tile').length") == 3
    first = shown(tab)
    tab.press("]")
    tab.until(f"document.body.dataset.shown !== '{first}'")
    assert shown(tab).split("~")[2] == "8"
    assert tab.errors == []


@pytest.mark.needs("chromium")
def test_a_visitor_chooses_another_model_and_says_in_words_what_to_make(
    tab: Tab, captioned: Artifact, tmp_path: Path
) -> None:
    assert tab.ask("document.querySelector('#text-field').hidden"), "the first model knows no words"
    change(tab, "which", captioned.ref.key.removeprefix("bundle/"))
    tab.until("!document.querySelector('#text-field').hidden")
    assert tab.ask("document.querySelector('#guidance').disabled"), "there is nothing to lead to yet"
    change(tab, "text", "a red zebra")
    assert "zebra" in tab.ask("document.querySelector('#text-note').textContent")
    change(tab, "guidance", "2")
    tab.click("#go")
    name = shown(tab)
    assert name == f"{captioned.ref.sha256[:12]}~default~7~~2.0~a-red-zebra"
    tab.download_to(tmp_path)
    tab.click("[data-format=glb]")
    expected = sample_glb(load_bundle(captioned), 7, "default", text="a red zebra", guidance=2.0)
    assert downloaded(tmp_path, "glb") == expected
    assert tab.errors == []


@pytest.mark.needs("chromium")
def test_a_visitor_brings_a_shape_and_a_picture_and_takes_along_what_comes_of_them(
    tab: Tab, url: str, tmp_path: Path
) -> None:
    change(tab, "plan", "fast")
    tab.download_to(tmp_path)
    tab.click("#go")
    shown(tab)
    for mode, field, form, told in (
        ("completions", "shape", "latent", "Froma part of a shape"),
        ("reconstructions", "image", "png", "Froma picture"),
    ):
        tab.ask(f"document.querySelector('[name=mode][value={mode}]').click()")
        tab.click("#go")
        tab.until("!document.querySelector('#problem').hidden")
        assert tab.ask("document.activeElement.id") == field, "nothing is brought yet"
        asked = {"seed": 5, "plan": "fast", "format": form, "views": 1, "size": 32}
        made = httpx.post(f"{url}/v1/samples", json=asked, trust_env=False)
        brought = tmp_path / ("a.safetensors" if form == "latent" else "a.png")
        brought.write_bytes(made.content)
        tab.bring(f"#{field}", brought)
        tab.click("#go")
        tab.until(f"document.querySelector('#table').textContent.includes({told!r})", 60.0)
        assert tab.ask("document.querySelector('#copy').hidden"), "an upload is in no name"
        kinds = tab.ask("[...document.querySelectorAll('#chain strong')].map(e => e.textContent)")
        assert kinds[:2] == ["This sample", "Model bundle"]
        tab.click("[data-format=obj]")
        stamp = downloaded(tmp_path, "obj").split(b"\n", 1)[0]
        assert hashlib.sha256(made.content).hexdigest().encode() in stamp
        for path in tmp_path.iterdir():
            path.unlink()
    assert tab.errors == []


@pytest.mark.needs("chromium")
def test_work_that_is_stopped_stops(tab: Tab) -> None:
    tab.ask("document.getElementById('count').value = 8")
    tab.press("Enter")
    tab.until("!document.querySelector('#stop').hidden")
    tab.press("Escape")
    tab.until("document.body.dataset.busy === 'false'", 5.0)


@pytest.mark.needs("chromium")
def test_dark_and_light_follow_the_system_until_the_visitor_chooses(tab: Tab) -> None:
    for scheme in ("dark", "light"):
        tab.prefer(scheme)
        tab.until(f"document.documentElement.dataset.theme === '{scheme}'")
    tab.click("#theme")
    assert tab.ask("document.documentElement.dataset.theme") == "dark"
    tab.ask("localStorage.clear()")


@pytest.mark.needs("chromium")
def test_a_wrong_seed_is_told_beside_the_field(tab: Tab) -> None:
    tab.ask("document.getElementById('seed').value = '-3'")
    tab.click("#go")
    assert "whole number" in tab.ask("document.querySelector('#problem').textContent")
    assert tab.ask("document.querySelector('#seed').getAttribute('aria-invalid')") == "true"
    assert tab.ask("document.querySelectorAll('.tile').length") == 0


@pytest.mark.needs("chromium")
def test_every_control_has_a_name(tab: Tab) -> None:
    nameless = tab.ask(
        "[...document.querySelectorAll('button, input, select')].filter(e => !(e.getAttribute('aria-label')"
        " || e.textContent.trim() || e.labels?.length)).map(e => e.outerHTML)"
    )
    assert nameless == []


@pytest.mark.needs("chromium")
def test_where_a_key_is_needed_the_page_asks_for_it(
    new_tab: Callable[[], Tab], store: Store, artifact: Artifact
) -> None:
    keys = [ApiKey(name="visitor", sha256=key_digest("open sesame"))]
    with running_here(SPEC_HERE, store, artifact.ref, keys) as url:
        tab = new_tab()
        tab.open(url)
        tab.until("document.querySelector('#key-dialog').open")
        tab.ask("document.querySelector('#key').value = 'open sesame'")
        tab.click("#key-form .primary")
        tab.until("document.querySelector('#health').className === 'dot good'")
        tab.press("Enter")
        assert shown(tab).split("~")[2] == "7"
