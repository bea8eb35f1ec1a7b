"""``fourm search INDEX --caption TEXT``"""

from __future__ import annotations

from pathlib import Path

import click

from fourm.cli.verb import COUNT, PATH, verb
from fourm.errors import UserError


@verb()
@click.argument("index", type=PATH)
@click.option("--caption", help="Short for --input caption=...")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME=VALUE",
    help="A text, a picture file, a .json or .npy file; several are one query.",
)
@click.option("--top", type=COUNT, default=10, help="Samples that are shown.")
@click.option(
    "--rerank",
    type=click.IntRange(min=0),
    default=0,
    help="Put so many of the nearest in order by the query's likelihood; 0 = none.",
)
@click.option("--out", type=PATH, help="The page; INDEX/results.html if left out.")
def command(
    index: Path,
    caption: str | None,
    inputs: tuple[str, ...],
    top: int,
    rerank: int,
    out: Path | None,
) -> None:
    """Find the samples nearest to a query.

    INDEX is a folder of `fourm index`.
    """
    from fourm.features.index import open_index
    from fourm.features.search import search, write_results

    opened = open_index(index)
    given = {} if caption is None else {"caption": caption}
    for text in inputs:
        name, sign, value = text.partition("=")
        if not sign:
            raise UserError(f"--input {text!r} is not of the form NAME=VALUE")
        given[name] = value
    raws = {name: opened.pipe.modalities[name].raw for name in given}
    query = {name: raws[name].from_argument(value) for name, value in given.items()}
    hits = search(opened, query, top, rerank)
    for number, hit in enumerate(hits):
        print(f"{number + 1:>3} {hit.score:>8.3f} {hit.key}")
    page = out or index / "results.html"
    write_results(opened, query, hits, page)
    print(f"results: {page}")
