"""Which tests reach a module of `lib`: those about it, those about the modules that import it, those that import it."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def stages(module: Path, root: Path = ROOT) -> list[list[Path]]:
    """Files for pytest, those first that are about the module: `test_<module>.py` in any folder, and its doctests."""
    library, tests = sorted((root / "lib").rglob("*.py")), sorted((root / "tests").rglob("test_*.py"))
    about = lambda file: [file, *(test for test in tests if test.stem == f"test_{_name(file)}")]
    near = [file for file in library if file != module and module in imported(file, root)]
    further = [part for file in near for part in about(file)]
    further += [test for test in tests if module in imported(test, root)]
    own = about(module)
    return [own, [part for part in dict.fromkeys(further) if part not in own]]


@cache
def imported(file: Path, root: Path) -> set[Path]:
    """The modules of `lib` that a file imports, by name or by what is in them, wherever a package passes that on."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {path for alias in node.names if (path := _path(alias.name, root))}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found |= {path for alias in node.names if (path := _home(node.module, alias.name, root))}
    return found


def _home(module: str, name: str, root: Path) -> Path | None:
    """The file that `from module import name` comes from."""
    path = _path(module, root)
    if path is not None and path.stem == "__init__":
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and name in [alias.asname or alias.name for alias in node.names]:
                return _home(node.module or "", name, root)
        return _path(f"{module}.{name}", root) or path
    return path


def _path(module: str, root: Path) -> Path | None:
    """The file of a module of `lib`; None for other modules."""
    if module.partition(".")[0] != "lib":
        return None
    place = root.joinpath(*module.split("."))
    return next((p for p in (place.with_suffix(".py"), place / "__init__.py") if p.exists()), None)


def _name(file: Path) -> str:
    return file.parent.name if file.stem == "__init__" else file.stem
