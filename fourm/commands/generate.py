"""``fourm generate --caption TEXT [--input NAME=VALUE] TARGET...``"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fourm.cli.verb import COUNT, PATH, SEED, verb
from fourm.errors import UserError

if TYPE_CHECKING:
    from fourm.pipeline.pipeline import AnyToAnyPipeline


@verb()
@click.option("--model", help="Pipeline folder or hub id; the demo's own model if left out.")
@click.option("--caption", help="Short for --input caption=...")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME=VALUE",
    help="A text, a picture file, a .json or .npy file, or a folder of them; may be given again.",
)
@click.option(
    "--inputs",
    "table",
    type=PATH,
    metavar="CSV",
    help="A table of inputs: columns named after modalities, and key if they have names.",
)
@click.option(
    "--negative",
    multiple=True,
    metavar="NAME=VALUE",
    help="What is not wanted, as an input is given; --guidance-scale leads away from it.",
)
@click.option("--targets", "first", multiple=True, metavar="TARGET...", help="The same as TARGET.")
@click.argument("more", nargs=-1, metavar="[TARGET]...")
@click.option("--out", type=PATH, default="runs/generated", help="Folder for the results.")
@click.option("--num", type=COUNT, default=1, help="How many samples.")
@click.option("--seed", type=SEED, default=0, help="Of the first sample; the next has the next.")
@click.option("--scheme", help="Which tokens are committed first, for all targets.")
@click.option("--steps", type=int, help="Steps of all targets.")
@click.option("--temperature", type=float, help="Of all targets.")
@click.option("--top-k", type=int, help="Of all targets; 0 = off.")
@click.option("--top-p", type=float, help="Of all targets; 1 = off.")
@click.option("--candidates", type=int, help="Fillings of a gap; the likeliest whole stays.")
@click.option("--guidance-scale", "--guidance", type=float, help="Of all targets; 1 = no guidance.")
@click.option("--negative-weight", type=float, help="Of --negative, beside the guidance scale.")
@click.option("--vary", type=float, metavar="SHARE", help="Keep this share of a given target.")
@click.option("--ensemble", is_flag=True, help="Of all samples one answer and where they differ.")
@click.option("--animate", is_flag=True, help="Beside each picture its steps, as animated WebP.")
@click.option("--tile", is_flag=True, help="Inputs are maps of any size, and so are the targets.")
@click.option("--overlap", type=float, default=0.25, help="Of tiles, as a share of their side.")
def command(
    model: str | None,
    caption: str | None,
    inputs: tuple[str, ...],
    table: Path | None,
    negative: tuple[str, ...],
    first: tuple[str, ...],
    more: tuple[str, ...],
    out: Path,
    num: int,
    seed: int,
    vary: float | None,
    ensemble: bool,
    animate: bool,
    tile: bool,
    overlap: float,
    **sampling: Any,
) -> None:
    """Generate any modalities from any others.

    Each TARGET is a modality to generate, in this order (left out: rgb). Sampling options that are
    left out are the model's own. Of a folder or a table of inputs those that an earlier call has
    finished are not made again.
    """
    given, unwanted = _named("--input", inputs), _named("--negative", negative)

    from fourm.config import from_mapping
    from fourm.pipeline.generated_files import (
        MANIFEST,
        VALUES,
        Results,
        stamp_of,
        wanted_inputs,
        watched,
        write_maps,
    )
    from fourm.pipeline.pipeline import AnyToAnyPipeline
    from fourm.records.hub import find_model
    from fourm.resources import demo_model_folder
    from fourm.sampling.options import SamplingOptions

    settings = {name: value for name, value in sampling.items() if value is not None}
    from_mapping(SamplingOptions, settings, "generate")  # refuse before the model is opened
    folder = find_model(model or demo_model_folder())
    pipe = AnyToAnyPipeline.from_pretrained(folder)
    told = {} if caption is None else {"caption": caption}
    targets = [*first, *more] or ["rgb"]
    if tile:
        if table is not None or num != 1 or animate:
            raise UserError(
                "--tile makes one map of each target: leave out --inputs, --num and --animate"
            )
        wanted = {"seed": seed, "overlap": overlap, "negative": unwanted}
        maps = pipe.tiled(given | told, targets, **wanted, **settings)
        return _tell(write_maps(out, maps))
    everything = wanted_inputs(pipe.modalities, given, table, told)
    request = {
        "model": str(folder),
        "weights": stamp_of(folder),
        "targets": targets,
        "vary": vary,
        "negative": unwanted or None,
        "animate": animate or None,
        "seed": seed,
        "num_samples": num,
        **settings,
    }
    results = Results.open(out, {n: value for n, value in request.items() if value is not None})
    wrong = []
    for wanted in everything:
        if wanted.key and results.has(wanted):
            print(f"{wanted.key}: is there")
            continue
        try:
            stream = pipe.stream(
                _values(pipe, wanted.inputs, targets, vary, seed),
                targets,
                seed=seed,
                num_samples=num,
                negative=_read(pipe, unwanted),
                **settings,
            )
            frames = watched(stream, animate)
        except UserError as error:
            if not wanted.key:
                raise
            wrong.append(f"{wanted.key}: {error}")
            print(wrong[-1])
            continue
        _tell(results.add(wanted, seed, stream.results, frames))
        _tell(results.add_ensembles(wanted, stream.results) if ensemble else iter(()))
    if wrong:
        raise UserError(
            f"{len(wrong)} of {len(everything)} inputs could not be used, the first {wrong[0]}"
        )
    print(f"values that can be given again: {out / VALUES}, all of it in {out / MANIFEST}")


def _values(
    pipe: AnyToAnyPipeline,
    inputs: Mapping[str, str | Path],
    targets: list[str],
    vary: float | None,
    seed: int,
) -> dict[str, Any]:
    """What is given; of targets a part, where they are to be varied."""
    values = _read(pipe, inputs)
    if vary is None:
        return values
    if not set(values) & set(targets):
        raise UserError("--vary keeps a part of a target that is given: name one as --input, too")
    return {n: pipe.vary(n, v, vary, seed) if n in targets else v for n, v in values.items()}


def _read(pipe: AnyToAnyPipeline, inputs: Mapping[str, str | Path]) -> dict[str, Any]:
    return {
        name: pipe.modalities[name].raw.from_argument(value) if isinstance(value, str) else value
        for name, value in inputs.items()
    }


def _tell(lines: Iterator[str]) -> None:
    for line in lines:
        print(line)


def _named(option: str, texts: tuple[str, ...]) -> dict[str, str]:
    """What ``option NAME=VALUE``, given several times, names."""
    for text in texts:
        if "=" not in text:
            raise UserError(f"{option} {text!r} is not of the form NAME=VALUE")
    return dict(text.split("=", 1) for text in texts)
