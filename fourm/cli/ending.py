"""How every command ends.

A user's mistake and a file system's refusal are one line and status 2; an interruption is one line
and status 130; a stage that failed ends the project that runs it with the stage's own line. All
else is a fault of this software: it keeps its traceback, and status 1.
"""

from __future__ import annotations

import errno
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from fourm.cli.extras import where_to_get
from fourm.errors import Interrupted, ProcessesLost, StageFailed, UserError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
INTERRUPTED = 130  # status after Ctrl-C, 128 + SIGINT
_PIPE_CLOSED = 141  # 128 + SIGPIPE, what a shell reports of any other program
_KEPT = "what is finished is kept, the same command goes on from there"

# A stage of a project writes its last line into this file, and the project prints it when all its
# stages have stopped: so it is the last thing on the screen, whatever the others had to say.
LAST_LINE = "FOURM_LAST_LINE"


@dataclass(frozen=True)
class Ending:
    """The last line of a command and its exit status."""

    line: str
    status: int


def ending_of(error: BaseException, verb: click.Command | None) -> Ending | None:
    """How a command that raised ``error`` ends; None for a fault of ours.

    A verb that ``resumes`` says so where it is cut short.
    """
    resumes = getattr(verb, "resumes", False)
    match error:
        case click.ClickException():
            return Ending(f"error: {_with_help(error)}", 2)
        case UserError():
            return Ending(f"error: {error}", 2)
        case StageFailed():
            return Ending(str(error), error.status)
        case ModuleNotFoundError():
            advice = where_to_get(error.name or "")
            return Ending(f"error: this needs {error.name}: {advice}", 2) if advice else None
        case BrokenPipeError():  # who reads our output has seen enough: `fourm ... | head`
            return Ending("", _PIPE_CLOSED)
        case OSError() if error.errno is not None:
            where = f" ({error.filename})" if error.filename else ""
            kept = f"; {_KEPT}" if resumes and error.errno in _NO_ROOM else ""
            return Ending(f"error: {error.strerror}{where}{kept}", 2)
        case ProcessesLost():
            return Ending(f"\nerror: {error}", 1)
        case Interrupted():
            return Ending(f"\n{error}", INTERRUPTED)
        case KeyboardInterrupt():
            return Ending(f"\ninterrupted{f'; {_KEPT}' if resumes else ''}", INTERRUPTED)
    return None


def _with_help(error: click.ClickException) -> str:
    message = error.format_message().replace("\n", " ")
    context = getattr(error, "ctx", None)
    return f"{message.rstrip('.')} (see {context.command_path} --help)" if context else message


def tell(ending: Ending) -> None:
    """Print the line, or hand it to the project whose stage this is."""
    if not ending.line:
        # what is still in the buffer has no reader, and must not fail again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    file = os.environ.get(LAST_LINE)
    if file and Path(file).parent.is_dir():  # it is gone where the project ended before its stage
        Path(file).write_text(ending.line)
    else:
        print(ending.line, file=sys.stderr)
