"""A Sphinx extension: every notebook's page shows the executor's run of it, never an older one and never none.

Before Sphinx reads anything, whatever has no run of its present code is executed. A notebook's source is then replaced
by itself with that run's outputs, and with where they came from under each figure and at the foot.
"""

import contextlib
import filecmp
import hashlib
import json
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError

from lib.chapter.claims import claims_table
from lib.chapter.records import Recorded, measured, provenance_line, recorded
from tools.chapters import ROOT, Chapter, Run, chapters, run_all


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", offer_buttons)
    app.connect("builder-inited", run_what_is_missing)
    app.connect("env-get-outdated", pages_with_a_new_run)
    app.connect("source-read", show_run)
    return {"version": "1", "env_version": 1, "parallel_read_safe": True, "parallel_write_safe": True}


def offer_buttons(app: Sphinx, config: Config) -> None:
    """Links to the repository and to Colab, where the repository's address is known."""
    options = config.html_theme_options
    if options.get("repository_url"):
        options |= {f"use_{kind}_button": True for kind in ("repository", "edit_page", "issues")}
        options["launch_buttons"] = {"colab_url": "https://colab.research.google.com"}


def run_what_is_missing(app: Sphinx) -> None:
    """Execute each notebook that has no run of its present code. A failed one fails the build."""
    failed = run_all([Run(chapter) for chapter in chapters()], quiet=True)
    if failed:
        raise ExtensionError("\n".join(f"{receipt['chapter']} failed: {receipt['error']}" for receipt in failed))


def pages_with_a_new_run(app: Sphinx, env: BuildEnvironment, added: set, changed: set, removed: set) -> list[str]:
    """The pages that Sphinx read with another run, or with other recorded results, than there are now.

    And the first page where a style sheet has changed: Sphinx copies those only where it has a page to write.
    """
    for docname in removed:
        (Path(app.outdir) / f"{docname}.html").unlink(missing_ok=True)
    outdated = [name for name in env.found_docs - added if env.metadata[name].get("book_run") != _identity(app, name)]
    styles = [path for folder in app.config.html_static_path for path in (Path(app.confdir) / folder).glob("*")]
    copied = Path(app.outdir) / "_static"
    same = all(
        (copied / path.name).exists() and filecmp.cmp(path, copied / path.name, shallow=False) for path in styles
    )
    return outdated if same or outdated else [app.config.root_doc]


def show_run(app: Sphinx, docname: str, source: list[str]) -> None:
    """Give a notebook the outputs of its run, cell by cell."""
    identity, run = _identity(app, docname), _run(app, docname)
    if identity is None:
        return
    notebook = with_outputs(json.loads(source[0]), json.loads(run.executed.read_text(encoding="utf-8")))
    source[0] = json.dumps(with_provenance(notebook, run.chapter.name))
    app.env.metadata[docname]["book_run"] = identity


def with_outputs(notebook: dict[str, Any], executed: dict[str, Any]) -> dict[str, Any]:
    """The notebook with the executed one's outputs.

    Raises:
        ExtensionError: where a cell of the two does not hold the same code.
    """
    by_id = {cell["id"]: cell for cell in executed["cells"]}

    def filled(cell: dict[str, Any]) -> dict[str, Any]:
        if cell["cell_type"] != "code":
            return cell
        ran = by_id.get(cell["id"])
        if ran is None or "".join(ran["source"]) != "".join(cell["source"]):
            raise ExtensionError(f"the run of cell {cell['id']!r} had other code than the page; run the chapter again")
        return cell | {"outputs": ran["outputs"], "execution_count": ran["execution_count"]}

    return notebook | {"cells": [filled(cell) for cell in notebook["cells"]]}


def with_provenance(notebook: dict[str, Any], name: str) -> dict[str, Any]:
    """The notebook with its numbers' origin under each figure and at its foot, and a banner where code changed."""
    with contextlib.chdir(ROOT):
        runs = {"quick": measured(name), "paper": recorded(name)}
    cells = []
    for cell in notebook["cells"]:
        cells.append(cell)
        run = runs[cell["metadata"].get("book", {}).get("scale", "quick")]
        if run is not None and any(map(_is_figure, cell.get("outputs", []))):
            cells.append(_markdown(f"{cell['id']}-provenance", f":::{{div}} provenance\n{_origin(run, name)}\n:::"))
    if runs["paper"] is not None:
        if not runs["paper"].fresh:
            cells.insert(1, _markdown("book-banner", BANNER))
        cells.append(_markdown("book-paper", PAPER.format(table=claims_table(runs["paper"].claims))))
    if runs["quick"] is not None:
        lines = "\n".join(f"* {_origin(run, name)}" for run in runs.values() if run is not None)
        cells.append(_markdown("book-foot", FOOT.format(name=name, lines=lines)))
    return notebook | {"cells": cells}


BANNER = """:::{warning}
The code has changed since this chapter's run at paper scale was recorded: what is marked as paper scale was made by
the earlier code. All else on this page was made by the code as it is.
:::"""

PAPER = """:::{{admonition}} The claims at the paper's own sizes
:class: note dropdown
<div class="pst-scrollable-table-container">{table}</div>
:::"""

FOOT = """:::{{admonition}} Where these numbers come from
:class: note provenance
{lines}

`make chapter NAME={name}` repeats the first of these runs, with `SCALE=paper` that at the paper's own sizes.
:::"""


def _is_figure(output: dict[str, Any]) -> bool:
    """A picture, or one that the reader moves."""
    data = output.get("data", {})
    return "image/png" in data or 'class="slider"' in "".join(data.get("text/html", ""))


def _origin(run: Recorded, name: str) -> str:
    folder = "_build/results" if run.scale == "quick" else "book/results"
    data = f" · {{download}}`data behind the figure </{folder}/{run.scale}/{name}.npz>`" if run.arrays else ""
    return f"{run.scale.capitalize()} scale · {provenance_line(run.provenance)}{data}"


def _markdown(identifier: str, text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": identifier, "metadata": {}, "source": text}


def _run(app: Sphinx, docname: str) -> Run:
    return Run(Chapter(Path(app.env.doc2path(docname))))


def _identity(app: Sphinx, docname: str) -> str | None:
    """What tells a page's run, and how this file shows it, from any other; None for a page that is no notebook."""
    if Path(app.env.doc2path(docname)).suffix != ".ipynb":
        return None
    parts = _run(app, docname).receipt.read_bytes(), Path(__file__).read_bytes()
    return hashlib.sha256(b"\0".join(parts)).hexdigest()
