"""What the verbs of ``fourm`` have in common: the kind of command, and idioms of their options.

A program with a config takes ``CONFIG [KEY=VALUE]...``; all else is ``--name VALUE``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

_DEBUG = "fourm.debug"
PATH = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)
SEED = click.IntRange(min=0, max=2**62)  # so that seed + number of a sample stays an int64
SHARE = click.FloatRange(0.0, 1.0)


class Verb(click.Command):
    """One command of ``fourm``.

    ``resumes``: what is finished when it is cut short is kept, and the same command goes on.
    """

    def __init__(self, *arguments: Any, resumes: bool = False, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.resumes = resumes
        self.context_settings = {"show_default": True, **self.context_settings}
        self.params.append(debug_option())


def verb(*, resumes: bool = False, hidden: bool = False) -> Callable[[Callable[..., Any]], Verb]:
    """Make a function a ``Verb``; its docstring is the help, its options are click's."""
    return click.command(cls=Verb, resumes=resumes, hidden=hidden)


def debug_option() -> click.Option:
    """``--debug``, understood before the verb and after it."""
    return click.Option(
        ["--debug"],
        is_flag=True,
        is_eager=True,  # before the other options, whose errors it is about
        expose_value=False,
        callback=_debug,
        show_default=False,
        help="Show the traceback of every error.",
    )


def _debug(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        context.meta[_DEBUG] = True  # one mapping for the context and all above it


def is_debugging(context: click.Context) -> bool:
    """True if ``--debug`` was given."""
    return context.meta.get(_DEBUG, False)


def takes_config(action: Callable[..., Any]) -> Callable[..., Any]:
    """Arguments ``CONFIG [KEY=VALUE]...``: calls ``action(config: Path, overrides: list[str])``.

    ``--config CONFIG`` is the same, for scripts that are used to it.
    """

    @click.argument("words", nargs=-1, metavar="CONFIG [KEY=VALUE]...")
    @click.option("--config", "named", type=PATH, help="The same as CONFIG.")
    @wraps(action)
    def run(words: tuple[str, ...], named: Path | None, **options: Any) -> Any:
        if named is None and not words:
            context = click.get_current_context()
            raise click.UsageError("no config: give a YAML file", context)
        config = named if named is not None else Path(words[0])
        overrides = list(words if named is not None else words[1:])
        return action(config=config, overrides=overrides, **options)

    return run
