"""What a text tokenizer is trained on: fourm train-text captions.txt --out tokenizers/text

The vocabulary is laid out as that of the released 4M models: special tokens, 200 sentinels, 4 x
1000 coordinates, class names, then learned pieces. Input is text files of one caption a line, CSV
files (column ``caption``) or folders of ``.txt`` files.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from fourm.cli import door
from fourm.errors import UserError

# the 80 object classes of COCO, in the order of the released vocabulary
COCO_CLASSES = tuple(
    sorted(
        (
            "person",
            "bicycle",
            "car",
            "motorcycle",
            "airplane",
            "bus",
            "train",
            "truck",
            "boat",
            "traffic light",
            "fire hydrant",
            "stop sign",
            "parking meter",
            "bench",
            "bird",
            "cat",
            "dog",
            "horse",
            "sheep",
            "cow",
            "elephant",
            "bear",
            "zebra",
            "giraffe",
            "backpack",
            "umbrella",
            "handbag",
            "tie",
            "suitcase",
            "frisbee",
            "skis",
            "snowboard",
            "sports ball",
            "kite",
            "baseball bat",
            "baseball glove",
            "skateboard",
            "surfboard",
            "tennis racket",
            "bottle",
            "wine glass",
            "cup",
            "fork",
            "knife",
            "spoon",
            "bowl",
            "banana",
            "apple",
            "sandwich",
            "orange",
            "broccoli",
            "carrot",
            "hot dog",
            "pizza",
            "donut",
            "cake",
            "chair",
            "couch",
            "potted plant",
            "bed",
            "dining table",
            "toilet",
            "tv",
            "laptop",
            "mouse",
            "remote",
            "keyboard",
            "cell phone",
            "microwave",
            "oven",
            "toaster",
            "sink",
            "refrigerator",
            "book",
            "clock",
            "vase",
            "scissors",
            "teddy bear",
            "hair drier",
            "toothbrush",
        )
    )
)


def caption_lines(paths: list[Path]) -> Iterator[str]:
    """Captions of all files.

    Raises UserError for a file that is not there or a CSV without captions.
    """
    for path in paths:
        if path.is_dir():
            found = sorted(path.rglob("*.txt"))
            if not found:
                raise UserError(f"no .txt files in {path}")
            for file in found:
                yield file.read_text(errors="replace").strip()
        elif not path.is_file():
            raise UserError(f"no file {path}")
        elif path.suffix == ".csv":
            with path.open(newline="") as stream:
                rows = csv.DictReader(stream)
                if "caption" not in (rows.fieldnames or ()):
                    raise UserError(f"{path} has no column 'caption'")
                yield from (row["caption"] for row in rows)
        else:
            with path.open(errors="replace") as stream:
                yield from (line.strip() for line in stream)


# door of earlier releases: python -m fourm_tokenizers.train_text is fourm train-text
main = door("train-text")

if __name__ == "__main__":
    main()
