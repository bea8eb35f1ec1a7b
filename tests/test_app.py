"""The web page, served for real and called as its button calls it.

Needs ``pip install 'fourm[app]'``.
"""

import os

import pytest

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"
gradio = pytest.importorskip("gradio")

from PIL import Image  # noqa: E402

from fourm.app import build_app  # noqa: E402
from fourm.pipeline import AnyToAnyPipeline  # noqa: E402
from fourm.resources import demo_model_folder  # noqa: E402


@pytest.fixture(scope="module")
def client():
    from gradio_client import Client

    page = build_app(AnyToAnyPipeline.from_pretrained(demo_model_folder()))
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield Client(address, verbose=False)
    page.close()


@pytest.mark.slow
def test_a_caption_becomes_a_picture_and_the_picture_becomes_text_and_boxes(client):
    from gradio_client import handle_file

    made = client.predict("a large red cube", None, ["rgb"], 0, None, api_name="/generate")
    picture = next(path for path in made if isinstance(path, str) and path.endswith(".png"))
    assert Image.open(picture).size == (256, 256)
    again = client.predict(
        "", handle_file(picture), ["caption", "boxes"], 0, None, api_name="/generate"
    )
    assert any(isinstance(text, str) and "cube" in text for text in again)


@pytest.mark.slow
def test_a_user_s_mistake_is_a_message_on_the_page(client):
    with pytest.raises(Exception, match="Choose at least one target"):
        client.predict("a large red cube", None, [], 0, None, api_name="/generate")
