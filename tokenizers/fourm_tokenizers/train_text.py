"""Train a text tokenizer on captions: python -m fourm_tokenizers.train_text captions.txt --out
tokenizers/text

The vocabulary is laid out as that of the released 4M models: special tokens, 200 sentinels, 4 x
1000 coordinates, class names, then learned pieces. Input is text files of one caption a line, CSV
files (column ``caption``) or folders of ``.txt`` files.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

from fourm.commands import run_command
from fourm.errors import UserError
from fourm_tokenizers.text import TextConfig, train_text_tokenizer

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


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "inputs", nargs="+", type=Path, help="text files, CSV files or folders of text files"
    )
    parser.add_argument("--out", required=True, type=Path, help="folder for tokenizer.json")
    parser.add_argument("--vocab-size", type=int, default=30000)
    parser.add_argument("--sentinels", type=int, default=200)
    parser.add_argument(
        "--bins", type=int, default=1000, help="coordinates of each of the four axes"
    )
    parser.add_argument(
        "--words",
        type=Path,
        help="file of names that stay whole, one a line (default: the 80 classes of COCO)",
    )
    options = parser.parse_args(arguments)

    def action() -> None:
        words = COCO_CLASSES
        if options.words is not None:
            words = tuple(dict.fromkeys(line for line in caption_lines([options.words]) if line))
        config = TextConfig(
            vocab_size=options.vocab_size,
            num_sentinels=options.sentinels,
            num_bins=options.bins,
            words=words,
        )
        tokenizer = train_text_tokenizer(config, caption_lines(options.inputs), options.out)
        print(f"{options.out}: {tokenizer.get_vocab_size()} ids")

    run_command(action)


if __name__ == "__main__":
    main()
