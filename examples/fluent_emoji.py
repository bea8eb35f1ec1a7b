"""Make a folder of 3,374 captioned drawings (Microsoft's Fluent 3-D emoji, MIT; captions of
OpenMoji, CC BY-SA) to try things on.

    python examples/fluent_emoji.py runs/emoji/pictures
    fourm quickstart runs/emoji/pictures

Needs npm to fetch two packages (20 MB). ``captions.csv`` has the column ``subject``: one drawing in
several skin tones is one subject, and ``fourm import`` never splits a subject between training and
validation.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DRAWINGS, CAPTIONS = "@lobehub/fluent-emoji-3d@1.1.0", "openmoji@17.0.0"
# presentation, gender, skin tones
_VARIANTS = {"fe0f", "2640", "2642", *(f"1f3f{digit}" for digit in "bcdef")}


def fetch(package: str, folder: Path) -> Path:
    """Download and unpack an npm package; returns its folder."""
    name = subprocess.run(
        ["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.split()[-1]
    target = folder / name.removesuffix(".tgz")
    target.mkdir(exist_ok=True)
    subprocess.run(["tar", "xzf", folder / name, "-C", target], check=True)
    return target / "package"


def subject(code: str) -> str:
    return "-".join(part for part in code.split("-") if part not in _VARIANTS)


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        drawings, captions = fetch(DRAWINGS, Path(scratch)), fetch(CAPTIONS, Path(scratch))
        with open(captions / "data" / "openmoji.csv", newline="") as stream:
            named = {
                row["hexcode"].lower().replace("-fe0f", ""): row["annotation"]
                for row in csv.DictReader(stream)
            }
        rows = []
        for path in sorted((drawings / "assets").glob("*.webp")):
            caption = named.get(path.stem.lower().replace("-fe0f", ""))
            if caption is not None:
                shutil.copy(path, out / path.name)
                rows.append((path.name, caption, subject(path.stem.lower())))
    with open(out / "captions.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "caption", "subject"])
        writer.writerows(rows)
    print(f"{out}: {len(rows)} drawings of {len({s for _, _, s in rows})} subjects")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/emoji/pictures"))
