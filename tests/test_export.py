"""Exported parts say what the model says: padded rows as packed ones, graphs of any size as their
modules. The models are tiny ones with random weights.
"""

import json
import re
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import make_model, make_tokens

from fourm.cli import main
from fourm.errors import UserError
from fourm.export.networks import OutputHead, PaddedDecoder, PaddedEncoder
from fourm.export.padding import decoder_inputs, encoder_inputs
from fourm.export.parts import Wanted, parts_of
from fourm.export.write import OnnxFormat, TorchFormat, write_export
from fourm.model.encoder import Latent
from fourm.pipeline.pipeline import AnyToAnyPipeline
from fourm.resources import demo_model_folder

SHAPES = [
    {},
    {"num_registers": 3, "positions": "both", "qk_norm": True},
    {"positions": "rotary", "tie_heads": True, "share_token_embeddings": False, "qkv_bias": True},
]
FLOATS = 1e-5  # of the largest number: what sums in another order may differ by


def close(found, expected):
    expected = torch.as_tensor(expected)
    difference = (torch.as_tensor(found) - expected).abs().max()
    assert difference <= FLOATS * max(1.0, float(expected.abs().max())), float(difference)


@pytest.mark.parametrize("shape", SHAPES, ids=["added", "registers", "rotary"])
@torch.no_grad()
def test_padded_rows_give_what_packed_rows_give(modalities, masker, shape):
    model = make_model(modalities, **shape)
    batch = masker(make_tokens(modalities, 6, lacking="pixels"), np.arange(6))
    encoded = model.encode(batch.encoder)
    pixels = (modalities["pixels"],)
    features, memory, mask = PaddedEncoder(model, pixels)(*encoder_inputs(batch.encoder, pixels))
    assert np.array_equal(mask.sum(1), encoded.lengths)
    # rows of vectors lie behind those of ids: a sample's features are the same in another order
    for own, packed in zip(features, encoded.features.split(encoded.lengths.tolist()), strict=True):
        distance = (packed[:, None] - own).abs().amax(-1)
        assert distance.min(1).values.max() < 1e-4
    rows = decoder_inputs(batch.decoder)
    decoded, _ = PaddedDecoder(model)(memory, mask, memory[..., :0, :], *rows)
    close(decoded[rows[-1]], model.decode(encoded, batch.decoder))
    close(OutputHead(model, "rgb")(decoded), model.logits(decoded, "rgb"))


@torch.no_grad()
def test_steps_give_what_a_whole_sequence_gives(modalities):
    model = make_model(modalities, positions="both")
    decoder, past = PaddedDecoder(model), torch.zeros(2, 2, 3, 4, 0, 8)
    memory, seen = torch.randn(2, 2, 3, 4, 5, 8), torch.ones(3, 5, dtype=torch.bool)
    seen[0] = False  # nothing was given at all
    kind = torch.full((3, 6), modalities.index("caption"))
    place, ids = torch.arange(6).expand(3, -1), torch.randint(40, 100, (3, 6))
    rows = (kind, place, ids, torch.ones_like(ids).bool())
    whole, _ = decoder(memory, seen, past, *rows)
    for step in range(6):
        decoded, past = decoder(memory, seen, past, *(t[:, step : step + 1] for t in rows))
        close(decoded[:, 0], whole[:, step])
    assert past.shape[4] == 6


class Graphs:
    """A tiny model's encoder, decoder and a head in a folder, and what they are called with."""

    def __init__(self, modalities, format, out):
        self.out = out
        self.pipe = AnyToAnyPipeline(
            make_model(modalities, encoder_depth=1, decoder_depth=1, num_registers=2), out
        )
        self.wanted = Wanted.of(self.pipe, "pixels,caption", "caption")
        self.parts = {part.name: part for part in parts_of(self.wanted, ["encoder", "decoder"])}
        self.paths = write_export(self.wanted, list(self.parts.values()), format, out)
        self.note = json.loads((out / "export.json").read_text())

    def inputs(self, num, length):
        """Of the encoder: so many samples of so many tokens, the last one's masked."""
        caption = self.pipe.modalities.index("caption")
        kind = torch.full((num, length), caption)
        mask = torch.ones(num, length, dtype=torch.bool)
        mask[-1] = False
        pixels = torch.randn(num, 16, 48), torch.ones(num, 16, dtype=torch.bool)
        return [kind, torch.arange(length).expand(num, -1), 40 + kind, mask, *pixels]

    def questions(self, num, length, past):
        """Of the decoder, beside its memory."""
        kind = torch.full((num, length), self.pipe.modalities.index("caption"))
        place = past + torch.arange(length).expand(num, -1)
        kept = torch.randn(1, 2, num, 4, past, 8)
        return [kept, kind, place, 40 + kind, torch.ones_like(kind).bool()]

    @torch.no_grad()
    def check(self, run, tolerance=FLOATS):
        """``run(part, tensors)`` gives what the modules give, at sizes that were not traced."""
        for num, length, new, past in ((1, 1, 1, 0), (1, 1, 1, 1), (2, 9, 5, 3), (4, 3, 1, 7)):
            given = self.inputs(num, length)
            features, memory, mask = self.parts["encoder"].module(*given)
            found = run("encoder", given)
            for got, expected in zip(found, (features, memory, mask), strict=True):
                self.alike(got, expected, tolerance)
            asked = [memory, mask, *self.questions(num, new, past)]
            expected = self.parts["decoder"].module(*asked)
            for got, wanted in zip(run("decoder", asked), expected, strict=True):
                self.alike(got, wanted, tolerance)
            logits = self.parts["head-text"].module(expected[0])
            self.alike(run("head-text", [expected[0]])[0], logits, tolerance)

    @staticmethod
    def alike(found, expected, tolerance):
        difference = (torch.as_tensor(found).float() - expected.float()).abs().max()
        assert difference <= tolerance * max(1.0, float(expected.float().abs().max()))

    def run_onnx(self, part, tensors):
        names = self.note["files"][part]["inputs"]
        session = onnxruntime.InferenceSession(self.out / self.note["files"][part]["file"])
        assert [given.name for given in session.get_inputs()] == list(names)
        assert [made.name for made in session.get_outputs()] == self.note["files"][part]["outputs"]
        return session.run(None, {n: t.numpy() for n, t in zip(names, tensors, strict=True)})


@pytest.fixture(scope="module")
def graphs(modalities, tmp_path_factory):
    return Graphs(modalities, OnnxFormat(), tmp_path_factory.mktemp("onnx"))


def test_onnxruntime_gives_what_torch_gives_at_any_size(graphs):
    graphs.check(graphs.run_onnx)


def test_weights_of_8_bits_are_a_fraction_of_the_size_and_nearly_as_good(graphs):
    from fourm.export.int8 import weights_in_8_bits

    path, tolerance = graphs.out / "head-text.onnx", 0.02
    whole, large = path.read_bytes(), path.stat().st_size
    decoded = torch.randn(2, 3, 32)
    with torch.no_grad():
        logits = graphs.parts["head-text"].module(decoded)
    try:
        weights_in_8_bits(path)
        assert path.stat().st_size < 0.5 * large
        (found,) = graphs.run_onnx("head-text", [decoded])
    finally:
        path.write_bytes(whole)
    graphs.alike(found, logits, tolerance)
    assert not np.array_equal(found, logits)


def test_the_note_says_what_a_program_must_know(graphs, modalities):
    caption = graphs.note["modalities"]["caption"]
    assert caption["number"] == modalities.index("caption") and caption["num_ids"] == 120
    assert caption["head"] == "head-text" and caption["gaps"] == [5, 19]
    assert caption["never"] == [0, 1, 2] and graphs.note["ids"]["end"] == 3
    pixels = graphs.note["modalities"]["pixels"]
    values = pixels["values"]
    assert np.allclose(values["multiply"], 2 / 255) and values["add"] == [-1.0] * 3
    assert values["num_classes"] == 0 and pixels["source"] == "rgb"
    assert graphs.note["files"]["decoder"]["inputs"]["past"]["shape"][2:5:2] == ["batch", "past"]


@pytest.mark.slow
def test_torch_programs_give_what_the_modules_give_at_any_size(modalities, tmp_path):
    graphs = Graphs(modalities, TorchFormat(), tmp_path)

    def run(part, tensors):
        path = tmp_path / graphs.note["files"][part]["file"]
        found = torch.export.load(path).module(check_guards=False)(*tensors)
        return found if isinstance(found, tuple) else (found,)

    graphs.check(run)


MISTAKES = [
    (["--what", "encodr"], "unknown part 'encodr'.*did you mean 'encoder'"),
    (["--what", ","], "nothing to export"),
    (["--inputs", "rgbb"], "unknown modality 'rgbb'.*did you mean 'rgb'"),
    (["--targets", "pixels"], "pixels is no target of this model"),
    (["--inputs", ","], "no inputs: name at least one"),
    (["--what", "backbone"], "a backbone has one input"),
    (["--what", "backbone", "--inputs", "caption"], "caption is no picture-like input"),
    (["--half"], "--half is for --format pipeline"),
    (["--format", "torch", "--int8"], "--int8 for --format onnx"),
]


@pytest.mark.parametrize("words, sentence", MISTAKES)
def test_a_mistake_is_one_line(words, sentence, tmp_path, capsys):
    words = ["export", str(demo_model_folder()), "--format", "onnx", "--out", str(tmp_path), *words]
    told = refusal(words, capsys)
    assert told.count("\n") == 1
    assert re.search(sentence, told), told


def refusal(words, capsys):
    with pytest.raises(SystemExit) as ending:
        main(words)
    assert ending.value.code == 2
    return capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "inside"
    words = ["export", str(demo_model_folder()), "--format", "torch", "--out", str(out)]
    assert str(tmp_path / "file") in refusal(words, capsys)


def test_what_is_not_installed_is_told_with_the_extra_that_brings_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    words = ["export", str(demo_model_folder()), "--format", "onnx", "--out", str(tmp_path)]
    assert "pip install 'fourm[export]'" in refusal(words, capsys)


def test_a_latent_encoder_is_refused(modalities):
    model = make_model(modalities, encoder=Latent(num_tokens=4, stem_layers=1))
    with pytest.raises(UserError, match="latent encoder cannot be exported"):
        PaddedEncoder(model)
