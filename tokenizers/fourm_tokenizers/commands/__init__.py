"""The verbs of ``fourm`` that train and judge tokenizers, a file each."""
