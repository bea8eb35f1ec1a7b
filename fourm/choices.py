"""Kinds of things that a config chooses by name: raw types, sampling schemes, quantizers.

A kind is a class with ``Choice`` as a base: the family's protocol, as frozen dataclasses. Each
member is a dataclass of its own, with its own settings, and registers itself where it is defined:

    @dataclass(frozen=True, kw_only=True)
    class Scheme(Choice, family="sampling scheme"): ...

    @dataclass(frozen=True, kw_only=True)
    class Halton(Scheme, name="halton"): ...

In YAML a member is ``{type: halton, ...}`` or, with all its defaults, ``halton``; one that lies
elsewhere is ``type: package.module:Class``. A family that names a ``package`` finds a member in the
module of the same name there, so that a file put beside the others needs no edit anywhere else. A
family with a ``default`` takes a mapping without ``type`` for that member's settings.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import ClassVar, Self

from fourm.errors import UserError, nearest, shown


class Choice:
    """Base of families of kinds. ``type_name`` is what a config calls the kind."""

    type_name: ClassVar[str] = ""
    default_name: ClassVar[str] = ""  # of a family: the member that a mapping without type is of
    _family: ClassVar[str] = ""
    _package: ClassVar[str] = ""
    _members: ClassVar[dict[str, type[Choice]]] = {}

    def __init_subclass__(
        cls, *, family: str = "", package: str = "", default: str = "", name: str = ""
    ) -> None:
        super().__init_subclass__()
        if family:
            cls._family, cls._package, cls._members = family, package, {}
            cls.default_name = default
            return
        cls.type_name = name or f"{cls.__module__}:{cls.__qualname__}"
        if name:
            other = cls._members.get(name)
            assert other is None or other.__qualname__ == cls.__qualname__, f"two are called {name}"
            cls._members[name] = cls

    @classmethod
    def names(cls) -> list[str]:
        """What can be chosen by a short name, in order."""
        files: list[str] = []
        if cls._package:
            folder = importlib.import_module(cls._package).__path__
            files = [m.name for m in pkgutil.iter_modules(folder) if not m.name.startswith("_")]
        return sorted({*cls._members, *files})

    @classmethod
    def find(cls, name: str) -> type[Self]:
        """The member called ``name``, or at ``package.module:Class``. Raises UserError."""
        if ":" in name:
            return cls._elsewhere(name)
        if name not in cls._members and cls._package and name in cls.names():
            importlib.import_module(f"{cls._package}.{name}")
        if name not in cls._members:
            known = cls.names()
            raise UserError(
                f"{cls._family} {shown(name)} is not one of {', '.join(known)}"
                f" and not of the form package.module:Class{nearest(name, known)}"
            )
        return cls._members[name]  # type: ignore[return-value]

    @classmethod
    def _elsewhere(cls, name: str) -> type[Self]:
        module, _, qualified = name.partition(":")
        try:
            found = getattr(importlib.import_module(module), qualified)
        except ModuleNotFoundError as error:
            raise UserError(
                f"{cls._family} {shown(name)} cannot be imported: {error}; where that is a file of"
                " yours, name its folder: export PYTHONPATH=FOLDER"
            ) from None
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(f"{cls._family} {shown(name)} cannot be imported: {error}") from None
        if not (isinstance(found, type) and issubclass(found, cls)):
            raise UserError(f"{cls._family} {name!r} is no {cls.__name__}")
        if inspect.isabstract(found):
            raise UserError(f"{cls._family} {name!r} is a base for others and does nothing itself")
        return found
