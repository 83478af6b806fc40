"""Modules that nothing uses: not called, not reached by a gradient, and not named in the code."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from ..source import owner_of
from ..trainer import plain_name
from . import Measurement, Moment
from .stations import stations

_STEPS = 20  # after which what has not been used, will not be
_FEWEST = 3  # in a run that ends before
# An attribute of such a name says what is to be done now, and may say something else later.
_PHASE = re.compile(r"train|stage|phase|step|epoch|warm|tun|task|mode|predict|infer|sampl|export")
# To be named in these is no use: they make the module, and hand it to the optimizer.
_MAKERS = ("__init__", "setup", "configure_model", "configure_optimizers", "reset_parameters")


@dataclass(frozen=True)
class Unused(Measurement):
    """Modules with trainable parameters that the user's code makes and never names again.

    To be named in a branch is no use if the branch is not taken, and cannot be: if all that it
    depends on are attributes that nobody sets after they have been made. Nor is it to be gone
    through by a loop that makes nothing of it, or that ends before it, with a shorter list. Nor is
    it to be in a list that the only method which names it takes other elements of, each time.

    Known once, after the first steps: a module that is called, or that gets a gradient, is in use.
    Not known where the source cannot be read, nor where a module is compiled.

    Attributes:
        modules: Their names, and how many parameters they have.
        steps: After how many steps.
    """

    hooks: ClassVar[tuple[str, ...]] = (
        "on_train_start",
        "on_before_optimizer_step",
        "on_train_batch_end",
        "on_train_end",
    )

    modules: tuple[tuple[str, int], ...]
    steps: int = _STEPS

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Unused | None:
        """Finds what the code does not name, and waits whether it is used all the same."""
        if moment.hook == "on_train_start":
            memory.watch = _Watch()
            for name, module, together in _unnamed(moment):
                memory.watch.add(name, module, together)
        watch: _Watch | None = vars(memory).get("watch")
        if watch is None or not watch.modules:
            return None
        if moment.hook == "on_before_optimizer_step":
            watch.look()
        elif moment.hook == "on_train_batch_end":
            watch.steps += 1
        is_over = watch.steps >= _FEWEST and moment.hook == "on_train_end"
        if not is_over and watch.steps < _STEPS:
            return None
        found = tuple((name, _size(module)) for name, module in watch.left())
        cls.release(memory)
        return cls(found, watch.steps)

    @classmethod
    def release(cls, memory: SimpleNamespace) -> None:
        """Removes the hooks."""
        if hasattr(memory, "watch"):
            memory.watch.close()
            del memory.watch


@dataclass
class _Watch:
    """The modules that have not been used so far."""

    modules: dict[str, nn.Module] = field(default_factory=dict)
    steps: int = 0
    _parts: dict[int, str] = field(default_factory=dict)
    _lists: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _hook: Any = None

    def add(self, name: str, module: nn.Module, together: tuple[str, ...] = ()) -> None:
        """Watches a module, which counts only if another one of its list is used."""
        self.modules[name], self._lists[name] = module, together
        # A part of it may be called on its own.
        self._parts.update((id(one), name) for one in module.modules())
        self._hook = self._hook or register_module_forward_pre_hook(self._called)

    def _called(self, module: nn.Module, _: Any) -> None:
        if torch.compiler.is_compiling():  # it can be told by its gradient
            return
        self.modules.pop(self._parts.get(id(module), ""), None)

    def left(self) -> Iterator[tuple[str, nn.Module]]:
        """Yields what has not been used; of a list, if something has."""
        for name, module in self.modules.items():
            together = self._lists[name]
            if not together or any(one not in self.modules for one in together):
                yield name, module

    def look(self) -> None:
        """Strikes out what a gradient has come to: it need not be called to be used."""
        for name, module in list(self.modules.items()):
            if any(p.grad is not None for p in module.parameters()):
                del self.modules[name]

    def close(self) -> None:
        if self._hook is not None:
            self._hook.remove()


def _unnamed(moment: Moment) -> Iterator[tuple[str, nn.Module, tuple[str, ...]]]:
    """Yields the topmost modules of the user's own that no method but its maker names.

    Of a list that one method alone takes elements of, always the same, it yields all.
    """
    root = moment.module
    tree = dict(root.named_modules())
    if any(is_opaque(one) for one in tree.values()):
        return
    kinds: set[type] = {type(one) for one in (*tree.values(), *moment.trainer.callbacks)}
    bases = {base for kind in kinds for base in kind.__mro__}
    users = [base for base in bases if is_users(base)]
    named = [_names(kind) for kind in users]
    if not named or None in named:
        return
    names = [one for one in named if one is not None]
    settable = frozenset().union(*(one.stored for one in names))
    known = frozenset().union(*(one.known(settable) for one in names))
    cut_off = [(plain_name(name), one) for name, one in _cut_off(tree)]
    yield from ((name, one, ()) for name, one in cut_off if _size(one))
    for name, members in _lists(tree, users, settable).items():
        together = {plain_name(f"{name}.{index}"): one for index, one in enumerate(members)}
        yield from ((path, one, tuple(together)) for path, one in together.items())
    found: list[str] = []
    for name, module in tree.items():
        parent, _, attribute = name.rpartition(".")
        if not name or attribute in known or type(tree[parent]) not in users:
            continue
        is_inside = any(name.startswith(f"{one}.") for one in found)
        is_shared = any(module is other for path, other in _all(root) if path != name)
        if not is_inside and not is_shared and _size(module):
            found.append(name)
            yield plain_name(name), module, ()


def _lists(
    tree: Mapping[str, nn.Module], users: Collection[type], settable: Collection[str]
) -> dict[str, nn.ModuleList]:
    """Returns the lists whose elements all learn, and one method takes, always the same of them."""
    foreign = frozenset().union(*map(_foreign, users))
    count = Counter(id(one) for _, one in _all(tree[""]))
    found = {}
    for path, owner in tree.items():
        for attribute, one in owner._modules.items() if type(owner) in users else ():
            if not isinstance(one, nn.ModuleList) or attribute in foreign or len(one) == 1:
                continue
            are_alone = all(count[id(part)] == 1 and _size(part) for part in one)
            if are_alone and _takes_the_same(owner, attribute, users, settable):
                found[f"{path}.{attribute}" if path else attribute] = one
    return found


def _takes_the_same(
    owner: nn.Module, attribute: str, users: Collection[type], settable: Collection[str]
) -> bool:
    """Whether one method alone takes elements of a list, and the same ones each time."""

    def is_fixed(test: ast.expr, own: str) -> bool:
        switches = _switches(test, own)
        if not switches or switches & set(settable) or any(map(_PHASE.search, switches)):
            return False
        value: Any = owner
        for key in ast.unparse(test).split(".")[1:] if isinstance(test, ast.Attribute) else "-":
            value = getattr(value, key, None)
        if isinstance(value, torch.Tensor):  # which is written to in place
            return False
        # Who counts up to less than there is, knows it.
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return not is_number or value >= len(getattr(owner, attribute))

    line = [kind for kind in type(owner).__mro__ if kind in users]
    takes: list[bool] = []
    found: dict[str, list[ast.FunctionDef]] = {}
    for kind in reversed(line):
        for name, one in methods(kind).items():  # goes before what it overrides, or calls it
            has_super = any(getattr(part, "id", "") == "super" for part in ast.walk(one))
            found[name] = [one, *(found.get(name, []) if has_super else [])]
    for method in (one for several in found.values() for one in several):
        own = _own(method)
        read = stations(method, own, functools.partial(is_fixed, own=own))
        if attribute in read.seen:
            takes.append(attribute in read.settled)
    return takes == [True]


@functools.cache
def _foreign(kind: type) -> frozenset[str]:
    """Returns the attributes of other objects that the methods of a class name."""
    read = (stations(one, _own(one), lambda _: False) for one in methods(kind).values())
    return frozenset().union(*(one.foreign for one in read))


def _own(method: ast.FunctionDef) -> str:
    """Returns what a method calls its object."""
    return method.args.args[0].arg if method.args.args else "self"


def _cut_off(tree: Mapping[str, nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Yields what lists of modules hold beyond the end of a shorter one that they are zipped with.

    Not if the longer list is a part of several such loops: another one may come to it.
    """
    for path, owner in tree.items():
        kind: type = type(owner)
        names = _names(kind) if is_users(kind) else None
        zipped = names.zipped if names is not None else frozenset()
        for together in zipped:
            lists = {key: owner._modules.get(key) for key in together}
            found = {key: one for key, one in lists.items() if isinstance(one, nn.ModuleList)}
            end = min(map(len, found.values()), default=0)
            for key, one in found.items():
                if sum(key in others for others in zipped) == 1:
                    rest = [(f"{key}.{index}", one[index]) for index in range(end, len(one))]
                    yield from ((f"{path}.{name}" if path else name, part) for name, part in rest)


def _all(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    yield from root.named_modules(remove_duplicate=False)


def is_opaque(module: nn.Module) -> bool:
    """Returns whether calls of a module, or in it, go past the hooks."""
    return (
        isinstance(module, torch.jit.ScriptModule)
        or getattr(module, "_compiled_call_impl", None) is not None
        or hasattr(module, "_orig_mod")
    )


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@functools.cache
def is_users(kind: type) -> bool:
    """Returns whether a class is of the user's own making."""
    try:
        file = inspect.getsourcefile(kind)
    except (OSError, TypeError):
        return False
    return file is not None and owner_of(file) == "user"


@dataclass(frozen=True)
class _Names:
    """What the methods of a class name, in any way, but for those that make its parts.

    Attributes:
        plain: What they name,
        behind: and what they name in a branch that depends on nothing but these attributes.
        stored: The attributes that they set, of any object, or that they are.
        zipped: Attributes that they go through together, up to the end of the shortest.
    """

    plain: frozenset[str]
    behind: Mapping[frozenset[str], frozenset[str]]
    stored: frozenset[str]
    zipped: frozenset[frozenset[str]]

    def known(self, settable: frozenset[str]) -> frozenset[str]:
        """Returns what may be used, if others may set these attributes, too."""
        open_ = [
            names
            for switches, names in self.behind.items()
            if switches & settable or any(map(_PHASE.search, switches))
        ]
        return self.plain.union(*open_)


@functools.cache
def _body(kind: type) -> list[ast.stmt] | None:
    """Returns the statements of a class; None if there is no source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError, SyntaxError):
        return None
    return tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []


def methods(kind: type) -> dict[str, ast.FunctionDef]:
    """Returns the methods of a class, but for those that make its parts."""
    methods = [one for one in _body(kind) or () if isinstance(one, ast.FunctionDef)]
    return {one.name: one for one in methods if one.name not in _MAKERS}


@functools.cache
def _names(kind: type) -> _Names | None:
    """Reads the source of a class.

    None if there is none, or if it gets at attributes in a way that names none of them.
    """
    body = _body(kind)
    if body is None:
        return None
    reader = _Reader()
    for method in body:
        reader.read(method)
    behind = {switches: frozenset(names) for switches, names in reader.behind.items()}
    stored, zipped = frozenset(reader.stored), frozenset(reader.zipped)
    return _Names(frozenset(reader.plain), behind, stored, zipped)


class _Reader(ast.NodeVisitor):
    """Collects what the methods of a class name."""

    def __init__(self) -> None:
        self.plain: set[str] = set()
        self.stored: set[str] = set()
        self.zipped: set[frozenset[str]] = set()
        self.behind: dict[frozenset[str], set[str]] = defaultdict(set)
        self._into, self._own = self.plain, "self"
        self._elements: dict[str, ast.Attribute] = {}  # what a loop goes through, by its variable

    def read(self, method: ast.AST) -> None:
        """Reads a method; or whatever else there is in a class."""
        name, arguments = getattr(method, "name", ""), getattr(method, "args", None)
        self.stored.add(name)
        if name not in _MAKERS:
            self._own = arguments.args[0].arg if arguments and arguments.args else "self"
            self._elements = {}
            self.visit(method)

    def visit_For(self, node: ast.For) -> None:
        self._elements |= _elements(node.target, node.iter, self._own)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if ast.unparse(node.func) == "zip":
            own = (one for one in node.args if isinstance(one, ast.Attribute))
            self.zipped.add(
                frozenset(one.attr for one in own if ast.unparse(one.value) == self._own)
            )
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node in self._elements.values():
            return  # to go through modules is no use of them
        (self._into if isinstance(node.ctx, ast.Load) else self.stored).add(node.attr)
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring uses nothing
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self._into.update(node.value.replace(".", " ").split())

    def visit_Name(self, node: ast.Name) -> None:
        self._into.add(node.id)
        if node.id in self._elements and isinstance(node.ctx, ast.Load):
            self._into.add(self._elements[node.id].attr)

    def visit_If(self, node: ast.If | ast.IfExp) -> None:
        outside, taken = self._into, []
        self.visit(node.test)
        for part, test in (
            (node.body, _in_training(node.test, self._own)),
            (node.orelse, node.test),
        ):
            switches = _switches(test, self._own)
            self._into = names = set() if switches else outside
            for one in part if isinstance(part, list) else [part]:
                self.visit(one)
            taken.append(names)
            if switches:
                self.behind[switches] |= names
        outside |= taken[0] & taken[1]  # whichever of them is taken
        self._into = outside

    visit_IfExp = visit_If  # noqa: N815


def _elements(target: ast.expr, of: ast.expr, own: str) -> dict[str, ast.Attribute]:
    """Returns the attributes of an object that a loop goes through, by its variables."""
    if isinstance(of, ast.Call):
        function, count = ast.unparse(of.func), len(of.args)
        targets = target.elts if isinstance(target, ast.Tuple) else [target]
        if function == "enumerate" and (count, len(targets)) == (1, 2):
            return _elements(targets[1], of.args[0], own)
        pairs = zip(targets, of.args, strict=False)
        is_zip = function == "zip" and count == len(targets)
        return {k: v for pair in pairs for k, v in _elements(*pair, own).items()} if is_zip else {}
    if not (isinstance(of, ast.Attribute) and isinstance(target, ast.Name)):
        return {}
    return {target.id: of} if ast.unparse(of.value) == own else {}


def _in_training(test: ast.expr, own: str) -> ast.expr:
    """Returns what a condition still asks for where ``training`` is set, as it is in any step."""
    if not (isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And)):
        return test
    others = [one for one in test.values if ast.unparse(one) != f"{own}.training"]
    return ast.BoolOp(test.op, others) if others else test


def _switches(test: ast.expr, own: str) -> frozenset[str]:
    """Returns the attributes of an object that a condition asks for; none if it asks for more."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return _switches(test.operand, own)
    if isinstance(test, ast.BoolOp):
        parts = [_switches(one, own) for one in test.values]
        return frozenset().union(*parts) if all(parts) else frozenset()
    first, *path = ast.unparse(test).split(".")
    is_own = isinstance(test, ast.Attribute) and first == own and all(map(str.isidentifier, path))
    return frozenset(path) if is_own else frozenset()
