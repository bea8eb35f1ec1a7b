"""What a trained encoder is good for: features of whole splits, probes of them, search by them."""
