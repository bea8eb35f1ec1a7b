"""A web page for a pipeline: drop a picture or type a caption, get every other modality.

    fourm app [--model FOLDER] [--port 7860]

Needs ``pip install 'fourm[app]'``. It serves on this machine alone unless told otherwise and sends
nothing anywhere.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import socket
from typing import Any

from fourm.errors import UserError
from fourm.pipeline import AnyToAnyPipeline
from fourm.raw.image import Image
from fourm.raw.text import Text


def build_app(pipe: AnyToAnyPipeline) -> Any:
    """A ``gradio.Blocks`` page for one pipeline. Raises UserError that says what to install."""
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the page needs gradio: pip install 'fourm[app]'")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import gradio as gr  # pyright: ignore[reportMissingImports]

    texts = [m for m in pipe.modalities.inputs if isinstance(m.raw, Text)]
    pictures = [m for m in pipe.modalities if isinstance(m.raw, Image) and not m.source]
    outputs = pipe.modalities.outputs

    def generate(*values: Any) -> list[Any]:
        *given, targets, seed, guidance = values
        inputs = {
            m.name: v
            for m, v in zip([*texts, *pictures], given, strict=True)
            if v not in (None, "") or hasattr(v, "size")
        }
        if not targets:
            raise gr.Error("Choose at least one target.")
        try:
            settings: dict[str, Any] = {"guidance_scale": float(guidance)} if guidance else {}
            out = pipe(inputs, targets, seed=int(seed), **settings)
        except ValueError as error:
            raise gr.Error(str(error)) from None
        shown: list[Any] = []
        for m in outputs:
            result = out.get(m.name)
            if m.raw.has_picture:
                picture = m.raw.picture(result.values[0]) if result else None
                shown.append(picture.resize((256, 256)) if picture else None)
            else:
                shown.append(m.raw.line(result.values[0]) if result else "")
        return shown

    with gr.Blocks(title="fourm") as page:
        gr.Markdown(
            "# Any to any\nGive any of these, choose what to generate; targets are generated in"
            " the order in which they are chosen."
        )
        with gr.Row():
            with gr.Column():
                fields = [gr.Textbox(label=m.name) for m in texts] + [
                    gr.Image(label=m.name, type="pil") for m in pictures
                ]
                chosen = gr.Dropdown(
                    [m.name for m in outputs],
                    value=[outputs[0].name],
                    multiselect=True,
                    label="targets",
                )
                seed = gr.Number(0, label="seed", precision=0)
                guidance = gr.Number(None, label="guidance scale (empty: the model's own)")
                button = gr.Button("Generate", variant="primary")
            with gr.Column():
                results = [
                    gr.Image(label=m.name, format="png")
                    if m.raw.has_picture
                    else gr.Textbox(label=m.name, interactive=False)
                    for m in outputs
                ]
        button.click(generate, [*fields, chosen, seed, guidance], results, api_name="generate")
    return page


def check_address(host: str, port: int) -> None:
    """Raise UserError unless ``port`` of ``host`` can be served on."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as trial:
            # as servers do: a port that was in use a moment ago is free
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except socket.gaierror:
        raise UserError(f"--host {host!r} is no address of this machine") from None
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise UserError(f"--host {host!r} is no address of this machine") from None
        raise UserError(
            f"port {port} of {host} cannot be had ({error.strerror}): give another --port"
        ) from None


def serve(pipe: AnyToAnyPipeline, host: str, port: int) -> None:
    """Serve the page until interrupted."""
    build_app(pipe).launch(server_name=host, server_port=port, show_error=True)
