"""The built pages, as files and in a browser: complete without a network, legible everywhere, true to the records."""

import functools
import http.server
import json
import re
import shutil
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import yaml
from bs4 import BeautifulSoup

from lib.chapter.records import recorded
from tools.chapters import Run, chapters

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_build" / "html"
LISTED = re.findall(r"(?:root|file): (\S+)", (ROOT / "_toc.yml").read_text(encoding="utf-8"))
CHAPTERS = [chapter for chapter in chapters() if chapter.has_parameters()]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@functools.cache
def soup(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def page(chapter):
    return soup((SITE / chapter.notebook.relative_to(ROOT)).with_suffix(".html"))


def test_every_page_of_the_table_of_contents_was_built():
    missing = [listed for listed in LISTED if not (SITE / f"{listed}.html").exists()]
    assert not missing, "`make book` builds them"
    assert (SITE / "index.html").exists()


every_page = pytest.mark.parametrize("path", [SITE / f"{listed}.html" for listed in LISTED], ids=lambda path: path.stem)
every_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)


@every_page
def test_a_page_loads_nothing_from_elsewhere(path):
    loading = {
        "script": "src",
        "img": "src",
        "iframe": "src",
        "source": "src",
        "video": "src",
        "embed": "src",
        "object": "data",
    }
    for tag, attribute in loading.items():
        for node in soup(path).find_all(tag, attrs={attribute: True}):
            assert not urlsplit(node[attribute]).netloc, f"{tag} from {node[attribute]}"
    for link in soup(path).find_all("link", href=True):
        assert not urlsplit(link["href"]).netloc or link.get("rel") == ["canonical"], link
    for node in soup(path).find_all(["script", "style"]):
        assert not re.search(r"(url\(|@import|import\(|src\s*=|fetch\()\s*[\"']?(https?:)?//", node.text), node.text[
            :300
        ]
        assert not re.search(r"https?://[^\s\"']*(unpkg|cdn|jsdelivr|googleapis)", node.text), node.text[:300]


def test_styles_load_nothing_from_elsewhere():
    for style in (SITE / "_static").rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style.read_text(encoding="utf-8")), style.name


@every_page
def test_links_within_the_book_lead_somewhere(path):
    for node in soup(path).find_all(href=True) + soup(path).find_all(src=True):
        link = urlsplit(node.get("href") or node.get("src"))
        if link.scheme or link.netloc or node.name in ("base",):
            continue
        target = (path.parent / unquote(link.path)).resolve() if link.path else path
        target = target / "index.html" if target.is_dir() else target
        assert target.exists(), f"{node.name} to {link.geturl()}"
        if link.fragment and target.suffix == ".html":
            assert soup(target).find(id=unquote(link.fragment)), f"no {link.geturl()}"


@every_page
def test_images_are_described_and_figures_numbered(path):
    for image in soup(path).find("article").find_all("img"):
        alternative = image.get("alt", "")
        assert len(alternative.split()) >= 5, f"{image.get('src', '')[:80]}: alt text {alternative!r}"
        assert not re.search(r"\.(png|svg|jpe?g)\b|[0-9a-f]{16}", alternative), alternative
        figure = image.find_parent("figure")
        assert figure is not None, f"an image without a caption: {alternative}"
        assert len(figure.find("figcaption").text.split()) >= 3
        assert re.fullmatch(r"Fig\. \d+ ", figure.find(class_="caption-number").text)


@every_chapter
def test_every_figure_of_a_chapter_is_on_its_page(chapter):
    for cell in chapter.read()["cells"]:
        figure = cell["metadata"].get("mystnb", {}).get("figure")
        of_a_record = cell["metadata"].get("book", {}).get("scale") == "paper"
        if figure and not (of_a_record and recorded(chapter.name) is None):
            drawn = page(chapter).select_one(f"figure#{figure['name']}")
            assert drawn is not None, f"cell {cell['id']} has shown no figure"


@every_page
def test_a_page_shows_no_error_and_no_warning(path):
    article = soup(path).find("article")
    for sign in (".stderr", ".traceback", ".system-message", ".problematic", "[class*=undefined]"):
        found = article.select_one(sign)
        assert found is None, f"{sign}: {found.text[:300]}"


@every_page
def test_buttons_that_need_the_repository_are_there_only_with_its_address(path):
    address = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
    offered = [node["href"] for node in soup(path).find(class_="bd-header-article").find_all("a", href=True)]
    outside = [link for link in offered if urlsplit(link).netloc]
    assert bool(outside) == bool(address), outside


@every_chapter
def test_a_chapter_shows_its_claims_as_recorded(chapter):
    record = json.loads(Run(chapter).result.read_text(encoding="utf-8"))
    (table,) = page(chapter).select(".cell_output table.claims")
    rows = [[cell.text for cell in row.find_all("td")] for row in table.select("tbody tr")]
    assert [row[0] for row in rows] == [claim["name"] for claim in record["claims"]]
    assert [row[1] for row in rows] == [f"{claim['value']:.4g}" for claim in record["claims"]]
    assert {row[-1] for row in rows} == {"yes"}
    assert page(chapter).select_one("table.scales"), "the table paper | quick"


@every_chapter
def test_a_chapter_shows_what_its_claims_gave_at_the_papers_sizes(chapter):
    kept = ROOT / "book" / "results" / "paper" / f"{chapter.name}.json"
    claims = json.loads(kept.read_text(encoding="utf-8"))["claims"] if kept.exists() else []
    rows = page(chapter).select(".admonition table.claims tbody tr")
    assert [row.find("td").text for row in rows] == [claim["name"] for claim in claims]
    assert [row.find_all("td")[-1].text for row in rows] == ["yes" if claim["holds"] else "NO" for claim in claims]


@every_chapter
def test_a_chapter_says_where_its_numbers_come_from(chapter):
    record = json.loads(Run(chapter).result.read_text(encoding="utf-8"))
    foot = page(chapter).select_one(".admonition.provenance")
    for part in (
        record["provenance"]["device"],
        f"jax {record['provenance']['versions']['jax']}",
        f"seed {record['seed']}",
    ):
        assert part in foot.text
    assert f"make chapter NAME={chapter.name}" in foot.text
    for figure in page(chapter).select(".cell_output figure"):
        assert "scale ·" in figure.find_parent(class_="cell").find_next_sibling().text
    arrays = Run(chapter).result.with_suffix(".npz")
    links = page(chapter).select("a.download[href$='.npz']")
    assert bool(links) == arrays.exists()
    for link in links:
        offered = (SITE / chapter.notebook.relative_to(ROOT).parent / link["href"]).resolve()
        with np.load(offered, allow_pickle=False) as arrays:
            assert arrays.files


@every_chapter
def test_the_scorecard_has_each_claim(chapter):
    (scorecard,) = (SITE / f"{listed}.html" for listed in LISTED if listed.endswith("/scorecard"))
    (heading,) = (node for node in soup(scorecard).select("article strong") if node.text == chapter.name)
    assert heading.find_parent("p").select_one(f"a[href$='{chapter.name}.html']")
    shown = [[cell.text for cell in row.find_all("td")] for row in heading.find_next("table").select("tbody tr")]
    claims = json.loads(Run(chapter).result.read_text(encoding="utf-8"))["claims"]
    typeset = lambda name: name.replace("'", "’").replace("|", "∣")
    assert [row[:2] for row in shown[: len(claims)]] == [[typeset(c["name"]), f"{c['value']:.4g} ✓"] for c in claims]


in_a_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)

# The lowest contrast (WCAG) of text against the nearest opaque background behind it, and that text.
CONTRAST = """() => {
  const channel = c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const numbers = color => color.match(/[\\d.]+/g).map(Number);
  const behind = node => {
    for (; node; node = node.parentElement) {
      const color = numbers(getComputedStyle(node).backgroundColor);
      if (color.length < 4 || color[3] > 0.9) return color;
    }
    return [255, 255, 255];
  };
  let worst = [21, ""];
  const written = "p, li, th, td, h1, h2, figcaption, figcaption span, pre span";
  for (const node of document.querySelector("article").querySelectorAll(written)) {
    const text = [...node.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join("");
    if (!text || !node.checkVisibility()) continue;
    const [a, b] = [light(numbers(getComputedStyle(node).color)), light(behind(node))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < worst[0]) worst = [contrast, text];
  }
  return worst;
}"""


# Equations that begin to the left of what their box can scroll to.
CUT = """() => [...document.querySelectorAll("div.math")].filter(box => {
  const left = node => node.getBoundingClientRect().left;
  return [...box.querySelectorAll("mjx-math")].some(equation => left(equation) < left(box) - 1);
}).map(box => box.innerText.slice(0, 60))"""


@pytest.fixture(scope="module")
def address():
    """The built pages, served."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def visit(browser, address, path, width=1280, scheme="light"):
    """An open page, its equations drawn, and what went wrong on the way. It can reach the book's own files only."""
    faults = []
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    context.route(lambda url: not url.startswith((address, "data:", "blob:")), lambda route: route.abort())
    view = context.new_page()
    view.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    view.on("pageerror", lambda error: faults.append(str(error)))
    view.on("requestfailed", lambda request: faults.append(f"not loaded: {request.url}"))
    view.on(
        "response", lambda answer: faults.append(f"{answer.status}: {answer.url}") if answer.status >= 400 else None
    )
    view.goto(address + path.relative_to(SITE).as_posix(), wait_until="load")
    view.evaluate("() => window.MathJax?.startup?.promise")
    return view, faults


@in_a_browser
@every_page
def test_a_page_works_in_a_browser(browser, address, path):
    view, faults = visit(browser, address, path)
    assert not faults
    written = view.locator(".math").count()
    assert view.locator(".math mjx-container").count() >= written, "equations are left as source"
    assert view.locator("mjx-merror, [data-mjx-error]").count() == 0, "equations with an error"
    assert all(view.evaluate("() => [...document.images].map(image => image.naturalWidth > 0)"))
    view.context.close()


@in_a_browser
@every_page
def test_a_page_fits_a_phone_and_its_figures_stay_legible(browser, address, path):
    view, faults = visit(browser, address, path, width=375)
    assert not faults
    assert view.evaluate("() => document.documentElement.scrollWidth") <= 375
    widths = view.evaluate(
        "() => [...document.querySelectorAll('.cell_output figure img')].map(image => image.clientWidth)"
    )
    assert all(width >= 500 for width in widths), "a figure has shrunk with the page; it should scroll"
    cut = view.evaluate(CUT)
    assert not cut, f"equations whose left end cannot be reached: {cut}"
    view.context.close()


@in_a_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@every_page
def test_text_stands_out_from_its_background(browser, address, path, scheme):
    view, _ = visit(browser, address, path, scheme=scheme)
    assert view.evaluate("() => document.documentElement.dataset.theme") == scheme
    contrast, text = view.evaluate(CONTRAST)
    assert contrast >= 4, f"contrast {contrast:.1f}: {text}"
    cards = view.evaluate(
        "() => [...document.querySelectorAll('figure img')].map(i => getComputedStyle(i).backgroundColor)"
    )
    assert set(cards) <= {"rgb(255, 255, 255)"}, "a figure without its white card"
    view.context.close()
