"""``fourm fusion ...``: what the verbs of alignment were called up to 0.4.0."""

from __future__ import annotations

import click

from fourm.commands import adapt, align, embed, evaluate_adaptation, evaluate_alignment

command = click.Group(
    "fusion",
    hidden=True,
    help="Former names of align, adapt, evaluate-alignment, evaluate-adaptation and embed.",
    commands={
        "align": align.command,
        "adapt": adapt.command,
        "evaluate": evaluate_alignment.command,
        "accuracy": evaluate_adaptation.command,
        "embed": embed.command,
    },
)
