"""Data preparation: images and captions -> raw shards -> token shards."""
