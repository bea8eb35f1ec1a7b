"""The verbs of ``fourm`` that make shards, a file each."""
