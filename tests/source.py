"""The source as syntax trees, for promises about the code itself: its size and its docstrings."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "fourm": ROOT / "fourm",
    "fourm_tokenizers": ROOT / "tokenizers" / "fourm_tokenizers",
    "fourm_data_prep": ROOT / "data_prep" / "fourm_data_prep",
}
_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
Function = (ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def trees() -> dict[Path, ast.Module]:
    """Every file of the three packages, parsed."""
    paths = [path for folder in PACKAGES.values() for path in sorted(folder.rglob("*.py"))]
    return {path: ast.parse(path.read_text()) for path in paths}


def docstring_nodes(tree: ast.AST) -> set[ast.stmt]:
    """The statements that are docstrings."""
    return {
        node.body[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, *Function)) and ast.get_docstring(node)
    }


def num_statements(tree: ast.AST) -> int:
    """Statements below a node, docstrings not among them."""
    below = [node for node in ast.walk(tree) if isinstance(node, ast.stmt) and node is not tree]
    return len(set(below) - docstring_nodes(tree))


def num_code_lines(path: Path) -> int:
    """Lines that hold code: neither blank nor comments nor docstrings."""
    text = path.read_text()
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in _NO_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in docstring_nodes(ast.parse(text)):
        lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


@dataclass(frozen=True)
class Definition:
    """A function, method or class with where it is and the class around it."""

    path: Path
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    owner: ast.ClassDef | None

    def __str__(self) -> str:
        owner = f"{self.owner.name}." if self.owner else ""
        return f"{self.path.relative_to(ROOT)}:{self.node.lineno} {owner}{self.node.name}"


def public_definitions() -> Iterator[Definition]:
    """Functions, classes and methods whose names do not begin with an underscore."""

    def within(path: Path, body: list[ast.stmt], owner: ast.ClassDef | None):
        for node in body:
            if not isinstance(node, (ast.ClassDef, *Function)) or node.name.startswith("_"):
                continue
            yield Definition(path, node, owner)
            if isinstance(node, ast.ClassDef):
                yield from within(path, node.body, node)

    for path, tree in trees().items():
        yield from within(path, tree.body, None)


@cache
def _classes() -> dict[str, list[ast.ClassDef]]:
    found: dict[str, list[ast.ClassDef]] = {}
    for tree in trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(node)
    return found


def _bases(node: ast.ClassDef) -> list[str]:
    """Names of the classes that a class names as its bases."""
    plain = [base.value if isinstance(base, ast.Subscript) else base for base in node.bases]
    return [getattr(base, "attr", getattr(base, "id", "")) for base in plain]


def _family(node: ast.ClassDef) -> list[ast.ClassDef]:
    """A class and all classes of the project that it is derived from."""
    found, waiting = [], [node]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.append(one)
            waiting += [base for name in _bases(one) for base in _classes().get(name, [])]
    return found


def _names(node: ast.ClassDef) -> set[str]:
    """Attributes of a class's objects: what it defines, declares, or sets on ``self``."""
    methods = {part.name for part in node.body if isinstance(part, Function)}
    fields = {part.target for part in node.body if isinstance(part, ast.AnnAssign)}
    fields |= {t for part in node.body if isinstance(part, ast.Assign) for t in part.targets}
    stored = {
        part.attr
        for part in ast.walk(node)
        if isinstance(part, ast.Attribute)
        and isinstance(part.ctx, ast.Store)
        and getattr(part.value, "id", "") == "self"
    }
    return methods | {getattr(field, "id", "") for field in fields} | stored


def is_promised_elsewhere(definition: Definition) -> bool:
    """True for a method that a base class documents, or a protocol which its class fulfils."""
    if definition.owner is None:
        return False
    family = _family(definition.owner)
    has = {name for one in family for name in _names(one)}
    protocols = [one for many in _classes().values() for one in many if "Protocol" in _bases(one)]
    fulfilled = [
        one for one in protocols if {n for n in _names(one) if not n.startswith("_")} <= has
    ]
    return any(
        isinstance(part, Function)
        and part.name == definition.node.name
        and part is not definition.node
        and ast.get_docstring(part)
        for one in (*family, *fulfilled)
        for part in one.body
    )
