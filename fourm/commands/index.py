"""``fourm index MODEL DATA --modality NAME --out INDEX``"""

from __future__ import annotations

from pathlib import Path

import click

from fourm.cli.verb import COUNT, PATH, verb


@verb(resumes=True)
@click.argument("model")
@click.argument("data", type=PATH)
@click.option("--modality", default="rgb", help="What is searched.")
@click.option("--out", type=PATH, required=True, help="Folder of the index.")
@click.option(
    "--queries",
    default="",
    help="Kinds of queries, e.g. 'caption,depth+caption', beside the modality itself.",
)
@click.option("--split", default="val", help="Split of DATA that is searched.")
@click.option("--fit-split", default="train", help="Split that queries are aligned on.")
@click.option("--fit-samples", type=COUNT, default=5000, help="Most pairs to align with.")
@click.option("--judge", type=click.IntRange(min=0), default=256, help="Queries judged; 0 = none.")
@click.option(
    "--rerank", type=click.IntRange(min=0), default=0, help="Judge likelihoods of so many."
)
@click.option(
    "--approximate",
    is_flag=True,
    help="Search a graph of neighbours, for millions of samples; needs the extra 'search'.",
)
def command(
    model: str,
    data: Path,
    modality: str,
    out: Path,
    queries: str,
    split: str,
    fit_split: str,
    fit_samples: int,
    judge: int,
    rerank: int,
    approximate: bool,
) -> None:
    """Index one modality, to be searched by others.

    Features of different modalities are brought into one space by a linear map that is fitted on
    the fit split; how often the truth is found is told and kept in recall.json. MODEL is a model
    folder, a hub id or a project; DATA a project, or a folder that holds raw/ and tokens/ or raw
    shards.
    """
    from fourm.config import to_mapping
    from fourm.data.shards import write_json_atomic
    from fourm.features.index import add_queries, make_index
    from fourm.features.judged import judge_queries
    from fourm.features.sources import chosen_inputs

    note = {"modality": modality, "split": split}
    note |= {"fit_split": fit_split, "fit_samples": fit_samples, "approximate": approximate}
    index = make_index(model, data, out, note)
    print(f"index: {len(index.gallery)} samples of {modality} in {out}")
    found = []
    for names in filter(None, (text.strip() for text in queries.split(","))):
        query = chosen_inputs(index.pipe.modalities, names.replace("+", ","))
        add_queries(index, query)
        if judge:
            found.append(judge_queries(index, query, judge, rerank))
            print(found[-1].text())
    if found:
        write_json_atomic(out / "recall.json", [to_mapping(each) for each in found])
