"""``fourm inspect RAW --config FILE``, ``fourm inspect --leaks TRAIN HELD_OUT``,
``fourm inspect --verify FOLDER``
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fourm.cli.verb import PATH, verb
from fourm.errors import UserError

if TYPE_CHECKING:
    from fourm_data_prep.survey import Found

_SHARES_SHOWN = 12
_DAMAGE_SHOWN = 8  # the page has more


@verb()
@click.argument("raw", type=PATH, required=False)
@click.option("--config", type=PATH, help="YAML file of modalities.")
@click.option(
    "--out",
    type=PATH,
    help="Page to write (left out: RAW/inspect.html); its folder with --leaks (left out: leaks).",
)
@click.option("--json", "json_out", type=PATH, help="File for all figures as JSON.")
@click.option(
    "--tokenizers",
    type=PATH,
    help="Folder of tokenizers: tells what raw sequences lose when they become tokens.",
)
@click.option(
    "--leaks",
    type=PATH,
    nargs=2,
    metavar="TRAIN HELD_OUT",
    help="Find training pictures and captions that are held out, too.",
)
@click.option(
    "--verify",
    type=PATH,
    metavar="FOLDER",
    help="Compare all chunks of columns below a folder with their checksums.",
)
@click.option("--pictures", default="rgb", help="Modality that --leaks compares.")
@click.option("--captions", default="caption", help="Modality of its captions.")
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=0,
    help="Processes of --leaks, threads of --verify.",
)
def command(
    raw: Path | None,
    config: Path | None,
    out: Path | None,
    json_out: Path | None,
    tokenizers: Path | None,
    leaks: tuple[Path, Path] | None,
    verify: Path | None,
    pictures: str,
    captions: str,
    workers: int,
) -> None:
    """Tell what shards hold; find leaks and damage.

    RAW is a folder of raw shards, or of token shards; all its modalities are shown. --leaks takes
    splits of raw shards (data/raw/train data/raw/val), or folders of tars or of picture files.
    """
    if verify is not None:
        if raw is not None or leaks is not None:
            raise click.UsageError("--verify takes one folder and neither RAW nor --leaks")
        _verify(verify, workers)
        return
    if leaks is not None:
        if raw is not None or config is not None:
            raise click.UsageError("--leaks takes two folders and neither RAW nor --config")
        _leaks(*leaks, out or Path("leaks"), pictures, captions, workers)
        return
    if raw is None or config is None:
        raise click.UsageError(
            "give RAW and --config FILE, --leaks TRAIN HELD_OUT or --verify FOLDER"
        )
    from fourm_data_prep.inspect import inspect

    page = out or raw / "inspect.html"
    found = inspect(raw, config, page, tokenizers, json_out)
    for count in found.found:
        print(
            f"{count.split:<6} {count.modality:<12} {count.samples:>9,} samples"
            f" {count.shards:>6} shards {count.damaged:>6} damaged {count.megabytes:>10.1f} MB"
        )
        print("\n".join(_numbers(count)), end="\n" if count.spreads or count.tally.counts else "")
    for count in found.found:
        for line in count.remarks.lines():
            print(f"{count.split}: {line}")
    for entry in found.damage.entries[:_DAMAGE_SHOWN]:
        print(f"damaged: {entry.shard}: {entry.key}: {entry.reason}")
    for split, held in found.together.items():
        print(f"{split}: samples by the modalities that they have")
        print("\n".join(held.lines()))
    print(page)


def _numbers(found: Found) -> list[str]:
    """What a terminal shows of numbers and classes."""
    lines = []
    for name, spread in found.spreads.items():
        low, middle, high = spread.percentiles((1.0, 50.0, 99.0))
        lines.append(
            f"       {name}: {spread.low:.4g} ({spread.low_key}) .. {spread.high:.4g}"
            f" ({spread.high_key}); 1 % {low:.4g}, 50 % {middle:.4g}, 99 % {high:.4g}"
        )
    shares = list(found.tally.shares().items())
    if shares:
        shown = ", ".join(f"{name} {share:.1%}" for name, share in shares[:_SHARES_SHOWN])
        rest = len(shares) - _SHARES_SHOWN
        lines.append(f"       {shown}" + (f" and {rest} more" if rest > 0 else ""))
    return lines


def _leaks(
    train: Path, held_out: Path, out: Path, pictures: str, captions: str, workers: int
) -> None:
    from fourm_data_prep.leaks.find import find_leaks, write_leaks
    from fourm_data_prep.leaks.folders import Folder

    folders = Folder(train, pictures, captions), Folder(held_out, pictures, captions)
    found = find_leaks(*folders, workers)
    write_leaks(found, *folders, out)
    num = found.num_train + found.num_held_out
    print(
        f"{num:,} pictures in {found.seconds:.1f} s ({num / found.seconds:.0f} a second):"
        f" {len(found.pictures)} pairs, {found.num_plain} held-out pictures plain;"
        f" {len(found.captions)} pairs of captions; {len(found.exclude)} training keys to leave out"
    )
    for name in ("leaks.html", "leaks.json", "exclude.txt"):
        print(out / name)


def _verify(folder: Path, workers: int) -> None:
    from fourm_data_prep.verify import verify

    found = verify(folder, max(1, workers), lambda error: print(error, flush=True))
    rate = found.num_bytes / 1e9 / max(found.seconds, 1e-9)
    print(
        f"{found.num_chunks:,} chunks, {found.num_bytes / 1e9:.2f} GB in {found.seconds:.1f} s"
        f" ({rate:.1f} GB/s)"
    )
    if found.num_damaged:
        raise UserError(
            f"{found.num_damaged} of {found.num_chunks} chunks are damaged: delete their folders"
            " and make them again"
        )
    print("no damage")
