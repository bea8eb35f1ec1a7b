"""``fourm import SOURCE --config FILE --out DIR``"""

from __future__ import annotations

from pathlib import Path

import click

from fourm.cli.verb import PATH, SHARE, verb
from fourm_data_prep.engine_options import EngineConfig, takes_engine


@verb(resumes=True)
@click.argument("source")
@click.option(
    "--config",
    "--modalities",
    "config",
    required=True,
    type=PATH,
    help="YAML file of modalities: what is taken, or made of each picture.",
)
@click.option(
    "--size",
    type=click.IntRange(min=0),
    default=0,
    help="Store the widest modality at this many pixels, for crops later; 0 = its own size.",
)
@click.option("--out", required=True, type=PATH, help="Folder of raw shards.")
@click.option(
    "--layout",
    type=click.Choice(["folders", "names", "pictures"]),
    help="FOLDER/<modality>/<name>.<ext>, FOLDER/<name>.<modality>.<ext>, or pictures of which the"
    " rest is made; left out = as the files are named.",
)
@click.option(
    "--columns",
    multiple=True,
    metavar="MODALITY=COLUMN,...",
    help="Columns of a table or data set with files or values of each modality.",
)
@click.option(
    "--require", default="", metavar="NAMES", help="Leave out samples that lack one: rgb,caption."
)
@click.option(
    "--split-by",
    default="",
    metavar="COLUMN|folder|SHARES",
    help="Split of each sample: a column, the outermost folder, or shares such as val=0.1,test=0.1"
    " by a hash of its name (left out: val=0.1).",
)
@click.option(
    "--group-by",
    default="",
    metavar="COLUMN|folder",
    help="Samples that are equal in this are never in two splits.",
)
@click.option(
    "--max-damage",
    type=SHARE,
    default=0.05,
    help="Largest share of samples that may be unreadable.",
)
@takes_engine
def command(
    source: str,
    config: Path,
    size: int,
    out: Path,
    layout: str | None,
    columns: tuple[str, ...],
    require: str,
    split_by: str,
    group_by: str,
    max_damage: float,
    engine: EngineConfig,
) -> None:
    """Own data to raw shards.

    SOURCE is a folder of pictures (captions in NAME.txt or a table), of files of each modality
    (FOLDER/rgb/a.png, FOLDER/depth/a.npy, or a.rgb.png, a.depth.npy), or of tars; a table;
    hf:DATASET[:SPLIT]; or a YAML file of rasters that tiles are cut from.
    """
    from fourm_data_prep.columns import parse_columns
    from fourm_data_prep.importing import Taking, import_pictures
    from fourm_data_prep.splits import parse_split

    taking = Taking(
        columns=parse_columns(columns),
        require=tuple(name.strip() for name in require.split(",") if name.strip()),
        split=parse_split(split_by, group_by),
        layout=layout or "",
    )
    import_pictures(source, config, out, max_damage, engine, size, taking)
