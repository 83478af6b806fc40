"""Whose code it is that runs, and what stands in that line."""

from __future__ import annotations

import ast
import functools
import itertools
import linecache
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Literal

from . import sandbox

_LONGEST = 12  # lines of a statement

_DEMO = Path(__file__).parents[1] / "demo.py"  # plays the user

Owner = Literal["user", "package", "lightning", "framework"]


@dataclass(frozen=True)
class Line:
    """A line of source that was running.

    Attributes:
        file: Path of the file.
        number: Line number.
        function: Name of the function.
        text: The call that was running, or the whole statement before Python 3.11.
    """

    file: str
    number: int
    function: str
    text: str

    @classmethod
    def of(cls, frame: FrameType) -> Line:
        """Returns the line that a frame is at."""
        code = frame.f_code
        line = linecache.getline(code.co_filename, frame.f_lineno).strip()
        text = expression(code, frame.f_lasti) or line
        return cls(code.co_filename, frame.f_lineno, code.co_name, text)

    def __str__(self) -> str:
        path = Path(self.file)
        with suppress(OSError, ValueError):  # a working directory that is gone, or elsewhere
            path = path.relative_to(Path.cwd())
        return f"{path}:{self.number} in {self.function}"


def outward(frame: FrameType | None) -> Iterator[FrameType]:
    """Yields this frame and its callers, innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def nearest_line(frame: FrameType | None) -> Line | None:
    """Returns the nearest line of the user's own code, else of any package but the frameworks.

    What we have run again ourselves ends at the sandbox.
    """
    package = None
    for one in outward(frame):
        owner = owner_of(one.f_code.co_filename)
        if one.f_code.co_filename == sandbox.__file__:
            break
        if owner == "user":
            return Line.of(one)
        if owner == "package" and package is None:
            package = one
    return Line.of(package) if package is not None else None


def statement(file: str, number: int) -> str:
    """Returns the statement that begins in this line, or the line if none does."""
    lines = [linecache.getline(file, number + i).strip() for i in range(_LONGEST)]
    for end in range(1, _LONGEST + 1):
        text = " ".join(lines[:end])
        with suppress(SyntaxError):
            ast.parse(text)
            return text
    return lines[0]


@functools.cache
def owner_of(file: str) -> Owner:
    """Tells whose code a file is; torch, we ourselves and Python are frameworks."""
    if file.startswith("<"):
        return "user" if file.startswith(("<ipython", "<stdin", "<string")) else "framework"
    path = Path(file)
    if path == _DEMO:
        return "user"
    if any(_is_in(path, name) for name in ("lightning", "pytorch_lightning", "lightning_fabric")):
        return "lightning"
    if any(_is_in(path, name) for name in ("torch", "torchmetrics", __package__.partition(".")[0])):
        return "framework"
    paths = sysconfig.get_paths()
    if any(path.is_relative_to(paths[key]) for key in ("purelib", "platlib")):
        return "package"
    return "framework" if path.is_relative_to(paths["stdlib"]) else "user"


def _is_in(path: Path, package: str) -> bool:
    origin = getattr(sys.modules.get(package), "__file__", None)
    return origin is not None and path.is_relative_to(Path(origin).parent)


def expression(code: CodeType, instruction: int) -> str:
    """Cuts out of the source what an instruction belongs to; empty before Python 3.11.

    Args:
        code: The code that was running.
        instruction: Index of the instruction in it: ``f_lasti`` or ``tb_lasti``.
    """
    if not hasattr(code, "co_positions"):
        return ""
    positions = itertools.islice(code.co_positions(), instruction // 2, None)
    first, last, start, end = next(positions, (None,) * 4)
    if first is None or last is None:
        return ""
    # Columns count bytes.
    lines = [linecache.getline(code.co_filename, n).encode() for n in range(first, last + 1)]
    lines[-1] = lines[-1][:end]
    lines[0] = lines[0][start:]
    return " ".join(b" ".join(lines).decode(errors="replace").split())
