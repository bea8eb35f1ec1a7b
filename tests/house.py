"""The picture of the house in docs/house.md: rooms and who imports whom, drawn from the code.

    python tests/house.py --write      # after imports between rooms have changed

An arrow that follows from others is left out: rooms use those below them at any distance.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

from test_import_graph import graph

PAGE = Path(__file__).parents[1] / "docs" / "house.md"
FIRST, LAST = "```mermaid\n", "```\n"


@dataclass(frozen=True)
class Room:
    """A node of the picture: the modules (or folders) in it and what it is for, in a line."""

    package: str
    name: str
    purpose: str
    modules: str  # names within the package, in words; empty = all that have no other room


ROOMS = (
    Room("fourm", "commands", "a file a verb", "commands"),
    Room("fourm", "finetune", "heads, one task more", "finetune"),
    Room("fourm", "features", "features, probes, search", "features"),
    Room("fourm", "demo", "a world to learn, a page", "demo app"),
    Room("fourm", "alignment", "frozen encoders, cached latents", "alignment fusion"),
    Room(
        "fourm",
        "evaluation",
        "figures, report, project",
        "evaluation report project",
    ),
    Room(
        "fourm",
        "pipeline",
        "any to any; released 4M",
        "pipeline interop",
    ),
    Room(
        "fourm",
        "export",
        "graphs for onnxruntime and torch, backbones",
        "export interop.transformers",
    ),
    Room("fourm", "sampling", "schemes, guidance, sweeps", "sampling"),
    Room("fourm", "training", "loop, optimizers, checkpoints", "training"),
    Room("fourm", "doctor", "what a machine can do, what a run costs", "doctor"),
    Room(
        "fourm",
        "model",
        "embedding, attention, blocks, losses",
        "model",
    ),
    Room(
        "fourm",
        "records",
        "cards, how a model was made",
        "records",
    ),
    Room("fourm", "data", "shards, columns, order", "data"),
    Room(
        "fourm",
        "batches",
        "masking, packed streams, layouts",
        "batches",
    ),
    Room(
        "fourm", "modalities", "one YAML entry, codecs", "modalities codecs codec_types item_form"
    ),
    Room("fourm", "raw", "a file a raw type", "raw"),
    Room(
        "fourm",
        "forms",
        "pictures, arrays, crops, metrics",
        "data.crops data.npy data.pictures data.picture_parts evaluation.metrics"
        " evaluation.efficientnet",
    ),
    Room("fourm", "cli", "the program, its endings", "cli __main__"),
    Room(
        "fourm",
        "ground",
        "errors, configs, choices, random numbers, weights",
        "errors choices config places progress resources files numbers",
    ),
    Room("fourm_tokenizers", "tokenizers", "networks, training, codecs", ""),
    Room("fourm_tokenizers", "quantizers", "a file a codebook", "quantizers"),
    Room("fourm_data_prep", "steps", "download, import, label, tokenize", ""),
    Room("fourm_data_prep", "earth", "public maps as tiles", "earth"),
    Room("fourm_data_prep", "rasters", "large images, tiles of them", "rasters"),
    Room(
        "fourm_data_prep",
        "labellers",
        "a sample in, a modality out",
        "labellers exact packaged adapters audio mel sam networks samples",
    ),
    Room(
        "fourm_data_prep",
        "engine",
        "processes or Ray, manifests",
        "engine engine_local engine_options engine_ray remarks shard_steps",
    ),
)
_ROOM_OF = {f"{room.package}.{name}": room for room in ROOMS for name in room.modules.split()}
_OTHERS = {room.package: room for room in ROOMS if not room.modules}


def room_of(module: str) -> Room | None:
    """The room that names a module or the nearest folder around it; None for ``fourm`` itself."""
    name = module
    while name:
        if name in _ROOM_OF:
            return _ROOM_OF[name]
        name = name.rpartition(".")[0]
    return _OTHERS.get(module.partition(".")[0])


def arrows() -> dict[str, set[str]]:
    """Rooms that each room imports from."""
    found: dict[str, set[str]] = {room.name: set() for room in ROOMS}
    for module, imported in graph().items():
        here = room_of(module)
        if here is None:
            assert module == "fourm", f"give {module} a room in tests/house.py"
            continue
        there = {room.name for room in map(room_of, imported) if room is not None}
        found[here.name] |= there - {here.name}
    return found


def drawn() -> str:
    """The picture as the lines of a mermaid flowchart, importers above what they import."""
    direct = arrows()
    below: dict[str, set[str]] = {}  # all that a room stands on
    for name in TopologicalSorter(direct).static_order():  # raises CycleError for a circle
        below[name] = direct[name].union(*(below[other] for other in direct[name]))
    lines = ["flowchart TB"]
    for package in dict.fromkeys(room.package for room in ROOMS):
        lines.append(f"  subgraph {package}")
        for room in ROOMS:
            if room.package == package:
                lines.append(f'    {room.name}["<b>{room.name}</b><br/>{room.purpose}"]')
        lines.append("  end")
    for room in ROOMS:
        implied = set().union(*(below[other] for other in direct[room.name]))
        lines += [f"  {room.name} --> {other}" for other in sorted(direct[room.name] - implied)]
    return "\n".join(lines) + "\n"


def committed() -> str:
    """The picture that docs/house.md has."""
    return PAGE.read_text().split(FIRST, 1)[1].split(LAST, 1)[0]


if __name__ == "__main__":
    if "--write" in sys.argv:
        before, rest = PAGE.read_text().split(FIRST, 1)
        PAGE.write_text(before + FIRST + drawn() + LAST + rest.split(LAST, 1)[1])
    else:
        print(drawn(), end="")
