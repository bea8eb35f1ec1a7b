"""``fourm app [--model FOLDER] [--host HOST] [--port PORT]``"""

from __future__ import annotations

import click

from fourm.cli.verb import verb


@verb()
@click.option("--model", help="Pipeline folder or hub id; the demo's own model if left out.")
@click.option("--host", default="127.0.0.1", help="Address to serve on; 0.0.0.0 = all of them.")
@click.option("--port", type=click.IntRange(1, 65535), default=7860, help="Port to serve on.")
def command(model: str | None, host: str, port: int) -> None:
    """Serve a web page that generates any-to-any.

    Drop a picture or type a caption, get every other modality.
    """
    from fourm.app import check_address, serve

    check_address(host, port)  # before the model is opened, which takes seconds

    from fourm.pipeline import AnyToAnyPipeline
    from fourm.resources import demo_model_folder

    serve(AnyToAnyPipeline.from_pretrained(model or demo_model_folder()), host, port)
