"""What the source of a method tells: which elements of a list it comes to, and what it loses."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass

_EXITS = (ast.Return, ast.Break, ast.Continue)
_BRANCHES = (ast.If, ast.IfExp, ast.While, ast.Try, ast.Match, ast.BoolOp)
_CLOSURES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


@dataclass(frozen=True)
class Stations:
    """What a method takes elements of.

    Attributes:
        seen: Attributes that it names,
        foreign: those of other objects than its own,
        settled: and those of which it comes to the same elements each time: it goes through them in
            a loop, or takes elements by numbers that are constants or count such a loop; it does
            nothing else with them, and it does so, uses them, and comes so far, under no condition.
    """

    seen: frozenset[str]
    foreign: frozenset[str]
    settled: frozenset[str]


def stations(method: ast.AST, own: str, is_fixed: Callable[[ast.expr], bool]) -> Stations:
    """Reads a method.

    Args:
        method: What to read.
        own: What the method calls its object.
        is_fixed: Whether a condition, or a number, is the same for ever.
    """
    given = {one.arg for one in ast.walk(method) if isinstance(one, ast.arg)}
    reader = _Reader(own, is_fixed, given)
    for one in ast.iter_child_nodes(method):
        reader.visit(one)
    seen, foreign = frozenset(reader.seen), frozenset(reader.foreign)
    settled = frozenset() if reader.is_open else seen - foreign - reader.loose
    return Stations(seen, foreign, settled)


def is_lost(method: ast.FunctionDef, call: str) -> bool | None:
    """Returns whether the results of all such calls get names that are given away unread.

    None if there is no such call.
    """
    calls = [one for one in ast.walk(method) if isinstance(one, ast.Call)]
    count = sum(ast.unparse(one.func) == call for one in calls)
    return _lost(method.body, call) == count if count else None


def _lost(block: list[ast.stmt], call: str) -> int:
    """Counts the calls in a block whose results are lost in it."""
    count = 0
    for index, statement in enumerate(block):
        for name in ("body", "orelse"):
            count += _lost(getattr(statement, name, None) or [], call)
        name = _named(statement)
        within = [one for one in ast.walk(statement) if isinstance(one, ast.Call)]
        made = sum(ast.unparse(one.func) == call for one in within) if name else 0
        later = next((one for one in block[index + 1 :] if name in _names(one)), None)
        if later is not None and _named(later) == name and name not in _read(later):
            count += made
    return count


def _named(statement: ast.stmt) -> str:
    """Returns the only name that a statement gives to something."""
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return targets[0].id if len(targets) == 1 and isinstance(targets[0], ast.Name) else ""


def _names(node: ast.AST) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


def _read(node: ast.AST) -> set[str]:
    names = (one for one in ast.walk(node) if isinstance(one, ast.Name))
    return {one.id for one in names if isinstance(one.ctx, ast.Load)}


class _Reader(ast.NodeVisitor):
    def __init__(self, own: str, is_fixed: Callable[[ast.expr], bool], given: set[str]) -> None:
        self.seen: set[str] = set()
        self.foreign: set[str] = set()
        self.loose: set[str] = set()
        self.is_open = False  # whether it may end, or go on, under a condition
        self._own, self._is_fixed, self._given = own, is_fixed, given
        self._depth = 0
        self._counters: set[str] = set()
        self._elements: dict[str, set[str]] = {}

    def visit(self, node: ast.AST) -> None:
        is_open = isinstance(node, (*_BRANCHES, *_CLOSURES))
        if isinstance(node, (ast.If, ast.IfExp)) and self._is_fixed(node.test):
            is_open = False
        self.is_open = self.is_open or (self._depth > 0 and isinstance(node, _EXITS))
        self._depth += is_open
        super().visit(node)
        self._depth -= is_open

    def visit_For(self, node: ast.For) -> None:
        varies = self._varies(node.iter)
        self._depth += varies
        self._go_through(node.target, node.iter)
        attributes = {
            self._attribute(one) for one in ast.walk(node.iter) if isinstance(one, ast.expr)
        }
        for name in _names(node.target) - self._counters:
            self._elements[name] = attributes - {""}
        for one in (*node.body, *node.orelse):
            self.visit(one)
        self._depth -= varies

    def visit_Name(self, node: ast.Name) -> None:
        if self._depth:  # what is done with an element may be done another time
            self.loose |= self._elements.get(node.id, set())

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if (name := self._attribute(node.value)) and self._is_known(node.slice):
            self._note(name)
        else:
            self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # no docstring
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.foreign.update(node.value.replace(".", " ").split())

    def visit_Call(self, node: ast.Call) -> None:
        if not self._is_length(node):
            self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        (self.loose if self._attribute(node) else self.foreign).add(node.attr)
        self.seen.add(node.attr)
        self.generic_visit(node)

    def _note(self, name: str) -> None:
        self.seen.add(name)
        if self._depth:
            self.loose.add(name)

    def _attribute(self, node: ast.expr) -> str:
        is_own = isinstance(node, ast.Attribute) and ast.unparse(node.value) == self._own
        return node.attr if is_own and isinstance(node, ast.Attribute) else ""

    def _go_through(self, target: ast.expr, of: ast.expr) -> None:
        function = ast.unparse(of.func) if isinstance(of, ast.Call) else ""
        if name := self._attribute(of):
            self._note(name)
        elif isinstance(of, ast.Call) and function in ("enumerate", "zip", "reversed"):
            for one in of.args:
                self._go_through(target, one)
        elif function != "range":
            self.visit(of)
        if isinstance(of, ast.Call) and (
            (function == "range" and all(map(self._is_known, of.args)))
            or (function == "enumerate" and isinstance(target, ast.Tuple))
        ):
            first = target.elts[0] if isinstance(target, ast.Tuple) else target
            self._counters.add(ast.unparse(first))

    def _varies(self, of: ast.expr) -> bool:
        """Whether what a loop goes through may be of another length another time."""
        if isinstance(of, ast.Call):
            is_range = ast.unparse(of.func) == "range"
            return (
                not all(map(self._is_known, of.args))
                if is_range
                else any(map(self._varies, of.args))
            )
        if isinstance(of, ast.Subscript):
            return not self._is_known(of.slice) or self._varies(of.value)
        return isinstance(of, ast.Name) and of.id in self._given

    def _is_length(self, node: ast.expr) -> bool:
        is_call = isinstance(node, ast.Call) and ast.unparse(node.func) == "len"
        return is_call and isinstance(node, ast.Call) and bool(self._attribute(node.args[0]))

    def _is_known(self, node: ast.expr | None) -> bool:
        """Whether a number is known before the method runs, but for loops that count."""
        if node is None or isinstance(node, ast.Constant) or self._is_length(node):
            return True
        if isinstance(node, ast.Name):
            return node.id in self._counters
        if isinstance(node, ast.BinOp):
            return self._is_known(node.left) and self._is_known(node.right)
        if isinstance(node, ast.UnaryOp):
            return self._is_known(node.operand)
        if isinstance(node, ast.Slice):
            return all(map(self._is_known, (node.lower, node.upper, node.step)))
        return self._is_fixed(node)
