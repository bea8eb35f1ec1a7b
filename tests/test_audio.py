"""Sounds: files of any width and rate are read as what was recorded, captions are spoken, networks
for audio make latents.
"""

import io
import shutil
import wave

import numpy as np
import pytest
import torch
from fourm_data_prep.labellers import open_labeller
from fourm_data_prep.mel import log_mel
from fourm_data_prep.samples import Samples

from fourm.data.shards import shard_path, write_shard
from fourm.raw.audio import Audio, read_wav, resample, write_wav
from fourm.raw.vectors import Vectors

RATE = 16000
SPEC = Audio(rate=RATE)
needs_voice = pytest.mark.skipif(
    shutil.which("espeak-ng") is None, reason="espeak-ng is not installed"
)


def tone(hertz: float, seconds: float = 0.5, rate: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(
        np.float32
    )


def stored(values: np.ndarray, width: int, channels: int = 1, rate: int = RATE) -> bytes:
    """A wav file of ``width`` bytes a sample, made with integers of Python."""
    scale, shift = 2 ** (8 * width - 1) - 1, 128 if width == 1 else 0
    frames = b"".join(
        int(round(v * scale) + shift).to_bytes(width, "little", signed=width > 1)
        for v in values
        for _ in range(channels)
    )
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(frames)
    return buffer.getvalue()


def test_wav_files_of_every_width_hold_the_same_sound():
    values = tone(440.0, 0.05)
    for width, error in ((1, 1e-2), (2, 1e-4), (3, 1e-6), (4, 1e-6)):
        for channels in (1, 2):
            assert np.abs(read_wav(stored(values, width, channels), RATE) - values).max() < error
    assert np.abs(SPEC.read(SPEC.write(values), "wav") - values).max() < 1e-4


def test_resampling_keeps_a_tone_and_drops_what_the_new_rate_cannot_hold():
    for given in (8000, 22050, 44100):
        made = resample(tone(1000.0, rate=given), given, RATE)
        assert len(made) == RATE // 2 and np.abs(made - tone(1000.0))[800:-800].max() < 0.02
    assert np.abs(resample(tone(7000.0), RATE, 8000)).max() < 0.05  # not an alias at 1,000 Hz


def test_a_tone_lies_in_its_band():
    frames = [log_mel(tone(hertz), RATE, 40) for hertz in (200.0, 1000.0, 4000.0)]
    assert frames[0].shape == (48, 40)
    assert np.diff([f.mean(0).argmax() for f in frames]).min() > 5


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no readable wav"),
        (b"RIFFxxxxWAVE", "no readable wav"),
        (b"\x89PNG....", "no readable wav"),
        (stored(np.zeros(0), 2), "empty"),
    ],
)
def test_what_is_no_sound_is_an_error_that_says_so(data, reason):
    with pytest.raises(ValueError, match=reason):
        SPEC.read(data, "wav")


def test_wrong_values_and_settings_are_named():
    with pytest.raises(ValueError, match="rate"):
        Audio()
    with pytest.raises(ValueError, match="not finite"):
        SPEC.write(np.array([np.nan]))
    with pytest.raises(ValueError, match="shape"):
        SPEC.write(np.zeros((2, 2)))


@needs_voice
def test_captions_are_spoken_the_same_way_every_time_and_as_long_as_they_are():
    say = open_labeller("speech")
    short, long, again, silent = say(
        Samples([], ["one", "one two three four five", "one", ""]), SPEC
    )
    assert (
        0.2 < len(short) / RATE < 1.5
        and len(long) > 2 * len(short)
        and np.array_equal(short, again)
    )
    assert np.abs(short).max() > 0.05 and not silent.any()
    frames = open_labeller("logmel")(Samples([], ["one", "seven"]), Vectors(channels=40))
    assert frames[0].shape[1] == 40 and len(frames[0]) == pytest.approx(
        len(short) / RATE * 100, abs=4
    )


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Small networks for audio of three families, as transformers stores them."""
    t = pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("audio")
    torch.manual_seed(0)
    t.Wav2Vec2Model(
        t.Wav2Vec2Config(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            conv_dim=(8, 8),
            conv_kernel=(10, 3),
            conv_stride=(5, 2),
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
            num_feat_extract_layers=2,
        )
    ).save_pretrained(root / "wav2vec2")
    t.Wav2Vec2FeatureExtractor(sampling_rate=RATE).save_pretrained(root / "wav2vec2")
    t.WhisperModel(
        t.WhisperConfig(
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            vocab_size=30,
            num_mel_bins=20,
            max_source_positions=1500,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        )
    ).save_pretrained(root / "whisper")
    t.WhisperFeatureExtractor(feature_size=20).save_pretrained(root / "whisper")
    return root


@pytest.mark.slow
def test_networks_for_audio_give_frames_that_do_not_depend_on_neighbours(networks):
    sounds = [tone(300.0), tone(900.0, 0.8)]

    def samples(some):
        return Samples(
            [], keys=["a"] * len(some), sounds=lambda rate: [resample(s, RATE, rate) for s in some]
        )

    for name in ("wav2vec2", "whisper"):
        encode = open_labeller(f"audio:{networks / name}")
        made = encode(samples(sounds), Vectors(channels=16))
        assert all(m.shape[1] == 16 and np.isfinite(m).all() for m in made)
        assert np.allclose(made[1], encode(samples(sounds[1:]), Vectors(channels=16))[0], atol=1e-5)
        assert not np.allclose(made[0].mean(0), made[1].mean(0), atol=1e-4)
    with pytest.raises(ValueError, match="cannot be opened"):
        open_labeller(f"audio:{networks}")(samples(sounds), Vectors(channels=16))


@pytest.mark.slow
def test_sounds_in_shards_become_cached_latents(networks, tmp_path):
    from fourm_data_prep.engine_options import EngineConfig
    from fourm_data_prep.latents import cache_latents

    from fourm.alignment.latents import open_latents

    spec = Audio(rate=8000)
    members = [(f"{i:03d}", "wav", spec.write(tone(200.0 * (i + 1), rate=8000))) for i in range(4)]
    write_shard(
        shard_path(tmp_path / "raw", "train", "sound", 0), [*members, ("bad", "wav", b"RIFF")]
    )
    config = tmp_path / "m.yaml"
    config.write_text(
        "modalities:\n  sound: {kind: sequence, raw: {type: audio, rate: 8000}, vocab_size: 300,"
        " max_tokens: 24}\n"
    )
    for encoder in ("logmel", f"audio:{networks / 'wav2vec2'}"):
        out = tmp_path / encoder.partition(":")[0]
        done = cache_latents(
            tmp_path / "raw",
            config,
            "sound",
            encoder,
            out,
            max_damage=0.5,
            engine=EngineConfig(workers=1),
        )
        held = open_latents(out)
        assert len(held) == 4 and "no readable wav" in done.report.entries[0].reason
    assert write_wav(tone(200.0), RATE)[:4] == b"RIFF"
