"""``fourm export PROJECT --out DIR [--format onnx]``"""

from __future__ import annotations

from pathlib import Path

import click

from fourm.cli.verb import PATH, verb
from fourm.errors import UserError


@verb()
@click.argument("project", type=PATH)
@click.option("--out", required=True, type=PATH, help="Folder to write.")
@click.option("--half", is_flag=True, help="Folder of a pipeline: weights in 16 bits.")
@click.option(
    "--format", "kind", type=click.Choice(["pipeline", "onnx", "torch"]), default="pipeline"
)
@click.option("--what", default="encoder,decoder,tokenizers", help="Parts; or backbone.")
@click.option("--inputs", help="Modalities that are given; left out: all.", show_default=False)
@click.option("--targets", help="Those that are generated; left out: all.", show_default=False)
@click.option("--int8", is_flag=True, help="onnx: weights of products in 8 bits.")
def command(
    project: Path,
    out: Path,
    half: bool,
    kind: str,
    what: str,
    inputs: str | None,
    targets: str | None,
    int8: bool,
) -> None:
    """Write a project's newest model as one folder.

    With its tokenizers and sampling settings, as `fourm generate` opens it. With --format onnx or
    torch, of a project or a model folder, its parts as graphs that run without this package.
    """
    if kind == "pipeline":
        from fourm.evaluation.project_report import assemble
        from fourm.project.project import Project

        assemble(Project(project)).save_pretrained(out, half=half)
        print(out)
        return
    if half or (int8 and kind != "onnx"):
        raise UserError("--half is for --format pipeline, --int8 for --format onnx")

    from fourm.evaluation.opened import model_folder
    from fourm.export.parts import Wanted, parts_of
    from fourm.export.write import OnnxFormat, TorchFormat, write_export
    from fourm.pipeline.pipeline import AnyToAnyPipeline

    form = OnnxFormat(int8) if kind == "onnx" else TorchFormat()
    wanted = Wanted.of(AnyToAnyPipeline.from_pretrained(model_folder(project)), inputs, targets)
    parts = parts_of(wanted, [word.strip() for word in what.split(",") if word.strip()])
    for path in write_export(wanted, parts, form, out):
        print(f"{path}  {path.stat().st_size / 1e6:.2f} MB")
