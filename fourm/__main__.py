"""``fourm`` and ``python -m fourm`` begin here; so does
``accelerate launch -m fourm pretrain CONFIG``.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run ``fourm`` on the process's arguments."""
    try:
        # in here, so that Ctrl-C while it is being imported is an interruption like any other
        from fourm.cli import main as run

        run()
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
