"""Captions -> pictures -> depth, normals, classes with the demo's model, as one image: the picture
at the top of the README.

python examples/captions_to_pictures.py docs/images/demo.png [--model FOLDER]
"""

from __future__ import annotations

import argparse

from PIL import Image, ImageDraw

from fourm import AnyToAnyPipeline
from fourm.resources import demo_model_folder

CAPTIONS = [
    "a large red cube left of a small blue sphere",
    "a large green cone",
    "a small yellow cylinder left of a large purple cube",
    "a large blue cylinder left of a small red cone",
    "a large cyan cube",
    "a small purple cone left of a small green cube",
]
TILE, MARGIN = 150, 8


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--model", default=None)
    options = parser.parse_args()
    pipe = AnyToAnyPipeline.from_pretrained(options.model or demo_model_folder())
    made = pipe({"caption": CAPTIONS}, ["rgb"], seed=0)
    rest = pipe(
        {"rgb": made["rgb"].images},
        ["depth", "normal", "semseg"],
        guidance_scale=1.0,
        temperature=0.3,
    )
    shown = {
        "caption -> rgb": made["rgb"],
        "-> depth": rest["depth"],
        "-> normal": rest["normal"],
        "-> semseg": rest["semseg"],
    }
    width = MARGIN + len(CAPTIONS) * (TILE + MARGIN)
    sheet = Image.new("RGB", (width, 46 + len(shown) * (TILE + MARGIN)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, caption in enumerate(CAPTIONS):
        x = MARGIN + column * (TILE + MARGIN)
        words = caption.split()
        half = len(words) // 2 + (len(words) % 2 and 1)
        for line, part in enumerate((words[:half], words[half:]) if len(words) > 5 else (words,)):
            draw.text((x, 8 + 15 * line), " ".join(part), fill=(30, 41, 59))
        for row, (label, result) in enumerate(shown.items()):
            tile = result.images[column].resize((TILE, TILE), Image.Resampling.BICUBIC)
            y = 42 + row * (TILE + MARGIN)
            sheet.paste(tile, (x, y))
            if column == 0:
                draw.text(
                    (x + 5, y + 4), label, fill=(30, 41, 59), stroke_width=2, stroke_fill="white"
                )
    sheet.save(options.out)


if __name__ == "__main__":
    main()
