"""A small book in a folder of its own, for the tools that run chapters."""

import json

import yaml

from tools.chapters import Chapter, Run

COUNT = "with open('count', 'a') as file:\n    file.write('ran ')"
CLAIM = """from lib.chapter.claims import Claims
claims = Claims('{name}', scale=scale, seed=seed)
claims.check('one', {value}, low=0)
claims.save()"""


class Book:
    """A small book in a folder of its own."""

    def __init__(self, root):
        self.root = root

    def write(self, name, *cells, parameters=True, **metadata):
        code = [{"id": f"cell-{i}", "source": text, "metadata": {}} for i, text in enumerate(cells)]
        if parameters:
            tagged = {"id": "parameters", "source": 'scale = "quick"\nseed = 0', "metadata": {"tags": ["parameters"]}}
            code.insert(0, tagged)
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        code = [cell | {"cell_type": "code", "outputs": [], "execution_count": None} for cell in code]
        prose = {"cell_type": "markdown", "id": "title", "source": "# Title", "metadata": {}}
        notebook = {"cells": [prose, *code], "metadata": kernel | metadata, "nbformat": 4, "nbformat_minor": 5}
        (self.root / "book" / f"{name}.ipynb").write_text(json.dumps(notebook))
        listed = [{"file": f"book/{path.stem}"} for path in sorted((self.root / "book").glob("*.ipynb"))]
        (self.root / "_toc.yml").write_text(
            yaml.safe_dump({"format": "jb-book", "root": "book/none", "chapters": listed})
        )
        return Run(Chapter(self.root / "book" / f"{name}.ipynb"))

    def count(self):
        """How often a cell with COUNT has run."""
        return len((self.root / "book" / "count").read_text().split())
