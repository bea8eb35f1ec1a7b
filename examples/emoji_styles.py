"""Make folders of the same 1,800 subjects drawn in five styles, to align encoders with
(`docs/alignment.md`).

    pip install cairosvg && python examples/emoji_styles.py runs/styles/pictures

``fluent`` (Microsoft, 3-D, MIT), ``google`` (Noto, Apache-2.0), ``twemoji`` (CC BY), ``openmoji``
and ``line`` (OpenMoji in colour and as line art, CC BY-SA). Equal file names are the same subject;
``captions.csv`` in each folder has its name, its tags, and its sub-group as ``class``. Needs npm to
fetch 100 MB. Skin tones and genders of one subject are left out, so no subject appears twice.
"""

from __future__ import annotations

import csv
import io
import sys
import tempfile
from pathlib import Path

from fluent_emoji import CAPTIONS, DRAWINGS, fetch
from PIL import Image

GOOGLE, TWEMOJI = "emoji-datasource-google@16.0.0", "@twemoji/svg@15.0.0"
SIZE = 160


def plain(code: str) -> str:
    """The code point sequence without presentation marks, which some styles write and some do
    not.
    """
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def is_variant(code: str) -> bool:
    return any(
        part in ("2640", "2642") or (part.startswith("1f3f") and part[-1] in "bcdef")
        for part in code.split("-")[1:]
    )


def drawn(path: Path) -> Image.Image:
    """A picture or SVG on white."""
    data = path.read_bytes()
    if path.suffix == ".svg":
        import cairosvg

        data = cairosvg.svg2png(bytestring=data, output_width=SIZE, output_height=SIZE)
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    ground = Image.new("RGBA", picture.size, "white")
    return (
        Image.alpha_composite(ground, picture)
        .convert("RGB")
        .resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    )


def main(out: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        fluent, openmoji, google, twemoji = (
            fetch(p, Path(scratch)) for p in (DRAWINGS, CAPTIONS, GOOGLE, TWEMOJI)
        )
        styles = {
            "fluent": (fluent / "assets").glob("*.webp"),
            "google": (google / "img" / "google" / "64").glob("*.png"),
            "twemoji": twemoji.glob("*.svg"),
            "openmoji": (openmoji / "color" / "svg").glob("*.svg"),
            "line": (openmoji / "black" / "svg").glob("*.svg"),
        }
        files = {
            style: {plain(path.stem): path for path in found} for style, found in styles.items()
        }
        with open(openmoji / "data" / "openmoji.csv", newline="") as stream:
            rows = {plain(row["hexcode"]): row for row in csv.DictReader(stream)}
        codes = sorted(
            c for c in rows if not is_variant(c) and all(c in held for held in files.values())
        )
        for style, held in files.items():
            (out / style).mkdir(parents=True, exist_ok=True)
            with open(out / style / "captions.csv", "w", newline="") as stream:
                writer = csv.writer(stream)
                writer.writerow(["file", "caption", "tags", "class", "subject"])
                for code in codes:
                    drawn(held[code]).save(out / style / f"{code}.png")
                    row = rows[code]
                    writer.writerow(
                        [f"{code}.png", row["annotation"], row["tags"], row["subgroups"], code]
                    )
    print(f"{out}: {len(codes)} subjects in {len(files)} styles")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/styles/pictures"))
