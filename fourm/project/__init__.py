"""A project: a folder of configs, shards, tokenizers, checkpoints and a report, stage by stage."""
