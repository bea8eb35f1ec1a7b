"""What a few letters can ask for is refused before it takes memory: networks, tables of places,
codebooks, what servers send.
"""

import json
import resource
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from conftest import make_model
from fourm_tokenizers.autoencoder import Autoencoder, AutoencoderConfig

from fourm.config import from_mapping
from fourm.data.remote import fetching
from fourm.data.remote.folder import RemoteFolder
from fourm.errors import UserError
from fourm.modalities import ModalitySet
from fourm.model.config import ModelConfig
from fourm.model.model import load_model
from fourm.training.pretrain import PretrainConfig, build_model

TERABYTE = {"dim": 2**17, "num_heads": 4}
START = {
    "model": TERABYTE,
    "out": "x",
    "modalities": "x",
    "data": {"sources": [{"tokens": "x"}]},
    "loop": {"steps": 1, "batch_size": 1},
    "masking": {
        "num_inputs": [1, 2],
        "num_targets": [1, 2],
        "components": [{"input_default": 1, "target_default": 1}],
    },
}
VECTORS = {"type": "vectors", "channels": 3}
TOKENIZER = {
    "image_size": 16,
    "channels": 3,
    "patch_size": 4,
    "quantizer": {"type": "fsq", "levels": [4, 4]},
}


def peak():
    """Kibibytes that this process had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_a_training_of_a_model_of_terabytes_is_refused_before_it_takes_memory(modalities):
    before = peak()
    config = from_mapping(PretrainConfig, START, "f")
    with pytest.raises(UserError, match=r"a network of [\d,]+ numbers takes [\d,]+ GiB, this"):
        build_model(config, modalities)
    assert peak() - before < 100_000


def test_a_model_folder_whose_config_names_terabytes_is_refused_before_it_takes_memory(
    modalities, tmp_path
):
    make_model(modalities).save_pretrained(tmp_path)
    described, before = json.loads((tmp_path / "config.json").read_text()), peak()
    described["model"] |= TERABYTE
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match="has shape"):
        load_model(tmp_path)
    assert peak() - before < 100_000


@pytest.mark.parametrize(
    "given",
    [
        {"encoder_depth": 10**9},
        {"decoder_depth": 2**63},
        {"dim": 2**40},
        {"num_registers": 2**40},
        {"mlp_ratio": 1e30},
        {"encoder": {"type": "latent", "num_tokens": 4, "iterations": 10**9}},
        {"encoder": {"type": "latent", "num_tokens": 2**62}},
    ],
)
def test_models_of_more_layers_or_rows_than_anything_can_be_built_of_are_a_sentence(given):
    with pytest.raises(UserError, match=r"is at most [\d,]+, not"):
        from_mapping(ModelConfig, given, "f")


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "grid", "raw": {"type": "depth", "size": 8}, "grid": [2**32, 2**31]},
        {"kind": "sequence", "raw": {"type": "text"}, "max_tokens": 2**63},
        {"kind": "continuous", "raw": VECTORS, "max_tokens": 3, "width": 2**40},
    ],
)
def test_modalities_of_more_tokens_than_a_table_of_places_can_hold_are_a_sentence(given):
    entry = {"vocab_size": 9} | given
    with pytest.raises(UserError, match=r"is at most 1,048,576, not"):
        ModalitySet.from_mapping({"modalities": {"a": entry}}, "f")


@pytest.mark.parametrize(
    "given",
    [
        {"dim": 2**40},
        {"encoder_depth": 2**62},
        {"channels": 2**62},
        {"quantizer": {"type": "vq", "codebook_size": 2**62}},
        {"quantizer": {"type": "vq", "codebook_size": 2**20, "code_dim": 2**20}},
        {"quantizer": {"type": "residual", "codebook_size": 9, "num_codebooks": 10**9}},
    ],
)
def test_tokenizers_of_more_than_anything_can_be_built_of_are_a_sentence(given):
    with pytest.raises(UserError, match=r"is at most [\d,]+, not|are the most"):
        from_mapping(AutoencoderConfig, TOKENIZER | given, "f")


def test_a_tokenizer_of_terabytes_is_refused_before_it_takes_memory():
    config = from_mapping(AutoencoderConfig, TOKENIZER | {"dim": 2**16, "encoder_depth": 99}, "f")
    before = peak()
    with pytest.raises(UserError, match=r"tokenizer: a network of [\d,]+ numbers takes"):
        Autoencoder(config)
    assert peak() - before < 100_000


# ---- servers -------------------------------------------------------------------------------------


class Endless(BaseHTTPRequestHandler):
    """Sends bytes for as long as anyone reads."""

    def do_GET(self):
        self.send_response(206 if "range" in self.headers else 200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(bytes(100_000))
        except OSError:
            pass

    def log_message(self, *_):
        pass


@pytest.fixture
def endless():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_an_index_without_end_is_cut_and_told(endless, monkeypatch):
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(fetching, "MOST_BYTES", 10**6)
    with pytest.raises(UserError, match=r"published.json is larger than the 1,000,000 bytes"):
        RemoteFolder(endless)


def test_an_answer_of_more_bytes_than_were_asked_for_is_cut_and_told(endless):
    pytest.importorskip("aiohttp")
    before = peak()
    with pytest.raises(UserError, match="sends whole files where parts are asked for"):
        fetching.fetch(f"{endless}/a", 5, 10)
    assert peak() - before < 100_000
