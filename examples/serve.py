"""The demo's model behind an address: pictures of captions by HTTP, and the page.

python examples/serve.py OUT [--small] [--stay]
"""

# %% [markdown]
# # Serve
# A pipeline is an ordinary object: any server can hold one. This one, of the standard library,
# answers `/?caption=...&seed=1` with a picture, on this machine alone. A result depends on weights,
# inputs and seed, so two who ask the same are given the same. `fourm app` is a page for people.

# %%
import argparse
import io
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlencode, urlsplit
from urllib.request import urlopen

from fourm import AnyToAnyPipeline
from fourm.app.serving import served
from fourm.resources import demo_model_folder

# %%
parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
parser.add_argument("out", type=Path)
parser.add_argument("--small", action="store_true")
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
        asked = {name: values[-1] for name, values in parse_qs(urlsplit(self.path).query).items()}
        try:
            seed = int(asked.pop("seed", 0))
            with one_at_a_time:
                made = pipe(asked, "rgb", seed=seed, steps=STEPS)["rgb"].images[0]
            status, kind, body = 200, "image/png", io.BytesIO()
            made.save(body, "PNG")
        except ValueError as error:  # a mistake of who asks
            status, kind, body = 400, "text/plain", io.BytesIO(str(error).encode())
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body.getvalue())


server = ThreadingHTTPServer(("127.0.0.1", 0), Pictures)  # at a free port
Thread(target=server.serve_forever, daemon=True).start()

# %% Ask it: rightly, and for what the model does not know
where = f"http://127.0.0.1:{server.server_port}/?"
caption = "a large red cube left of a small blue sphere"
with urlopen(where + urlencode({"caption": caption, "seed": 1})) as answer:
    (options.out / "served.png").write_bytes(answer.read())
try:
    urlopen(where + urlencode({"captoin": caption}))
except HTTPError as error:
    print(f"{error.code}: {error.read().decode()}")

# %% The page, as `fourm app` opens it
with served(pipe, "127.0.0.1", None) as address:
    page = urlopen(address).read().decode()
    print(f"{where} and {address} answer; the page has {len(page):,} letters")
    while options.stay:
        time.sleep(1)
server.shutdown()
server.server_close()
