"""Typed configs from YAML: dataclasses in, errors that name the key out.

A config is a tree of dataclasses. ``load`` reads YAML into it, applies ``a.b=value`` overrides, and
refuses unknown keys with the nearest known one; ``dump`` writes the resolved tree so that it can be
passed back unchanged.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml

from fourm.choices import Choice
from fourm.errors import UserError

ConfigT = TypeVar("ConfigT")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file with a mapping at its top. Raises UserError where it is missing or no mapping."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no config file {path}")
    try:
        data = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} must hold a mapping of keys to values")
    return data


def load(cls: type[ConfigT], path: str | Path, overrides: list[str] | None = None) -> ConfigT:
    """The config in a YAML file, changed by overrides such as ``optimizer.lr=3e-4``."""
    data = read_yaml(path)
    for override in overrides or []:
        apply_override(data, override)
    return from_mapping(cls, data, str(path))


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set one ``a.b.c=value`` in nested mappings; the value is read as YAML."""
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise UserError(f"override {override!r} is not of the form key=value")
    *parents, last = key.split(".")
    for parent in parents:
        child = data.setdefault(parent, {})
        if not isinstance(child, dict):
            raise UserError(f"override {override!r}: {parent} is not a mapping")
        data = child
    value = yaml.safe_load(text)
    data[last] = _number(value) if isinstance(value, str) else value


def from_mapping(cls: type[ConfigT], data: Any, where: str) -> ConfigT:
    """A dataclass from a mapping; ``where`` (file and key) begins every error message."""
    if not isinstance(data, dict):
        raise UserError(f"{where}: expected a mapping, found {data!r}")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.0)
            raise UserError(f"{where}: unknown key {key!r}; did you mean {near[0]!r}?")
    hints = typing.get_type_hints(cls)
    values = {key: _convert(hints[key], value, f"{where}: {key}") for key, value in data.items()}
    missing = [
        name
        for name, f in fields.items()
        if name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UserError(f"{where}: missing key {missing[0]!r}")
    try:
        return cls(**values)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        options = [a for a in arguments if a is not type(None)]
        errors = []
        for option in options:
            try:
                return _convert(option, value, where)
            except ValueError as error:
                errors.append(error)
        raise errors[0]
    if origin is typing.Literal:
        if value not in arguments:
            raise UserError(f"{where}: {value!r} is not one of {', '.join(map(str, arguments))}")
        return value
    if isinstance(hint, type) and issubclass(hint, Choice):
        return _choose(hint, value, where)
    if dataclasses.is_dataclass(hint):
        return from_mapping(hint, value, where)  # type: ignore[arg-type]
    if origin is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where}: expected a mapping, found {value!r}")
        return {str(k): _convert(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if origin in (tuple, list):
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where}: expected a list, found {value!r}")
        if origin is tuple and arguments and arguments[-1] is not Ellipsis:
            if len(value) != len(arguments):
                raise UserError(f"{where}: expected {len(arguments)} values, found {value!r}")
            return tuple(_convert(a, v, where) for a, v in zip(arguments, value, strict=True))
        return origin(_convert(arguments[0], v, where) for v in value)
    if hint is float:
        value = _number(value) if isinstance(value, str) else value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UserError(f"{where}: expected a number, found {value!r}")
        return float(value)
    if hint in (int, str, bool):
        if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
            raise UserError(f"{where}: expected {hint.__name__}, found {value!r}")
        return value
    raise TypeError(f"no rule to read a config value of type {hint}")


def _choose(family: type[Choice], value: Any, where: str) -> Any:
    """A member of a family of kinds, from its name or a mapping that begins with its ``type``."""
    if isinstance(value, family):
        return value
    given = {"type": value} if isinstance(value, str) else value
    if isinstance(given, dict) and family.default_name:
        given = {"type": family.default_name, **given}
    if not isinstance(given, dict) or not isinstance(given.get("type"), str):
        raise UserError(f"{where}: expected a name or a mapping with 'type', found {value!r}")
    try:
        member = family.find(given["type"])
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return from_mapping(member, {k: v for k, v in given.items() if k != "type"}, where)


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
        fields = [f.name for f in dataclasses.fields(config) if f.init]
        return named | {name: to_mapping(getattr(config, name)) for name in fields}
    if isinstance(config, dict):
        return {key: to_mapping(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_mapping(value) for value in config]
    return config


def dump(config: Any, path: str | Path) -> None:
    """Write the resolved config as YAML."""
    Path(path).write_text(yaml.safe_dump(to_mapping(config), sort_keys=False))
