"""What a step's code is: its function, and whatever of the project's own files that function leads to.

Comments, blank lines and docstrings do not count: the syntax tree is hashed, not the text. From the function
its names are followed: functions, classes and constants of the project's files each with their own
tree, modules of the project with all of theirs. What is installed is not code but environment, which is
counted on its own. So a change of one helper reruns the steps that use it and no others.
"""

import ast
import hashlib
import inspect
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def fingerprint(function: Callable[..., Any], root: Path) -> str:
    """SHA-256 over the code that `function` leads to within `root`."""
    digest = hashlib.sha256()
    for name, tree in sorted(_parts(function, root.resolve())):
        digest.update(f"{name}\0{tree}\0".encode())
    return digest.hexdigest()


def text_fingerprint(*parts: str) -> str:
    """SHA-256 over texts that are a step's code: SQL, a shell command."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _parts(function: Callable[..., Any], root: Path) -> Iterator[tuple[str, str]]:
    seen: set[int] = set()
    waiting: list[Any] = [function]
    while waiting:
        thing = waiting.pop()
        thing = getattr(thing, "function", thing)  # a step called by a step
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, types.ModuleType):
            yield f"module {thing.__name__}", _tree_of_file(thing)
            continue
        source = _source(thing)
        if source is None:
            continue
        tree = _bare(ast.parse(source))
        yield f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', '')}", ast.dump(tree)
        scope = _scope(thing)
        for name in sorted(_names(tree)):
            if name not in scope:
                continue
            value = scope[name]
            if _is_ours(value, root):
                waiting.append(value)
            elif isinstance(
                value, str | int | float | bool | bytes | tuple | list | dict | set | frozenset | None
            ):
                yield f"constant {name}", _steady(value)


def _source(thing: Any) -> str | None:
    try:
        return textwrap.dedent(inspect.getsource(thing))
    except (OSError, TypeError):
        return None


def _tree_of_file(module: types.ModuleType) -> str:
    try:
        return ast.dump(_bare(ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return ""


def _bare(tree: ast.Module) -> ast.Module:
    """Without docstrings, and without the decorators of its outermost function: they say how, not what."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:] or [ast.Pass()]
    if len(tree.body) == 1 and isinstance(tree.body[0], ast.FunctionDef | ast.AsyncFunctionDef):
        tree.body[0].decorator_list = []
    return tree


def _names(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _scope(thing: Any) -> dict[str, Any]:
    if isinstance(thing, types.FunctionType):
        nonlocals = inspect.getclosurevars(thing).nonlocals
        return {**thing.__globals__, **nonlocals}
    module = sys.modules.get(getattr(thing, "__module__", ""))
    return vars(module) if module is not None else {}


def _is_ours(value: Any, root: Path) -> bool:
    value = getattr(value, "function", value)
    if isinstance(value, types.ModuleType):
        place = getattr(value, "__file__", None)
    elif isinstance(value, types.FunctionType | type):
        module = sys.modules.get(value.__module__)
        place = getattr(module, "__file__", None)
    else:
        return False
    if place is None:
        return False
    path = Path(place).resolve()
    return path.is_relative_to(root) and "site-packages" not in path.parts and ".stratal" not in path.parts


def _steady(value: Any) -> str:
    """`repr`, but sets in order."""
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(sorted(map(repr, value))) + "}"
    return repr(value)
