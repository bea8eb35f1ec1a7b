"""The verbs of ``fourm`` that need the core alone, a file each; found through entry points."""
