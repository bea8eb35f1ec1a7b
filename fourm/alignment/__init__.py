"""Alignment of frozen encoders on cached latents: FuseMix, Alt-MoE, UniMoS (see
``docs/alignment.md``).
"""
