"""``fourm app [--model FOLDER] [--host HOST] [--port PORT] [--public]``"""

from __future__ import annotations

import signal
import time

import click

from fourm.cli.verb import verb


@verb()
@click.option("--model", help="Pipeline folder or hub id; the demo's own model if left out.")
@click.option("--host", default="127.0.0.1", help="Address to serve on.")
@click.option("--port", type=click.IntRange(1, 65535), default=7860, help="Port to serve on.")
@click.option("--public", is_flag=True, help="Allow a --host that other machines can reach.")
def command(model: str | None, host: str, port: int, public: bool) -> None:
    """Serve a web page that generates any-to-any.

    Drop a picture, paint, draw, type or click; get every other modality. The page has no password:
    it is for this machine alone unless --public is given.
    """
    from fourm.app.serving import check_address, served

    check_address(host, port, public)  # before the model is opened, which takes seconds

    from fourm.pipeline.pipeline import AnyToAnyPipeline
    from fourm.resources import demo_model_folder

    pipe = AnyToAnyPipeline.from_pretrained(model or demo_model_folder())
    if public:
        print("warning: whoever reaches this address can use the page; it has no password")
    # ended by others as by Ctrl-C: visitors' files are removed
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with served(pipe, host, port, public) as address:
        print(f"the page is at {address} (Ctrl-C ends it)", flush=True)
        while True:
            time.sleep(3600)
