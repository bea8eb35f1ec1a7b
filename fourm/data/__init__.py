"""Shards on disk, their columnar cache, the order of samples, and masked batches made from them."""
