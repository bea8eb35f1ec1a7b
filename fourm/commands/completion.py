"""``fourm completion bash|zsh|fish``"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from fourm.cli.verb import verb


@verb()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the script for completion in a shell.

    For bash: fourm completion bash >> ~/.bashrc
    """
    found = get_completion_class(shell)
    assert found is not None
    print(found(context.find_root().command, {}, "fourm", "_FOURM_COMPLETE").source())
