"""``fourm publish FOLDER``"""

from __future__ import annotations

from pathlib import Path

import click

from fourm.cli.verb import PATH, verb


@verb()
@click.argument("folder", type=PATH)
@click.option(
    "--block",
    type=click.IntRange(min=4096),
    default=2**20,
    show_default=True,
    help="Bytes that a reader fetches and keeps at a time.",
)
def command(folder: Path, block: int) -> None:
    """List a folder for reading over a network.

    FOLDER holds tokens or raw shards. Its published.json names all files with checksums; upload it
    with them, and set data.sources to the address, e.g. tokens: s3://bucket/tokens.
    """
    from fourm.data.remote.published import PUBLISHED_FILE, publish

    files = publish(folder, block)
    num_bytes = sum(file.size for file in files.values())
    print(f"{folder / PUBLISHED_FILE}: {len(files)} files, {num_bytes / 1e9:.2f} GB")
