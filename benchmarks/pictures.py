"""Pictures read from their tars: how fast they are listed, and masked samples with their pixels.

    python benchmarks/pictures.py [--pictures 256] [--rounds 5] [--out FILE]

Samples are those of 4M-7 with pixels (``rgb@224``) under its own mixture; pictures are JPEG files
of several sizes, as they are and with four crops of each. CPU seconds of one thread, best of the
rounds, taking turns:

* ``loader``: order, masks, ids, and of the pictures reading, decoding, cutting and kept patches;
* ``decoder``: the same files only decoded, at full size, once for each sample;
* ``plain``: each whole picture read and cut by its raw type, the reference of the tests.

``index`` is listing tars: headers alone, and with the index written; ``tarfile`` is the standard
library on the same files. ``bytes`` are of real photographs at 224 px. JSON on standard output.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
from loader import ROOT, all_to_all, loader, modalities_of, opened, rates, write_tokens

from fourm.batches.masking import MaskingComponent, MaskingConfig
from fourm.data import picture_parts
from fourm.data.crop_settings import CropSettings
from fourm.data.crops import sample_key
from fourm.data.shards import shard_path, write_shard
from fourm.data.tar_headers import members_of
from fourm.modalities import ModalitySet

PIXELS, BATCH, CROPS, DIFFERENT = "rgb@224", 32, 4, 8
SIZES = {
    "224 x 224": (224, 224),
    "340 x 256": (340, 256),
    "500 x 375": (500, 375),
    "4000 x 3000": (4000, 3000),
}


def with_pixels() -> MaskingConfig:
    """4M-7's own mixture: all pixels, or some of everything."""
    pixels = MaskingComponent(input={PIXELS: 1000.0}, target_default=0.5)
    budget = (128, 128)
    components = (pixels, *all_to_all(128).components)
    return MaskingConfig(num_inputs=budget, num_targets=budget, components=components)


def random_jpeg(rng: np.random.Generator, width: int, height: int) -> bytes:
    """A picture with detail and grain, of the size on disk of a photograph's."""
    rough = rng.integers(0, 256, (max(height // 8, 1), max(width // 8, 1), 3), dtype=np.uint8)
    smooth = PIL.Image.fromarray(rough).resize((width, height), PIL.Image.Resampling.BICUBIC)
    grain = rng.integers(-6, 7, (height, width, 3), dtype=np.int16)
    pixels = (np.asarray(smooth, np.int16) + grain).clip(0, 255).astype(np.uint8)
    return encoded(PIL.Image.fromarray(pixels), "JPEG", quality=90)


def encoded(picture: PIL.Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def compare(
    root: Path, modalities: ModalitySet, size: tuple[int, int], num: int, crops: int, rounds: int
) -> dict:
    """Rates of the loader and of what it is held against, for pictures of one size."""
    rng, raw = np.random.default_rng(0), modalities[PIXELS].raw
    settings = CropSettings(num_crops=crops)
    different = [random_jpeg(rng, *size) for _ in range(DIFFERENT)]
    files = {f"{i:08d}": different[i % DIFFERENT] for i in range(num // crops)}
    tar = shard_path(root / "raw", "train", modalities[PIXELS].raw_name, 0)
    write_shard(tar, [(key, "jpg", data) for key, data in files.items()])
    samples = [(key, i) for key in files for i in range(crops)]
    write_tokens(modalities, root, [sample_key(*sample) for sample in samples])
    if crops > 1:
        settings.write(root / "tokens" / "train")
    source = opened(modalities, root)

    def plain() -> None:
        for key, i in samples:
            crop = settings.crop(key, i)
            whole = raw.read(files[key], "jpg", native=crop is not None)
            raw.fit(whole) if crop is None else raw.cut(whole, crop)

    decode = decoder()
    ways = {
        "loader": loader(source, with_pixels(), BATCH),
        "decoder": (len(samples), lambda: [decode(files[key]) for key, _ in samples]),
        "plain": (len(samples), plain),
    }
    found = rates(ways, rounds)
    return {
        "bytes_of_a_file": round(np.mean([len(data) for data in files.values()])),
        "samples_per_cpu_s": found,
        "ratio": {way: round(found["loader"] / found[way], 2) for way in ("decoder", "plain")},
    }


def decoder() -> Callable[[bytes], object]:
    """What the loader decodes upright JPEG with."""
    if picture_parts.simplejpeg is not None:
        return picture_parts.simplejpeg.decode_jpeg
    return lambda data: np.asarray(PIL.Image.open(io.BytesIO(data)))


def listing(root: Path, modalities: ModalitySet, num_tars: int, rounds: int) -> dict:
    """Files a CPU-second whose place is found."""
    members = [(f"{i:08d}", "jpg", bytes(15_000)) for i in range(2000)]
    name = modalities[PIXELS].raw_name
    for i in range(num_tars):
        write_shard(shard_path(root / "raw", "train", name, i), members)
    tars = sorted((root / "raw").rglob("*.tar"))
    fresh = iter(range(1 << 20))

    def by_tarfile() -> None:
        for path in tars:
            with tarfile.open(path, "r:") as tar:
                for _ in tar:
                    pass

    def headers() -> None:
        for path in tars:
            for _ in members_of(path):
                pass

    ways = {
        "headers": (num_tars * len(members), headers),
        "index": (
            num_tars * len(members),
            lambda: opened(modalities, root, root / f"cache{next(fresh)}"),
        ),
        "tarfile": (num_tars * len(members), by_tarfile),
    }
    found = rates(ways, rounds)
    return {"files_per_cpu_s": found, "tars_per_cpu_s": round(found["index"] / len(members))}


def bytes_on_disk() -> dict[str, int]:
    """Mean bytes of a real photograph at 224 px."""
    photographs = sorted((ROOT / "tests" / "data" / "photographs").glob("*.jpg"))
    pictures = [PIL.Image.open(p).convert("RGB").resize((224, 224)) for p in photographs]
    kinds: dict[str, tuple[str, dict[str, int]]] = {
        "JPEG, quality 90": ("JPEG", {"quality": 90}),
        "JPEG, quality 95": ("JPEG", {"quality": 95}),
        "WebP, quality 90": ("WEBP", {"quality": 90}),
        "PNG": ("PNG", {}),
    }
    sizes = {
        name: round(float(np.mean([len(encoded(p, kind, **options)) for p in pictures])))
        for name, (kind, options) in kinds.items()
    }
    return {**sizes, "pixels": 224 * 224 * 3}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    modalities, rows = modalities_of("4m_7", PIXELS), {}
    rows["bytes at 224 px"] = bytes_on_disk()
    with tempfile.TemporaryDirectory() as folder:
        rows["index"] = listing(Path(folder) / "index", modalities, 5, options.rounds)
        for crops in (1, CROPS):
            for name, size in SIZES.items():
                num = options.pictures if size[0] < 1000 else BATCH
                place = Path(folder) / f"{name}, {crops}"
                row = f"{name}, {crops} samples each" if crops > 1 else name
                rows[row] = compare(place, modalities, size, num, crops, options.rounds)
    print(json.dumps(rows, indent=1))
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
