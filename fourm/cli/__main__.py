"""Door of earlier releases: ``python -m fourm.cli`` is ``fourm``."""

from fourm.__main__ import main

if __name__ == "__main__":
    main()
