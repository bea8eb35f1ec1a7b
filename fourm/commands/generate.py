"""``fourm generate --caption TEXT [--input NAME=VALUE] TARGET...``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fourm.cli.verb import COUNT, PATH, SEED, verb
from fourm.errors import UserError

if TYPE_CHECKING:
    from fourm.pipeline import Generated

_SHOWN_PIXELS = 256  # smaller pictures are enlarged to about this side


@verb()
@click.option("--model", help="Pipeline folder or hub id; the demo's own model if left out.")
@click.option("--caption", help="Short for --input caption=...")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME=VALUE",
    help="A text, a picture file, a .json or .npy file; may be given again.",
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
@click.option("--guidance-scale", "--guidance", type=float, help="Of all targets; 1 = no guidance.")
def command(
    model: str | None,
    caption: str | None,
    inputs: tuple[str, ...],
    first: tuple[str, ...],
    more: tuple[str, ...],
    out: Path,
    num: int,
    seed: int,
    **sampling: Any,
) -> None:
    """Generate any modalities from any others.

    Each TARGET is a modality to generate, in this order (left out: rgb). Sampling options that are
    left out are the model's own.
    """
    given = dict(_named(text) for text in inputs)
    if caption is not None:
        given["caption"] = caption

    from fourm.config import from_mapping
    from fourm.pipeline import AnyToAnyPipeline
    from fourm.resources import demo_model_folder
    from fourm.sampling.options import SamplingOptions

    settings = {name: value for name, value in sampling.items() if value is not None}
    from_mapping(SamplingOptions, settings, "generate")  # refuse before the model is opened
    pipe = AnyToAnyPipeline.from_pretrained(model or demo_model_folder())
    values = {name: pipe.modalities[name].raw.from_argument(text) for name, text in given.items()}
    targets = [*first, *more] or ["rgb"]
    results = pipe(values, targets, seed=seed, num_samples=num, **settings)
    out.mkdir(parents=True, exist_ok=True)
    for name, result in results.items():
        for i in range(len(result.values)):
            _write(result, i, name, out / f"{name}-{seed + i}")


def _named(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign:
        raise UserError(f"--input {text!r} is not of the form NAME=VALUE")
    return name, value


def _write(result: Generated, i: int, name: str, path: Path) -> None:
    """Write sample ``i`` as a picture, a text or a file of its type, and print where it is or what
    it says.
    """
    raw, value = result.modality.raw, result.values[i]
    if raw.has_picture:
        picture = result.images[i]
        scale = max(1, _SHOWN_PIXELS // max(picture.size))
        enlarged = picture.resize((picture.width * scale, picture.height * scale))
        enlarged.save(path.with_suffix(".png"))
        print(path.with_suffix(".png"))
    path = path.with_suffix(f".{raw.extensions[0]}")
    text = raw.printed(value)
    if text is not None:
        path.write_text(text + "\n")
        print(f"{name}: {text}")
    elif not raw.has_picture:
        path.write_bytes(raw.write(value))
        print(path)
