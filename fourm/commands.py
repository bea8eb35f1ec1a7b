"""How every command ends: a user's mistake is one line and exit status 2, an interruption says that
nothing is lost.
"""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Callable
from typing import Any

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def run_command(action: Callable[[], Any]) -> None:
    """Run ``action``; turn a user's mistake or a file system's refusal into one line (exit 2) and
    an interruption into exit 130.
    """
    from fourm.training.loop import Interrupted

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "huggingface_hub", "accelerate", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        action()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno is None:
            raise
        where = f" ({error.filename})" if error.filename else ""
        kept = (
            "; what is finished is kept, the same command goes on from there"
            if error.errno in _NO_ROOM
            else ""
        )
        print(f"error: {error.strerror}{where}{kept}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, Interrupted) as error:
        print(
            f"\n{str(error) or 'interrupted; what is finished is kept, the same command goes on from there'}",
            file=sys.stderr,
        )
        sys.exit(130)
