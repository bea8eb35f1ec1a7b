"""How every command ends: a user's mistake is one line and exit status 2, an interruption says that nothing is lost."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any


def run_command(action: Callable[[], Any]) -> None:
    """Run ``action``; turn ValueError into a one-line message (exit 2) and an interruption into exit 130."""
    from fourm.training.loop import Interrupted

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "huggingface_hub", "accelerate", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        action()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, Interrupted) as error:
        print(f"\n{error or 'interrupted'}", file=sys.stderr)
        sys.exit(130)
