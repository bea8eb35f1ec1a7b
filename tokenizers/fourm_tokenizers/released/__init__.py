"""Tokenizers of the released 4M family (``EPFL-VILAB/4M_tokenizers_*``), for coding and
decoding.
"""
