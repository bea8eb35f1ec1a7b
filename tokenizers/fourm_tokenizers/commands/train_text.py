"""``fourm train-text FILE... --out DIR``"""

from __future__ import annotations

from pathlib import Path

import click

from fourm.cli.verb import COUNT, PATH, verb


@verb()
@click.argument("inputs", nargs=-1, required=True, type=PATH, metavar="FILE...")
@click.option("--out", required=True, type=PATH, help="Folder for tokenizer.json.")
@click.option("--vocab-size", type=COUNT, default=30000, help="Ids in all.")
@click.option("--sentinels", type=click.IntRange(min=0), default=200, help="Marks of gaps.")
@click.option(
    "--bins", type=click.IntRange(min=0), default=1000, help="Coordinates of each of four axes."
)
@click.option(
    "--words",
    type=PATH,
    help="File of names that stay whole, one a line (left out: the 80 classes of COCO).",
)
def command(
    inputs: tuple[Path, ...], out: Path, vocab_size: int, sentinels: int, bins: int, words: Path
) -> None:
    """Train a text tokenizer on captions.

    FILEs are text files of one caption a line, CSV files with a column 'caption', or folders of
    text files.
    """
    from fourm_tokenizers.text import TextConfig, train_text_tokenizer
    from fourm_tokenizers.train_text import COCO_CLASSES, caption_lines

    whole = COCO_CLASSES
    if words is not None:
        whole = tuple(dict.fromkeys(line for line in caption_lines([words]) if line))
    config = TextConfig(vocab_size=vocab_size, num_sentinels=sentinels, num_bins=bins, words=whole)
    tokenizer = train_text_tokenizer(config, caption_lines(list(inputs)), out)
    print(f"{out}: {tokenizer.get_vocab_size()} ids")
