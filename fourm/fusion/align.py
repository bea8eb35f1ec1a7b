"""Door of earlier releases: ``python -m fourm.fusion.align`` is ``fourm align``."""

from fourm.alignment.align import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
