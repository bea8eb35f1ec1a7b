"""The demo's model behind an address: pictures of captions by HTTP, and the page.

python examples/serve.py runs/examples/serve [--small] [--stay]
"""

# %% [markdown]
# # Serve
# A pipeline is an ordinary object: any server can hold one. This one, of the standard library,
# answers `/?caption=...&seed=1` with a picture, on this machine alone. A result depends on weights,
# inputs and seed, so two who ask the same are given the same. `fourm app` is a page for people.

# %%
import argparse
import io
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlencode, urlsplit
from urllib.request import urlopen

from fourm import AnyToAnyPipeline
from fourm.app.serving import served
from fourm.resources import demo_model_folder

# %% tags=["parameters"]
parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
parser.add_argument("out", type=Path)
parser.add_argument("--small", action="store_true", help="few steps: for tests")
parser.add_argument("--stay", action="store_true", help="serve until Ctrl-C")
options = parser.parse_args()

# %%
STEPS = 2 if options.small else 12
options.out.mkdir(parents=True, exist_ok=True)
pipe = AnyToAnyPipeline.from_pretrained(demo_model_folder())
one_at_a_time = Lock()


class Pictures(BaseHTTPRequestHandler):
    """GET /?caption=...&seed=... -> PNG; what the model refuses is 400 with its sentence."""

    def do_GET(self) -> None:
        """Answer one request; a UserError is a ValueError."""
        asked = {name: values[-1] for name, values in parse_qs(urlsplit(self.path).query).items()}
        try:
            seed, given = int(asked.pop("seed", 0)), {**asked}
            with one_at_a_time:
                made = pipe(given, "rgb", seed=seed, steps=STEPS)["rgb"].images[0]
            status, kind, body = 200, "image/png", io.BytesIO()
            made.save(body, "PNG")
        except ValueError as error:
            status, kind, body = 400, "text/plain", io.BytesIO(str(error).encode())
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body.getvalue())


@contextmanager
def pictures() -> Iterator[str]:
    """The server while the context lasts, at a free port; gives its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Pictures) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


# %% Ask it, once rightly and once for what the model does not know
