"""A fingerprint changes with what a chapter's numbers depend on, and with nothing else."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lib.chapter import dependencies


def test_the_fingerprint_changes_with_what_the_numbers_depend_on(book):
    notebook = book / "book" / "experiments" / "figure_0.ipynb"
    code, pins = book / "lib" / "code.py", book / "requirements.txt"
    before = dependencies.fingerprint(notebook)

    def after(path, old, new):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        changed = dependencies.fingerprint(notebook)
        path.write_text(text)
        return changed

    assert after(notebook, "y = 2", "y = 3") != before
    assert after(code, "x + 1", "x - 1") != before
    assert after(pins, "0.10.2", "0.10.3") != before
    assert after(code, "What.", "Something else.\n\nAt length.") == before
    assert after(code, "# Why.", "# Because.") == before
    assert after(pins, "0.17.6", "0.17.7") == before
    (book / "lib" / "data").mkdir()
    (book / "lib" / "data" / "images.npz").write_bytes(b"pixels")
    assert dependencies.fingerprint(notebook) != before


@pytest.mark.parametrize(
    ("source", "code"),
    [
        # What stands in a string is no comment, no blank line and no docstring.
        (
            'x = """\n# not a comment\n\n  "nor a docstring"\n"""  # but this\n',
            'x = """\n# not a comment\n\n  "nor a docstring"\n"""',
        ),
        ("x = 'a # b'  # c\n\n\ny = 2\n", "x = 'a # b'\ny = 2"),
        ('x = f"""{1}\n# {x:#x}\n\n{\n\n2}"""\n\ny = 2', 'x = f"""{1}\n# {x:#x}\n\n{\n\n2}"""\ny = 2'),
        ("x = (  # why\n    # and how\n\n    'a'\n    'b'\n)", "x = (\n    'a'\n    'b'\n)"),
        # A string that stands alone computes nothing, unless it is an f-string; what shares its line may.
        ('"""What."""\nx = 1', "x = 1"),
        ('def f(x):\n    r"""What.\n\n    # How.\n    """  # why\n    return x', "def f(x):\n    return x"),
        ("class A:\n    x = 1\n    'What x is.' \\\n    'And why.'\n", "class A:\n    x = 1"),
        ('def f(x): "Doc."; return x', 'def f(x): "Doc."; return x'),
        ('def f(x):\n    "Doc."; return x', 'def f(x):\n    "Doc."; return x'),
        ("f'{print()}'", "f'{print()}'"),
        ("Rf'{print()}'", "Rf'{print()}'"),
        ("b'f' b'f'\nx = 1", "x = 1"),
    ],
)
def test_only_comments_docstrings_and_blank_lines_are_no_code(source, code):
    assert dependencies._code_only(source) == code


@pytest.mark.parametrize(
    "source",
    ['TABLE = """\n# {}\n"""\n', 'def f(x): "Doc."; return x + {}\n'],
    ids=["a hash line in a string", "code on the docstring's line"],
)
def test_what_looks_like_a_comment_but_is_code_counts(book, source):
    notebook, code = book / "book" / "experiments" / "figure_0.ipynb", book / "lib" / "code.py"
    prints = []
    for number in (1, 2):
        code.write_text(source.format(number))
        prints.append(dependencies.fingerprint(notebook))
    assert prints[0] != prints[1]


def test_fingerprints_may_be_taken_in_several_threads(book):
    notebook = book / "book" / "experiments" / "figure_0.ipynb"
    (book / "lib" / "code.py").write_text(
        "\n".join(f"def f{i}(x): return [x + j for j in range({i})]" for i in range(2000))
    )
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(dependencies.fingerprint, [notebook] * 8))) == 1


def test_the_root_is_the_nearest_folder_with_both_files(book):
    assert dependencies.book_root() == book
    (book / "_toc.yml").unlink()
    assert dependencies.book_root() == book / "book" / "experiments"


@pytest.fixture
def house(book):
    """A library of two rooms beside the book, and a function that says whether a change to a file of it is noticed."""
    files = {
        "__init__": "from lib.upper.one import f\nfrom lib.lower.two import g as h\n",
        "upper/__init__": '"""A room."""\n',
        "upper/one": "def f(): return 1\n",
        "upper/alone": "A = 1\n",
        "lower/__init__": "from lib.lower.three import deep\n",
        "lower/two": "def g():\n    from lib.lower import deep\n    return deep()\n",
        "lower/three": "import lib.upper.alone as other\ndef deep(): return other.A\n",
    }
    for name, text in files.items():
        path = (book / "lib" / name).with_suffix(".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    notebook = book / "book" / "experiments" / "figure_0.ipynb"

    def noticed(source):
        """The files of which a change is noticed."""
        cells = [{"cell_type": "code", "id": "a", "source": part} for part in source.split("\n# %%\n")]
        notebook.write_text(json.dumps({"cells": cells}))
        before, found = dependencies.fingerprint(notebook), set()
        for name in (name for name in files if not name.endswith("__init__")):
            path = (book / "lib" / name).with_suffix(".py")
            text = path.read_text()
            path.write_text(text + "CHANGED = 1\n")
            if dependencies.fingerprint(notebook) != before:
                found.add(name)
            path.write_text(text)
        return found

    return noticed


@pytest.mark.parametrize(
    ("source", "files"),
    [
        ("x = 1", ""),
        ("from lib import f", "upper/one"),
        ("import lib\nlib.f()", "upper/one"),
        ("import lib.upper.one\nlib.upper.one.f()", "upper/one"),
        ("import lib as w\nw.upper.alone.A", "upper/alone"),
        ("from lib.upper import alone\nprint(alone)", "upper/alone"),
        ("from lib import h as k", "lower/two lower/three upper/alone"),
        ("import lib\ndef later():\n    return lib.h()", "lower/two lower/three upper/alone"),
        ("import lib\n# %%\nlib.f()", "upper/one"),
        ("def later():\n    return lib.f()\nimport lib", "upper/one"),
        ("from lib import lower\nlower.deep()", "lower/three upper/alone"),
    ],
)
def test_a_chapter_depends_on_the_files_that_it_reaches(source, files, house):
    """By a name that is passed on, through another room, in a function, under another name; and on no other."""
    assert house(source) == set(files.split())


@pytest.mark.parametrize(
    "source",
    [
        "from lib import *",
        "import lib\ngetattr(lib, 'f')()",
        "x = 1\n# %%\n%time x",
        "import lib as w\nvars(w)",
        "import lib\nx = lib.lower",
        "import importlib\nimportlib.import_module('lib.upper.one')",
        "__import__('lib.upper.one')",
        "exec('import lib')",
        "import sys\nsys.modules['lib'].f()",
        "get_ipython().run_line_magic('run', 'x.py')",
    ],
)
def test_a_chapter_whose_names_nobody_can_follow_depends_on_all_files(source, house):
    assert len(house(source)) == 4


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("import f\n", "import g as f\n"),
        ("import f\n", "import f\nA = 1\n"),
        ("import f\n", "import f\ndef f(): return 99\n"),
        ("import f\n", "import f\nfrom lib.lower.two import g as f\n"),
        ("from lib.upper.one import f\n", "try:\n    from lib.nowhere import f\nexcept ImportError:\n    f = 1\n"),
        ("from lib.upper.one import f\n", "from .upper.one import f\n"),
        ("from lib.upper.one import f\n", "def __getattr__(name): return 1\n"),
    ],
)
def test_what_a_package_makes_of_a_name_counts(old, new, house, book):
    """Another function of the same file, whatever it computes by itself; seen by the process that saw it before."""
    notebook, package = book / "book" / "experiments" / "figure_0.ipynb", book / "lib" / "__init__.py"
    notebook.write_text(json.dumps({"cells": [{"cell_type": "code", "id": "a", "source": "from lib import f"}]}))
    before, text = dependencies.fingerprint(notebook), package.read_text()
    package.write_text(text + "\n__version__ = '2'  # and a comment\n")
    assert dependencies.fingerprint(notebook) == before
    assert old in text
    package.write_text(text.replace(old, new))
    assert dependencies.fingerprint(notebook) != before


def test_any_data_beside_the_code_counts(book):
    notebook = book / "book" / "experiments" / "figure_0.ipynb"
    before = dependencies.fingerprint(notebook)
    (book / "lib" / "table.json").write_text("[1]")
    assert dependencies.fingerprint(notebook) != before


def test_what_the_books_own_chapters_reach():
    """Its claims each that makes some; all files the page on how the house is built alone; and one of kernels no loop
    that trains a network."""
    root = dependencies.book_root(Path(__file__).parent)

    def files(stem):
        (notebook,) = (root / "book").rglob(f"{stem}.ipynb")
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        found, _ = dependencies.reached(code, root)
        return {path.relative_to(root / "lib").as_posix() for path in found}

    everything = {path.relative_to(root / "lib").as_posix() for path in (root / "lib").rglob("*.py")}
    for path in (root / "book").rglob("*.ipynb"):
        assert "chapter/claims.py" in files(path.stem) or "Claims(" not in path.read_text(encoding="utf-8"), path
        assert (files(path.stem) == everything) == (path.stem == "how_this_is_built"), path
    assert "gp/prediction.py" in files("gaussian_process_view")
    assert "training/loop.py" not in files("infinite_width")
