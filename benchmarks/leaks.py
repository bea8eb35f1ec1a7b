"""Planted leaks that ``fourm inspect --leaks`` finds, and false alarms, on real pictures.

    python benchmarks/leaks.py FOLDER [--out benchmarks/leaks.json] [--plants 250]

The pictures of FOLDER (any files below it) are split in two halves. Of training pictures, copies
are planted among the held-out ones: crops that keep 60-95 % of the area at any aspect from 3:4 to
4:3 of the picture's, flips, other sizes (0.4 to 2 times, the aspect changed by up to a fifth), JPEG
of quality 20-90, and all of them together; and of held-out pictures, crops among the training ones.
Whatever else is flagged is a false alarm, unless it is listed in --alike (pairs of names that do
show the same, one a line, seen by eye). Pictures that are blank (one colour, or transparent, which
is white) are left out: a copy of nothing is no leak.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from fourm_data_prep.leaks.find import MIN_PLACES, Leaks, find_leaks
from fourm_data_prep.leaks.folders import PICTURES, Folder
from fourm_data_prep.leaks.prints import print_of
from PIL import Image, ImageOps

from fourm.data.pictures import open_picture, to_rgb

LEAST_KEPT = 0.6  # of a crop's area
BLANK = 2.0  # levels that the numbers of a picture are from their mean, or less
Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def crop(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A random part with at least ``LEAST_KEPT`` of the area."""
    area, aspect = rng.uniform(LEAST_KEPT, 0.95), np.exp(rng.uniform(-1, 1) * np.log(4 / 3))
    width = np.clip(np.sqrt(area * aspect), area, 1.0)
    height = picture.height * min(area / width, 1.0)
    width *= picture.width
    x, y = rng.uniform(0, picture.width - width), rng.uniform(0, picture.height - height)
    return picture.crop((round(x), round(y), round(x + width), round(y + height)))


def flip(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The mirrored picture."""
    return ImageOps.mirror(picture)


def resize(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Another size, and a slightly other aspect."""
    factor, aspect = np.exp(rng.uniform(np.log(0.4), np.log(2))), rng.uniform(0.83, 1.2)
    width, height = picture.width * factor, picture.height * factor * aspect
    return picture.resize((max(round(width), 32), max(round(height), 32)))


def jpeg(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The picture after a JPEG of quality 20-90."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=int(rng.integers(20, 91)))
    return Image.open(io.BytesIO(buffer.getvalue()))


def everything(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Cropped, mirrored, resized and compressed."""
    return jpeg(resize(flip(crop(picture, rng), rng), rng), rng)


CHANGES: dict[str, Change] = {
    "crop": crop,
    "flip": flip,
    "resize": resize,
    "jpeg": jpeg,
    "all": everything,
}


def is_blank(path: Path) -> bool:
    """True where there is nothing to see in a picture."""
    small = to_rgb(open_picture(path.read_bytes())).resize((64, 64), Image.Resampling.BOX)
    return float(np.asarray(small, float).std((0, 1)).max()) <= BLANK


def plant(pictures: list[Path], train: Path, held_out: Path, plants: int) -> dict[str, str]:
    """Write both folders; returns the change of each planted (held-out or training) name."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(pictures))
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    for folder, half in zip((train, held_out), halves, strict=True):
        folder.mkdir()
        for i in half:
            to_rgb(open_picture(pictures[i].read_bytes())).save(folder / f"{i:05d}.png")
    planted = {}
    for n, i in enumerate(halves[0][:plants]):
        name = list(CHANGES)[n % len(CHANGES)]
        changed = CHANGES[name](Image.open(train / f"{i:05d}.png"), rng)
        changed.save(held_out / f"{i:05d}-{name}.png")
        planted[f"{i:05d}-{name}"] = name
    for i in halves[1][: plants // 5]:
        crop(Image.open(held_out / f"{i:05d}.png"), rng).save(train / f"{i:05d}-cropped.png")
        planted[f"{i:05d}-cropped"] = "cropped in training"
    return planted


def judge(
    found: Leaks, planted: dict[str, str], plain: set[str], names: list[str], alike: set[frozenset]
) -> dict:
    """Figures of each change, and the false alarms."""
    pairs = {(leak.train, leak.held_out) for leak in found.pictures}
    hits, num, plain_missed = Counter(), Counter(), []
    for name, change in planted.items():
        number = name.partition("-")[0]
        pair = (name, number) if change == "cropped in training" else (number, name)
        num[change] += 1
        hits[change] += pair in pairs
        if pair not in pairs:
            plain_missed.append((change, names[int(number)], number in plain))
    alarms = {
        (a, b)
        for a, b in pairs
        if a.partition("-")[0] != b.partition("-")[0]
        and frozenset(names[int(key.partition("-")[0])] for key in (a, b)) not in alike
    }
    return {
        "found": {change: f"{hits[change]} of {num[change]}" for change in num},
        "missed": [f"{c}: {n}{' (plain)' if p else ''}" for c, n, p in plain_missed],
        "false_alarms": len({b for _, b in alarms}),
        "of_held_out": found.num_held_out,
        "false_alarm_share": len({b for _, b in alarms}) / found.num_held_out,
        "alarms": sorted(tuple(names[int(k.partition("-")[0])] for k in pair) for pair in alarms),
    }


def main() -> None:
    """Plant, find, judge, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--plants", type=int, default=250)
    parser.add_argument("--every", type=int, default=1, help="use every n-th picture")
    parser.add_argument("--alike", type=Path, help="file of pairs that do show the same")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    pictures = [p for p in sorted(given.folder.rglob("*")) if p.suffix.lower()[1:] in PICTURES]
    pictures = [path for path in pictures[:: given.every] if not is_blank(path)]
    lines = given.alike.read_text().splitlines() if given.alike else []
    with tempfile.TemporaryDirectory() as scratch:
        train, held_out = Path(scratch, "train"), Path(scratch, "held_out")
        planted = plant(pictures, train, held_out, given.plants)
        began = time.process_time()
        found = find_leaks(Folder(train), Folder(held_out))
        seconds = time.process_time() - began
        places = [train / f"{i:05d}.png" for i in range(len(pictures))]
        places = [p if p.is_file() else held_out / p.name for p in places]
        plain = {p.stem for p in places if len(print_of(Image.open(p)).plain.places) < MIN_PLACES}
    figures = {
        "pictures": len(pictures),
        "cpu_seconds": seconds,
        "pictures_a_second": (found.num_train + found.num_held_out) / seconds,
        "plain_pictures": len(plain),
        **judge(
            found, planted, plain, [p.stem for p in pictures], {frozenset(x.split()) for x in lines}
        ),
    }
    print(json.dumps(figures, indent=1))
    if given.out:
        known = json.loads(given.out.read_text()) if given.out.is_file() else {}
        given.out.write_text(json.dumps({**known, given.folder.name: figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
