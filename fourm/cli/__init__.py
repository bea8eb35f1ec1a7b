"""The program ``fourm``: how verbs are found, what their options have in common, how each ends.

The verbs themselves lie in the ``commands`` folder of the package whose work they start.
"""

from fourm.cli.program import door, main

__all__ = ["door", "main"]
