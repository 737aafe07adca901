"""What a chapter's numbers depend on: its cells, the files of the library that it reaches, data and packages."""

import ast
import hashlib
import io
import json
import tokenize
from functools import cache
from pathlib import Path
from threading import Lock

PACKAGES = (
    *("jax", "jaxlib", "ml-dtypes", "opt-einsum", "flax", "optax", "diffrax", "equinox", "lineax", "optimistix"),
    *("numpy", "scipy", "pillow", "matplotlib"),
)
# Names by which a source may come by anything at all.
DYNAMIC = ("importlib", "import_module", "__import__", "exec", "eval", "get_ipython", "runpy")

_PARSING = Lock()


def book_root(start: Path | None = None) -> Path:
    """The nearest folder at or above `start` that holds _config.yml and _toc.yml, else `start` (default: here)."""
    start = (start or Path.cwd()).resolve()
    return next(
        (p for p in (start, *start.parents) if (p / "_config.yml").exists() and (p / "_toc.yml").exists()), start
    )


def fingerprint(notebook: Path) -> str:
    """SHA-256 of all that a chapter's numbers depend on, apart from scale and seed.

    These are its code cells, the code (not the comments and docstrings) of the library's files that they reach, the
    embedded data, the pinned versions of the packages that compute, and the reference values in book/reference. A
    recorded run is fresh while this is what it was.
    """
    root = book_root(notebook.parent)
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [(cell.get("id"), "".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"]
    digest = hashlib.sha256()
    for name, source in code:
        digest.update(f"{name}\0{source}\0".encode())
    files, passed_on = reached("\n".join(source for _, source in code), root)
    digest.update("\0".join(sorted(passed_on)).encode())
    packages = [path for path in sorted((root / "lib").rglob("__init__.py")) if _computes(path)]
    for path in (*files, *packages):
        digest.update(f"{path.relative_to(root).as_posix()}\0{_code_only(path.read_text(encoding='utf-8'))}\0".encode())
    for path in (*_data(root / "lib"), *_data(root / "book" / "reference")):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    requirements = root / "requirements.txt"
    for line in requirements.read_text(encoding="utf-8").splitlines() if requirements.exists() else ():
        if line.partition("==")[0] in PACKAGES:
            digest.update(line.rstrip(" \\").encode() + b"\0")
    return digest.hexdigest()


def reached(source: str, root: Path) -> tuple[list[Path], set[str]]:
    """The files of the library that a source runs, what it imports, what that imports, and so on; and on the way which
    name a package passes on as which."""
    packages = _packages(root)
    waiting, files, passed_on = [source], set(), set()
    while waiting:
        found, names = _followed(waiting.pop(), root, packages)
        passed_on |= names
        waiting += [file.read_text(encoding="utf-8") for file in found - files]
        files |= found
    return sorted(files), passed_on


def imported(source: str, root: Path) -> frozenset[Path]:
    """The files of the library that a source names, directly or where a package passes names on.

    The `__init__` that does so counts as nothing of its own. Where names cannot be followed, as in a line of IPython's,
    in `getattr(lib, name)` or `exec`, every file counts.
    """
    return _followed(source, root, _packages(root))[0]


def _packages(root: Path) -> tuple[str, ...]:
    return tuple(path.read_text(encoding="utf-8") for path in sorted((root / "lib").rglob("__init__.py")))


@cache
def _followed(source: str, root: Path, packages: tuple[str, ...]) -> tuple[frozenset[Path], frozenset[str]]:
    """Files, and names that packages pass on, for the packages as they are."""
    names = _Names(root)
    try:
        tree = _parsed(source)
        for node in ast.walk(tree):  # first, for a function may use what is imported below it
            names.note_import(node)
        names.visit(tree)
    except (SyntaxError, _Unfollowed):
        return frozenset((root / "lib").rglob("*.py")), frozenset()
    return frozenset(names.found), frozenset(names.passed_on)


def _computes(package: Path) -> bool:
    """Whether an `__init__` does more than to say what it is and to pass names on."""
    told = lambda node: isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    passes = lambda node: isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "lib"
    named = lambda node: isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("__all__", "__version__")
    body = _parsed(package.read_text(encoding="utf-8")).body
    return not all(told(node) or passes(node) or named(node) for node in body)


def _data(folder: Path) -> list[Path]:
    """What lies there and is not code."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc"))


def _parsed(source: str) -> ast.Module:
    """One at a time: Python 3.11 counts the depth of a tree for all threads together, and stumbles over two."""
    with _PARSING:
        return ast.parse(source)


class _Unfollowed(Exception):
    pass


class _Names(ast.NodeVisitor):
    """Collects in `found` the files that a syntax tree takes names of the library from."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.found: set[Path] = set()
        self.passed_on: set[str] = set()
        self.modules: dict[str, str] = {}  # a module's name here: its full name

    def note_import(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "lib":
                    self.modules[alias.asname or "lib"] = alias.name if alias.asname else "lib"
                    self._add(_path(alias.name, self.root) if "." in alias.name else None)
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").partition(".")[0] == "lib"):
            if node.level or any(alias.name == "*" for alias in node.names):
                raise _Unfollowed
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                home = self._home(node.module or "", alias.name)
                if home is not None and home == _path(inner, self.root):
                    self.modules[alias.asname or alias.name] = inner
                if home is None or home.stem != "__init__" or inner not in self.modules.values():
                    self._add(home)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        names, base = [node.attr], node.value
        while isinstance(base, ast.Attribute):
            names, base = [base.attr, *names], base.value
        if not (isinstance(base, ast.Name) and base.id in self.modules):
            if isinstance(base, ast.Name) and (base.id, names[0]) == ("sys", "modules"):
                raise _Unfollowed
            return self.generic_visit(node)
        module = self.modules[base.id]
        while len(names) > 1 and _path(f"{module}.{names[0]}", self.root):
            module, names = f"{module}.{names[0]}", names[1:]
        home = self._home(module, names[0])
        if home is not None and home.stem == "__init__" and home == _path(f"{module}.{names[0]}", self.root):
            raise _Unfollowed  # a package by itself, of which any name may be asked
        self._add(home)

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in DYNAMIC:
            raise _Unfollowed
        if node.id in self.modules and (path := _path(self.modules[node.id], self.root)) and path.stem == "__init__":
            raise _Unfollowed

    def _home(self, module: str, name: str) -> Path | None:
        """The file that `from module import name` comes from."""
        path = _path(module, self.root)
        if path is None or path.stem != "__init__":
            return path
        package = _parsed(path.read_text(encoding="utf-8"))
        binding = [
            (node, alias)
            for node in ast.walk(package)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
            if name == (alias.asname or alias.name)
        ]
        if not binding:
            return _path(f"{module}.{name}", self.root) or path
        node, alias = binding[0]
        if len(binding) > 1 or node not in package.body or node.level:
            raise _Unfollowed  # which of them it is, nobody can say
        self.passed_on.add(f"{module}.{name} is {node.module}.{alias.name}")
        return self._home(node.module or "", alias.name)

    def _add(self, path: Path | None) -> None:
        if path is not None:
            self.found.add(path)


def _path(module: str, root: Path) -> Path | None:
    """The file of a module of the library; None for other modules."""
    if module.partition(".")[0] != "lib":
        return None
    place = root.joinpath(*module.split("."))
    return next((p for p in (place.with_suffix(".py"), place / "__init__.py") if p.exists()), None)


@cache
def _code_only(source: str) -> str:
    """A Python source without comments, blank lines and strings that stand alone. By lines: so all versions agree."""
    lines, within, alone, statement, opened = source.split("\n"), set(), set(), [], []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind, first, last = tokenize.tok_name[token.type], token.start[0], token.end[0]
        if kind == "COMMENT":
            lines[first - 1] = lines[first - 1][: token.start[1]].rstrip()
        elif kind == "FSTRING_START":  # before Python 3.12 an f-string is one STRING
            opened.append(first)
        elif kind in ("STRING", "FSTRING_END"):
            within.update(range((opened.pop() if kind == "FSTRING_END" else first) + 1, last + 1))
        if kind == "NEWLINE":
            if all(_is_plain_string(part) for part in statement):
                alone.update(range(statement[0].start[0], statement[-1].end[0] + 1))
            statement = []
        elif kind not in ("COMMENT", "NL", "INDENT", "DEDENT"):
            statement.append(token)
    return "\n".join(line for row, line in enumerate(lines, 1) if row not in alone and (row in within or line.strip()))


def _is_plain_string(token: tokenize.TokenInfo) -> bool:
    """Which computes nothing, as an f-string may."""
    return token.type == tokenize.STRING and "f" not in token.string.partition(token.string[-1])[0].lower()
