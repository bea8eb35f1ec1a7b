"""Files of ours: JSON, YAML, safetensors, their formats; what is refused before it is read."""
