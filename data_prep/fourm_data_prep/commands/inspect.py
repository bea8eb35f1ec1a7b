"""``fourm inspect RAW --config FILE``, ``fourm inspect --leaks TRAIN HELD_OUT``"""

from __future__ import annotations

from pathlib import Path

import click

from fourm.cli.verb import PATH, verb


@verb()
@click.argument("raw", type=PATH, required=False)
@click.option("--config", type=PATH, help="YAML file of modalities.")
@click.option(
    "--out",
    type=PATH,
    help="Page to write (left out: RAW/inspect.html); its folder with --leaks (left out: leaks).",
)
@click.option(
    "--leaks",
    type=PATH,
    nargs=2,
    metavar="TRAIN HELD_OUT",
    help="Find training pictures and captions that are held out, too.",
)
@click.option("--pictures", default="rgb", help="Modality that --leaks compares.")
@click.option("--captions", default="caption", help="Modality of its captions.")
@click.option("--workers", type=click.IntRange(min=0), default=0, help="Processes of --leaks.")
def command(
    raw: Path | None,
    config: Path | None,
    out: Path | None,
    leaks: tuple[Path, Path] | None,
    pictures: str,
    captions: str,
    workers: int,
) -> None:
    """Count raw shards and show samples; find leaks.

    RAW is a folder of raw shards; all its modalities are shown. --leaks takes splits of raw shards
    (data/raw/train data/raw/val), or folders of tars or of picture files.
    """
    if leaks is not None:
        if raw is not None or config is not None:
            raise click.UsageError("--leaks takes two folders and neither RAW nor --config")
        _leaks(*leaks, out or Path("leaks"), pictures, captions, workers)
        return
    if raw is None or config is None:
        raise click.UsageError("give RAW and --config FILE, or --leaks TRAIN HELD_OUT")
    from fourm_data_prep.inspect import inspect

    page = out or raw / "inspect.html"
    counts, together = inspect(raw, config, page)
    for count in counts:
        print(
            f"{count.split:<6} {count.modality:<12} {count.samples:>9,} samples"
            f" {count.shards:>6} shards {count.damaged:>6} damaged {count.megabytes:>10.1f} MB"
        )
    for split, found in together.items():
        print(f"{split}: samples by the modalities that they have")
        print("\n".join(found.lines()))
    print(page)


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
        f" {len(found.pictures)} pairs, {found.num_plain} held-out pictures too plain for crops;"
        f" {len(found.captions)} pairs of captions; {len(found.exclude)} training keys to leave out"
    )
    for name in ("leaks.html", "leaks.json", "exclude.txt"):
        print(out / name)
