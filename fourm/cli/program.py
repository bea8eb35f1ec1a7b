"""``fourm <verb>``: verbs are found by their entry points and imported when they are called.

A package adds a verb by naming a click command in its pyproject.toml:

    [project.entry-points."fourm.commands"]
    crawl = "my_package.commands.crawl:command"

So the core knows none of the packages that stand on it. A command's module imports nothing heavy
itself (``fourm --help`` loads them all); what a command needs, it imports as it runs.
"""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

import fourm
from fourm.cli.ending import Ending, ending_of, tell
from fourm.cli.verb import debug_option, is_debugging
from fourm.progress import is_news

GROUP = "fourm.commands"


@cache
def verbs() -> dict[str, EntryPoint]:
    """Where the verbs of all installed packages are, by name in alphabetical order."""
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP))}


class Program(click.Group):
    """All verbs of all installed packages; none is imported before it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in alphabetical order."""
        return list(verbs())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb of a name, imported now; None if there is none."""
        entry = verbs().get(cmd_name)
        return entry.load() if entry else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb that the arguments begin with. Raises UsageError with the nearest name."""
        name = args[0]
        if name not in verbs():
            near = difflib.get_close_matches(name, verbs(), n=1, cutoff=0.0)
            if not near:
                raise click.UsageError("fourm has no commands here: install the package again")
            raise click.UsageError(f"unknown command {name!r}; did you mean {near[0]!r}?", ctx)
        return name, self.get_command(ctx, name), args[1:]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; what it raises becomes its ending, unless that is a fault of ours."""
        try:
            return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            verb = self.get_command(ctx, ctx.invoked_subcommand or "")
            ending = ending_of(error, verb)
            if ending is None or is_debugging(ctx):
                raise
            tell(ending)
            ctx.exit(ending.status)


@click.group(
    cls=Program,
    help="Any-to-any multimodal masked modelling.",
    context_settings={"max_content_width": 100},
)
@click.version_option(fourm.__version__, prog_name="fourm", message="%(prog)s %(version)s")
def program() -> None:
    """What all verbs share: log lines as they are, each from one rank, libraries quiet."""
    lines = logging.StreamHandler(sys.stderr)
    lines.addFilter(is_news)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[lines])
    for noisy in ("httpx", "huggingface_hub", "accelerate", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


program.params.append(debug_option())


def main(arguments: list[str] | None = None) -> None:
    """Run ``fourm`` on these arguments (the process's if None).

    Returns after success; exits with status 2 after a user's mistake and 130 after an interruption.
    """
    try:
        status = program.main(arguments, prog_name="fourm", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        status = 2
    except click.ClickException as error:  # in the options before the verb
        ending = ending_of(error, None)
        assert ending is not None
        tell(ending)
        status = ending.status
    except click.Abort:
        tell(Ending("\ninterrupted", 130))
        status = 130
    if status:
        sys.exit(status)


def door(verb: str) -> Callable[..., None]:
    """The ``main`` that a module of earlier releases offered: its arguments go to ``fourm verb``.

    ``python -m fourm.training.pretrain --config X`` is ``fourm pretrain --config X``.
    """

    def enter(arguments: list[str] | None = None) -> None:
        main([verb, *(sys.argv[1:] if arguments is None else arguments)])

    return enter
