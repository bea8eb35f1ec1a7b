"""Heads on an encoder, a file each; chosen by the file's name."""

from fourm.finetune.heads._protocol import Head as Head
