"""House rules that a script can see, over every file of the repository."""

import ast
import inspect
import json
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[1]


@cache
def tracked():
    """The repository's text files."""
    if not (ROOT / ".git").exists():
        found = [p for p in ROOT.rglob("*") if not {".venv", "_build", ".git"} & set(p.relative_to(ROOT).parts)]
    else:
        command = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        found = [ROOT / line for line in listed.splitlines()]
    return sorted({p for p in found if p.is_file() and p.suffix not in {".npz", ".png"}})


def sources(*folders):
    return [p for p in tracked() if p.suffix == ".py" and p.relative_to(ROOT).parts[0] in folders]


def library():
    return sources("lib")


def notebooks(*folders):
    return [p for p in tracked() if p.suffix == ".ipynb" and (not folders or p.parent.name in folders)]


def code_cells(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [(cell, "".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"]


def name(path):
    return path.relative_to(ROOT).as_posix()


def test_a_module_and_what_is_in_it_have_different_names():
    """Else `from lib import linearity` is a function or a module, as one happened to come first."""
    for path in library():
        defined = {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if hasattr(node, "name")}
        assert path.stem not in defined, name(path)


def test_a_room_holds_no_more_than_one_sees_at_a_glance():
    for room in {path.parent for path in library()}:
        assert len([path for path in room.glob("*.py") if path.stem != "__init__"]) <= 10, name(room)
        assert (room / "__init__.py").exists(), name(room)


@pytest.mark.parametrize("path", library(), ids=name)
def test_the_library_keeps_its_hands_off_and_its_files_short(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"jax\.config|config\.update\(.jax", text), "the library leaves JAX's switches alone"
    assert text.count("\n") <= 300, "a concept is hiding"


@pytest.mark.parametrize("path", library(), ids=name)
def test_the_library_imports_what_it_names_as_needed_and_no_private_names(path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.match(r"[\w-]+", need)[0] for need in project["dependencies"]}
    pages = {"matplotlib", "cycler", "IPython"} if "chapter" in path.parts else set()
    allowed = needed - {"matplotlib", "pillow"} | {"PIL", "lib"} | pages | set(sys.stdlib_module_names)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert all(module.partition(".")[0] in allowed for module in modules), modules
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        private = [part for whole in (*modules, *names) for part in whole.split(".") if re.match("_[a-z]", part)]
        assert not private, f"{private} belong to others"


def test_whatever_computes_shows_an_example():
    import lib

    for public in vars(lib).values():
        home = getattr(public, "__module__", "")
        if inspect.isfunction(public) and not home.startswith("lib.chapter"):
            assert "Example:" in public.__doc__, public.__name__


def test_the_library_is_imported_without_what_few_of_its_functions_use():
    heavy = ("matplotlib", "PIL", "requests", "diffrax", "IPython", "pandas")
    script = f"import sys, lib; print([name for name in {heavy} if name in sys.modules])"
    said = subprocess.run((sys.executable, "-c", script), cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


@pytest.mark.parametrize("path", library(), ids=name)
def test_public_names_are_documented(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{name(path)} does not say what it is"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name(path)}: {node.name} has no docstring"


def test_no_test_looks_at_a_clock():
    """What is slow on one machine is right on all: cost is the benchmarks' business."""
    clock = re.compile(
        r"\b(monotonic|perf_counter|process_time|thread_time|time\.time)\(|\b(time" + "it|elap" + r"sed)\b"
    )
    for path in sources("tests"):
        found = clock.search(path.read_text(encoding="utf-8"))
        assert not found, f"{name(path)}: {found.group()}"


def test_sources_named_in_the_library_are_in_the_bibliography():
    keys = set(re.findall(r"@\w+\{(\w+),", (ROOT / "book" / "references.bib").read_text(encoding="utf-8")))
    for path in library():
        assert set(re.findall(r"`([a-z]+(?:19|20)\d\d[a-z]*)`", path.read_text(encoding="utf-8"))) <= keys, name(path)


def test_no_file_names_a_machine_or_a_registry():
    machine = re.compile(
        r"(?<![\w.])/(?:work|farm|root|home)/\w|[Ii]ndex[-_]url\s*[=:]|https?://[^\s\"']*/"
        + "simple\\b|registry"
        + r"\.npm"
    )
    for path in tracked():
        found = machine.search(path.read_text(encoding="utf-8"))
        assert not found, f"{name(path)}: {found.group()}"


def test_nothing_is_left_for_later_on_a_page():
    """In code Ruff sees it."""
    words = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "X" * 3)))
    for path in tracked():
        if path.suffix in {".ipynb", ".md"}:
            assert not words.search(path.read_text(encoding="utf-8")), name(path)


def test_every_requirement_is_pinned_with_its_hash():
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    pins = {}
    for line in filter(str.strip, text.splitlines()):
        found = re.fullmatch(
            r"([a-z0-9][a-z0-9.-]*)==([^\s;]+)(\s*;[^-]*)?((?:\s+--hash=sha256:[0-9a-f]{64})+)\s*", line
        )
        assert found, line[:100]
        pins[found[1]] = found[2]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(entry for extra in project["optional-dependencies"].values() for entry in extra),
    ]
    named = {re.match(r"[A-Za-z0-9-]+", entry)[0].lower() for entry in wanted} - {project["name"]}
    assert named <= set(pins), f"`make lock` has not been run since {named - set(pins)} came in"
    assert pins["jupyter-book"].startswith("1."), "Jupyter Book 2 does not read _config.yml"


@pytest.mark.parametrize("path", notebooks(), ids=name)
def test_notebooks_are_stored_without_outputs_and_with_names_for_their_cells(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) >= (4, 5)
    assert "papermill" not in notebook["metadata"]
    identifiers = [cell["id"] for cell in notebook["cells"]]
    assert len(set(identifiers)) == len(identifiers)
    for cell, text in code_cells(path):
        assert not cell["outputs"], f"cell {cell['id']} has outputs"
        assert cell["execution_count"] is None, f"cell {cell['id']} has a count"
        lines = [line for line in text.splitlines() if line.strip()]
        assert len(lines) <= 15, f"cell {cell['id']} has {len(lines)} lines"


@pytest.mark.parametrize("path", notebooks("theory", "experiments", "neighbours"), ids=name)
def test_a_chapter_has_its_parameters_its_claims_and_captions(path):
    cells = code_cells(path)
    parameters = [text for cell, text in cells if "parameters" in cell["metadata"].get("tags", [])]
    assert len(parameters) == 1
    values = {}
    exec(parameters[0], {}, values)
    assert values == {"scale": "quick", "seed": 0}
    everything = "\n".join(text for _, text in cells)
    assert f'Claims("{path.stem}", scale=scale, seed=seed)' in everything
    assert ".save(" in everything
    for cell, text in cells:
        page = cell["metadata"].get("mystnb", {})
        if "figure" in page or "image" in page:
            assert set(page["figure"]) >= {"caption", "name"}, (
                f"the figure of cell {cell['id']} has no caption or no name"
            )
            described = "slider(" in text and "alt=" in text  # whose words are tested on the page
            assert described or len(page["image"]["alt"].split()) >= 5, f"cell {cell['id']}: its alt text says nothing"
        if "figure" in page and "recorded(" in text:
            assert cell["metadata"].get("book") == {"scale": "paper"}, f"cell {cell['id']} draws a recorded run"


def test_the_readme_names_the_two_commands_that_ci_runs():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^make (\w+)", readme, re.MULTILINE)[:2] == ["test", "book"]
    assert "make test && make book" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    steps = yaml.safe_load((ROOT / ".github" / "workflows" / "cpu.yml").read_text())["jobs"]["both-commands"]["steps"]
    assert [step["run"] for step in steps if "run" in step][:2] == ["make test", "make book"]


def test_the_readmes_example_runs():
    import jax

    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    names = {"key": jax.random.key(0), "x": jax.random.normal(jax.random.key(1), (3, 4))}
    exec(example.replace("width=2048", "width=64"), names)
    assert names["theta"].shape == (3, 3, 1, 1)
    assert names["k"].ntk.shape == (3, 3)


def test_the_version_is_the_same_everywhere():
    import lib

    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == lib.__version__
    assert metadata.version("wide-networks-book") == lib.__version__, "install it anew: make environment"
    assert f"## [{lib.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_table_of_contents_names_every_page_and_no_other():
    listed = re.findall(r"(?:root|file): (\S+)", (ROOT / "_toc.yml").read_text(encoding="utf-8"))
    pages = [name(p).rpartition(".")[0] for p in tracked() if p.suffix in {".ipynb", ".md"} and "book" in p.parts]
    assert sorted(listed) == sorted(pages)
    assert len({Path(page).name for page in pages}) == len(pages), "results are filed under the name of the notebook"
