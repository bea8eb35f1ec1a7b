#!/usr/bin/env bash
# Pictures of `emoji_styles.py` -> raw shards -> cached latents of every style and of the captions.   bash examples/style_latents.sh runs/styles
set -euo pipefail
root=${1:-runs/styles}
config=$(dirname "$0")/../configs/modalities/pictures.yaml
for style in fluent google twemoji openmoji line; do
  fourm import "$root/pictures/$style" --config "$config" --out "$root/raw/$style"
  fourm latents "$root/raw/$style" --config "$config" --modality rgb --encoder efficientnet --out "$root/latents/$style"
done
fourm latents "$root/raw/fluent" --config "$config" --modality caption --encoder minilm --out "$root/latents/caption"
