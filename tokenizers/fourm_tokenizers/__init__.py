"""Tokenizers: raw modalities <-> ids, and the program that trains them."""
