"""Door of earlier releases: ``python -m fourm.fusion.adapt`` is ``fourm adapt``."""

from fourm.alignment.adapt import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
