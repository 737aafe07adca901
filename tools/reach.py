"""Which tests reach a module of `lib`: those about it, those about the modules that import it, those that import it."""

from pathlib import Path

from lib.chapter.dependencies import imported
from tools.unit import BUILT

ROOT = Path(__file__).resolve().parents[1]


def stages(module: Path, root: Path = ROOT) -> list[list[Path]]:
    """Files for pytest: those about the module, `test_<module>.py` in any folder and its doctests; then the others.

    Of the others the tests of the module's own room come first, which are the likeliest to notice something.
    """
    imports = lambda file: imported(file.read_text(encoding="utf-8"), root)
    library = sorted((root / "lib").rglob("*.py"))
    runs = lambda file: file.stem == "__main__"  # which pytest imports for its doctests only where it is named
    tests = [test for test in sorted((root / "tests").rglob("test_*.py")) if test.stem not in BUILT]
    about = lambda file: [
        *([] if runs(file) else [file]),
        *(test for test in tests if test.stem == f"test_{_name(file)}"),
    ]
    near = [file for file in library if file != module and module in imports(file)]
    further = [part for file in near for part in about(file)]
    further += [test for test in tests if module in imports(test)]
    further.sort(key=lambda part: part.parent.name != module.parent.name)
    own = about(module)
    return [own, [part for part in dict.fromkeys(further) if part not in own]]


def _name(file: Path) -> str:
    return file.parent.name if file.stem == "__init__" else file.stem
