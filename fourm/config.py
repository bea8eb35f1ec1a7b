"""Typed configs from YAML: dataclasses in, errors that name the key out.

A config is a tree of dataclasses. ``load`` reads YAML into it (``fourm.files.yaml_files``, where a
file may name its ``base``), applies ``a.b=value`` overrides, and refuses unknown keys with the
nearest known one; ``dump`` writes the resolved tree so that it can be passed back unchanged. A
table changes only what it names: where a field's default is a config of its own, the keys given are
laid over that default.
"""

from __future__ import annotations

import dataclasses
import numbers
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml

from fourm.choices import Choice
from fourm.errors import UserError, nearest, shown
from fourm.files.yaml_files import parse, read_tree
from fourm.files.yaml_files import read_yaml as read_yaml  # where readers of configs look for it

ConfigT = TypeVar("ConfigT")


def load(cls: type[ConfigT], path: str | Path, overrides: list[str] | None = None) -> ConfigT:
    """The config in a YAML file, changed by overrides such as ``optimizer.lr=3e-4``."""
    tree = read_tree(path)
    for override in overrides or []:
        apply_override(tree.data, override)
    return from_mapping(cls, tree.data, tree.where)


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set one ``a.b.c=value`` in nested mappings; the value is read as YAML."""
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise UserError(f"override {override!r} is not of the form key=value")
    *parents, last = key.split(".")
    if not all((*parents, last)):
        raise UserError(f"override {override!r}: a name between the dots is empty")
    for parent in parents:
        child = data.setdefault(parent, {})
        if not isinstance(child, dict):
            raise UserError(f"override {override!r}: {parent} is not a mapping")
        data = child
    value = parse(text, f"override {override!r}")
    data[last] = _number(value) if isinstance(value, str) else value


def from_mapping(cls: type[ConfigT], data: Any, where: str, base: ConfigT | None = None) -> ConfigT:
    """A dataclass from a mapping; ``where`` (file and key) begins every error message.

    What the mapping does not name is as in ``base``, or has its default.
    """
    if not isinstance(data, dict):
        raise UserError(f"{where}: expected a mapping, found {shown(data)}")
    upgrade = getattr(cls, "upgrade", None)  # keys that earlier releases wrote
    if upgrade is not None:
        data = upgrade(data)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            near = nearest(str(key), fields, always=True) or "; nothing can be set here"
            raise UserError(f"{where}: unknown key {shown(key)}{near}")
    hints = typing.get_type_hints(cls)
    before = {
        name: _default(f) if base is None else getattr(base, name) for name, f in fields.items()
    }
    # a key with nothing behind it unsets a text that is empty by default: init=
    values = {
        key: ""
        if value is None and fields[key].default == ""
        else _convert(hints[key], value, f"{where}: {key}", before[key])
        for key, value in data.items()
    }
    missing = [n for n in fields if n not in values and before[n] is dataclasses.MISSING]
    if missing:
        raise UserError(f"{where}: missing key {missing[0]!r}")
    try:
        return cls(**(values if base is None else before | values))
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def check_fields(config: Any) -> None:
    """Hold the fields of a (frozen) dataclass to its type hints, for its ``__post_init__``.

    So what is made in Python is checked as what is read from YAML: numbers and names are refused
    where they are wrong (UserError), and the name of a ``Choice`` becomes its member.
    """
    hints = typing.get_type_hints(type(config))
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if isinstance(value, numbers.Number):  # numpy's numbers are as good as Python's
            value = getattr(value, "item", lambda number=value: number)()
        object.__setattr__(config, f.name, _convert(hints[f.name], value, f.name))


def _default(field: dataclasses.Field[Any]) -> Any:
    """What a field holds that is not given; MISSING if it must be."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def at_least(config: Any, least: int, *names: str) -> None:
    """Raise UserError unless each named field (a number, a tuple of them, or None) is ``least`` or
    more.
    """
    for name in names:
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None and not number >= least:  # NaN is less, too
                raise UserError(f"{name} must be at least {least}, not {number}")


def at_most(config: Any, most: int, *names: str) -> None:
    """Raise UserError if a named field (a number) is more than ``most``."""
    for name in names:
        if getattr(config, name) > most:
            raise UserError(f"{name} is at most {most:,}, not {shown(getattr(config, name))}")


def _convert(hint: Any, value: Any, where: str, default: Any = None) -> Any:
    """``value`` as the type ``hint``; a table is laid over ``default`` where that is a config."""
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _one_of(typing.get_args(hint), value, where, default)
    if origin is typing.Literal:
        if value not in typing.get_args(hint):
            known = [str(argument) for argument in typing.get_args(hint)]
            near = nearest(str(value), known)
            raise UserError(f"{where}: {shown(value)} is not one of {', '.join(known)}{near}")
        return value
    if isinstance(hint, type) and issubclass(hint, Choice):
        return choose(hint, value, where, default)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        base = default if isinstance(default, hint) else None  # type: ignore[arg-type]
        return from_mapping(hint, value, where, base)  # type: ignore[arg-type]
    if origin in (dict, tuple, list):
        return _collection(origin, typing.get_args(hint), value, where)
    return _scalar(hint, value, where)


def _one_of(options: tuple[Any, ...], value: Any, where: str, default: Any) -> Any:
    """The first of some types that fits; the first one's error if none does."""
    if value is None and type(None) in options:
        return None
    errors = []
    for option in options:
        if option is not type(None):
            try:
                return _convert(option, value, where, default)
            except UserError as error:
                errors.append(error)
    raise errors[0]


def _collection(kind: type, arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    """A dict, list or tuple of converted elements."""
    if kind is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where}: expected a mapping, found {shown(value)}")
        return {str(k): _convert(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{where}: expected a list, found {shown(value)}")
    if kind is tuple and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise UserError(f"{where}: expected {len(arguments)} values, found {shown(value)}")
        return tuple(_convert(a, v, where) for a, v in zip(arguments, value, strict=True))
    return kind(_convert(arguments[0], v, where) for v in value)


def _scalar(hint: Any, value: Any, where: str) -> Any:
    """A number (numpy's too), a string or a truth value."""
    if hint is float:
        value = _number(value) if isinstance(value, str) else value
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise UserError(f"{where}: expected a number, found {shown(value)}")
        try:
            return float(value)
        except OverflowError:
            raise UserError(f"{where}: {shown(value)} is too large") from None
    if hint is int:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise UserError(f"{where}: expected int, found {shown(value)}")
        return int(value)
    if hint not in (str, bool):
        raise TypeError(f"no rule to read a config value of type {hint}")
    if not isinstance(value, hint):
        raise UserError(f"{where}: expected {hint.__name__}, found {shown(value)}")
    return value


def choose(family: type[Choice], value: Any, where: str, default: Any = None) -> Any:
    """A member of a family of kinds, from its name or a mapping that begins with its ``type``. A
    mapping for a member that is the default already changes only what it names.
    """
    if isinstance(value, family):
        return value
    given = {"type": value} if isinstance(value, str) else value
    if isinstance(given, dict) and family.default_name:
        given = {"type": family.default_name, **given}
    if not isinstance(given, dict) or not isinstance(given.get("type"), str):
        raise UserError(f"{where}: expected a name or a mapping with 'type', found {shown(value)}")
    try:
        member = family.find(given["type"])
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    base = default if type(default) is member and isinstance(value, dict) else None
    return from_mapping(member, {k: v for k, v in given.items() if k != "type"}, where, base)


def _number(text: str) -> Any:
    """YAML 1.1 reads ``1e-3`` as text."""
    try:
        return float(text)
    except ValueError:
        return text


def to_mapping(config: Any) -> Any:
    """A dataclass tree as plain mappings and lists."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        named = {"type": config.type_name} if isinstance(config, Choice) else {}
        fields = [f.name for f in dataclasses.fields(config) if f.init and not _left_out(config, f)]
        return named | {name: to_mapping(getattr(config, name)) for name in fields}
    if isinstance(config, dict):
        return {key: to_mapping(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_mapping(value) for value in config]
    return config


# Of a field that earlier releases did not have: ``field(default=..., metadata=ADDED)``. Mappings
# leave it out while it has its default, so that they equal those that earlier releases wrote.
ADDED = {"added": True}


def _left_out(config: Any, field: dataclasses.Field[Any]) -> bool:
    return "added" in field.metadata and getattr(config, field.name) == field.default


def dump(config: Any, path: str | Path) -> None:
    """Write the resolved config as YAML."""
    Path(path).write_text(yaml.safe_dump(to_mapping(config), sort_keys=False))
