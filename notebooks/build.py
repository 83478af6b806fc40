"""Makes the notebooks out of ``notebooks/src``, and runs them.

    python notebooks/build.py            # all of them
    python notebooks/build.py 03         # those whose name begins so

The sources are Python in cells, divided by ``# %%`` and ``# %% [markdown]``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "src"


def cells(source: str) -> list[Any]:
    """Returns the cells of a source, without any output."""
    found = []
    for number, (kind, body) in enumerate(
        re.findall(
            r"^# %%( \[markdown\])?\n(.*?)(?=^# %%|\Z)", source, flags=re.MULTILINE | re.DOTALL
        )
    ):
        text = body.strip()
        if kind:
            text = re.sub(r"^# ?", "", text, flags=re.MULTILINE)
        make = nbformat.v4.new_markdown_cell if kind else nbformat.v4.new_code_cell
        found.append(make(text, id=f"cell-{number}"))
    return found


def build(path: Path, *, folder: Path = HERE) -> Any:
    """Runs a source as a notebook, in a folder where the helpers of the notebooks are."""
    book = nbformat.v4.new_notebook(cells=cells(path.read_text(encoding="utf-8")))
    book.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    NotebookClient(
        book, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    for cell in book.cells:
        cell.metadata.pop("execution", None)  # times, other ones with every run
        for output in cell.get("outputs", ()):
            if "text" in output:
                # Folders and cells have other names with every run.
                text = output["text"].replace(f"{HERE}/", "")
                text = re.sub(r"/\S*?/(?=(sick|healthy|low)/)", "", text)
                output["text"] = re.sub(r"(/tmp/ipykernel_\d+/)?\b\d{6,}\.py", "cell", text)
    return book


def main() -> None:
    for path in sorted(SOURCES.glob("*.py")):
        if path.name.startswith(tuple(sys.argv[1:]) or ""):
            nbformat.write(build(path), HERE / f"{path.stem}.ipynb")
            print(path.stem)


if __name__ == "__main__":
    main()
