"""Serving the page: on this machine unless that is said otherwise, with files in a folder that is
the page's own and goes with it.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware

from fourm.app.guard import Guard
from fourm.app.limits import LIMITS, Limits
from fourm.errors import UserError
from fourm.pipeline.pipeline import AnyToAnyPipeline

_HERE = ("127.0.0.1", "localhost", "[::1]")


def check_address(host: str, port: int, public: bool = False) -> None:
    """Raise UserError unless ``port`` of ``host`` can be served on, and others may reach it only
    where that is wanted.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        if not public and not all(is_loopback(entry[4][0]) for entry in found):
            raise UserError(
                f"--host {host} lets other machines in, and the page has no password: leave it out,"
                " or add --public if that is what you want"
            )
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


def is_loopback(address: Any) -> bool:
    """True for an address that only this machine reaches."""
    return ipaddress.ip_address(str(address).partition("%")[0]).is_loopback


@contextmanager
def served(
    pipe: AnyToAnyPipeline,
    host: str,
    port: int | None,
    public: bool = False,
    limits: Limits = LIMITS,
) -> Iterator[str]:
    """The page, served while the context lasts; gives its address."""
    files = Path(tempfile.mkdtemp(prefix="fourm-app-"))  # read by its owner alone
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(files)  # of uploads, too
    try:
        blocks = _page(pipe, files, limits)
        hosts = () if public else (*_HERE, host)
        _, address, _ = blocks.launch(
            **_style(),
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            show_error=False,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            mcp_server=False,
            pwa=False,
            allowed_paths=[],
            max_file_size=limits.upload_bytes,
            state_session_capacity=limits.visitors,
            app_kwargs={
                "middleware": [
                    Middleware(Guard, files=files, limits=limits, hosts=hosts),
                ]
            },
        )
        try:
            yield address
        finally:
            blocks.close(verbose=False)
    finally:
        shutil.rmtree(files, ignore_errors=True)
        if before is None:
            del os.environ["GRADIO_TEMP_DIR"]
        else:
            os.environ["GRADIO_TEMP_DIR"] = before


def _page(pipe: AnyToAnyPipeline, files: Path, limits: Limits) -> Any:
    from fourm.app.page import build_page  # gradio reads the folder when it is imported

    return build_page(pipe, files, limits)


def _style() -> dict[str, Any]:
    """Fonts that the visitor has: nothing is fetched."""
    from gradio.themes import Soft

    from fourm.app.page import CSS

    theme = Soft(
        primary_hue="indigo",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(input_border_width="1px", input_border_color="*neutral_400", block_border_width="1px")
    return {"theme": theme, "css": CSS}
