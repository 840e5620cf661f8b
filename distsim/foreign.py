"""The code of others: a hash that changes whenever a user's strategy or module would compute something else.

It covers a class (with its bases) or function as it is loaded, what it names, and the files of the modules that all these
stand in and import, transitively. distsim's own code (see `distsim.results.identity`), Python's and installed packages are
left out, but for the package that the code itself belongs to. Where there is no file (a notebook, `python -c`, standard
input) the plain global values that the code reads count. Nothing here imports or raises.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from hashlib import sha256
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

_PLAIN = (int, float, complex, str, bytes, type(None))
_CACHE = type(lru_cache(lambda: None))
_INSTALLED = {"site-packages", "dist-packages"}


def source_of(thing: Any) -> str:
    """A hash of the code of a class or function, or of an object's class; empty if all of it is distsim's own."""
    thing = _inner(thing)
    thing = thing if isinstance(thing, (type, FunctionType)) else type(thing)
    loaded = _Loaded({_top(each.__module__) for each in (thing.__mro__ if isinstance(thing, type) else (thing,))})
    loaded.add(thing)
    if not loaded.lines:
        return ""
    files = _files(loaded.modules, loaded.own)
    digest = sha256("\n".join(loaded.lines).encode(errors="backslashreplace"))
    for name in sorted(files):
        digest.update(f"\0{name}\0".encode() + files[name])
    return digest.hexdigest()


def _top(module: object) -> str:
    return str(module).partition(".")[0]


def _counts(module: object, own: set[str]) -> bool:
    """The module is neither Python's, nor distsim's, nor installed, unless it is of a package in `own`."""
    top = _top(module)
    if module is None or top == "distsim" or (top in sys.stdlib_module_names and top != "__main__"):
        return False
    file = None if top in own else _file(top)
    return file is None or not _INSTALLED & set(file.parts)


# ---- what is loaded


class _Loaded:
    """The code of functions and classes, and the modules that they stand in or name."""

    def __init__(self, own: set[str]) -> None:
        self.own = own
        self.lines: list[str] = []
        self.modules: set[str] = set()
        self._seen: set[int] = set()

    def add(self, thing: Any) -> None:
        """Add a function or class, and those that it names."""
        thing = _inner(thing)
        if id(thing) in self._seen or not isinstance(thing, (type, FunctionType)):
            return
        self._seen.add(id(thing))
        if not _counts(thing.__module__, self.own):
            return
        self.modules.add(thing.__module__)
        self.lines.append(f"{thing.__module__}.{thing.__qualname__}")
        if isinstance(thing, type):
            for base in thing.__mro__[1:]:
                self.add(base)
            for name, value in sorted(vars(thing).items()):
                self._value("" if name.startswith("__") else name, value)
        else:
            self._function(thing)

    def _function(self, function: FunctionType) -> None:
        names = list(self._words(function.__code__))
        for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *_cells(function)):
            self._value("value", value)
        has_file = _file(function.__module__) is not None
        for name in dict.fromkeys(names):
            if name in function.__globals__:
                self._value("" if has_file else name, function.__globals__[name])

    def _words(self, code: CodeType) -> Iterator[str]:
        """Add what a code object does; the names that it and the code within it use."""
        self.lines.append(f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {code.co_freevars}")
        yield from code.co_names
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                yield from self._words(constant)
            else:  # a set's order is another one in every process
                self.lines.append(repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant))

    def _value(self, name: str, value: Any) -> None:
        if name and _is_plain(value):
            self.lines.append(f"{name} = {value!r}")
        elif isinstance(value, ModuleType) and _counts(value.__name__, self.own):
            self.modules.add(value.__name__)
        else:
            self.add(value)


def _inner(thing: Any) -> Any:
    """The function inside of a method, a property, a partial or a cache."""
    if isinstance(thing, (staticmethod, classmethod, MethodType)):
        return thing.__func__
    if isinstance(thing, property):
        return thing.fget
    if isinstance(thing, partial):
        return _inner(thing.func)
    return thing.__wrapped__ if isinstance(thing, _CACHE) else thing


def _cells(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # still empty
            continue


def _is_plain(value: object) -> bool:
    return all(map(_is_plain, value)) if isinstance(value, tuple) else isinstance(value, _PLAIN)


# ---- what is in files


def _files(modules: Iterable[str], own: set[str]) -> dict[str, bytes]:
    """The source of these modules and of all that they import."""
    files: dict[str, bytes] = {}
    waiting, seen = list(modules), set(modules)
    while waiting:
        name = waiting.pop()
        file = _file(name)
        if file is None:
            continue
        text = files[name] = file.read_bytes()
        for imported in _imports(text, name if file.name == "__init__.py" else name.rpartition(".")[0]):
            if imported and imported not in seen and _counts(imported, own):
                seen.add(imported)
                waiting.append(imported)
    return files


def _imports(text: bytes, package: str) -> Iterator[str]:
    """The modules that a source may import: `from a import b` may mean a.b."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (above, node.module) if part)
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:  # importing a.b runs a, too
            parts = name.split(".")
            yield from (".".join(parts[: i + 1]) for i in range(len(parts)))


def _file(name: str) -> Path | None:
    """The source file of a module. It need not be loaded yet: that it is later must not change the hash."""
    place = getattr(sys.modules.get(name), "__file__", None)
    if name not in sys.modules:
        place = getattr(_spec(name), "origin", None)
    path = Path(place) if isinstance(place, str) and place.endswith(".py") else None
    return path if path is not None and path.is_file() else None


def _spec(name: str) -> ModuleSpec | None:
    """Where a module would be loaded from; unlike importlib's own, without importing the packages above it."""
    above, _, _ = name.rpartition(".")
    package = _spec(above) if above else None
    if above and (package is None or package.submodule_search_locations is None):
        return None
    try:
        return PathFinder.find_spec(name, package.submodule_search_locations if package else None)
    except (ImportError, ValueError, OSError):
        return None
