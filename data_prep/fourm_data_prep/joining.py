"""Pieces of columns, one of each raw shard and modality, are joined into chunks of many shards.

A piece is a small chunk (``fourm.data.chunks``) that says what it was made from; a chunk says the
same of each piece in it, in the order of the shards. So a chunk's bytes are a function of its
shards alone: whichever of them lie there as pieces, as token tars of an earlier release, or in the
chunk of before, which gives back the pieces that are still good. Chunk c has the raw shards
c * N ... of all modalities, so samples that belong together lie in chunks of one number.

Killed anywhere and started again it goes on: first the chunk is replaced, then the manifests of the
shards name it instead of the pieces, then the pieces are removed.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fourm.data.chunks import INDEX, PIECES, Chunk, ChunkWriter, chunk_folders
from fourm.data.once import recover, replacing
from fourm.data.opening import decoder_of, token_dtype
from fourm.data.shards import DamageReport, read_shard, shard_path, write_json_atomic
from fourm.errors import UserError
from fourm.modalities import Modality
from fourm_data_prep.shard_steps import Job, ShardResult, ShardStep, fingerprint, manifest_path

CHUNK_SHARDS = 2048  # of 512 samples: a million a chunk


def piece_folder(root: Path, split: str, modality: str, shard: int) -> Path:
    """Where the piece of a shard lies until it is joined."""
    return root / split / modality / PIECES / f"{shard:05d}"


def chunk_folder(root: Path, split: str, modality: str, number: int) -> Path:
    """Where a chunk lies: ``<root>/<split>/<modality>/<number>.chunk``."""
    return root / split / modality / f"{number:05d}.chunk"


@dataclass(frozen=True)
class Piece:
    """What a chunk says of each shard in it."""

    shard: int
    made_from: str  # fingerprint of all that the values depend on
    num_samples: int


def made_by(tokenizer: str, pieces: Sequence[Piece]) -> dict[str, Any]:
    """What the index of a chunk says of its origin."""
    return {"fingerprint": tokenizer, "pieces": [asdict(piece) for piece in pieces]}


@dataclass(frozen=True)
class _Part:
    """Where the samples of a piece are: in a chunk, from a row on."""

    chunk: Chunk
    first: int
    piece: Piece


class JoinStep:
    """Joins the shards that another step has made, all modalities of a chunk in one job."""

    name = "join"

    def __init__(
        self,
        made: ShardStep,
        modalities: Sequence[Modality],
        tokenizers: Mapping[str, str],
        wanted: Mapping[Job, Mapping[str, str]],
        chunk_shards: int,
    ) -> None:
        """
        Args:
            made: the step that made the shards; its manifests are told where they went.
            tokenizers: fingerprint of each modality's tokenizer.
            wanted: jobs of that step -> modality -> what its piece is made from.
            chunk_shards: raw shards of one chunk.
        """
        self.out, self._made, self._tokenizers = made.out, made, tokenizers
        self._modalities = {m.name: m for m in modalities}
        self._groups: dict[Job, dict[Job, Mapping[str, str]]] = {}
        grouped: dict[tuple[str, int], dict[Job, Mapping[str, str]]] = {}
        for job, pieces in wanted.items():
            grouped.setdefault((job.split, job.number // chunk_shards), {})[job] = pieces
        for (split, number), shards in grouped.items():
            stamp = [[job.number, sorted(pieces.items())] for job, pieces in shards.items()]
            self._groups[Job(split, number, fingerprint(stamp))] = shards
        self._check_grouping(chunk_shards)

    def _check_grouping(self, chunk_shards: int) -> None:
        """Chunks of another number of shards cannot be replaced one by one."""
        for split in dict.fromkeys(job.split for job in self._groups):
            for name in self._modalities:
                for folder in chunk_folders(self.out, split, name):
                    held = _parts(Chunk.open(folder))
                    if {shard // chunk_shards for shard in held} - {int(folder.stem)}:
                        raise UserError(
                            f"{folder} was joined with another --chunk-shards than {chunk_shards}:"
                            f" give the same, or delete {folder.parent} and tokenize again"
                        )

    def described(self) -> dict[str, Any]:
        return {}

    def jobs(self) -> list[Job]:
        return list(self._groups)

    def run(self, job: Job) -> ShardResult:
        shards, num_samples = self._groups[job], 0
        names = dict.fromkeys(name for pieces in shards.values() for name in pieces)
        folders = {name: chunk_folder(self.out, job.split, name, job.number) for name in names}
        for name, folder in folders.items():
            wanted = {shard.number: p[name] for shard, p in shards.items() if name in p}
            num_samples = max(num_samples, self._join(name, job.split, folder, wanted))
        outputs = {name: str((f / INDEX).relative_to(self.out)) for name, f in folders.items()}
        for shard, pieces in shards.items():
            self._tell(shard, {name: outputs[name] for name in pieces}, pieces)
        for shard, pieces in shards.items():
            for name in pieces:
                shutil.rmtree(piece_folder(self.out, job.split, name, shard.number), True)
                shard_path(self.out, job.split, name, shard.number).unlink(missing_ok=True)
        for folder in folders.values():
            with contextlib.suppress(OSError):  # pieces of other chunks are still there
                (folder.parent / PIECES).rmdir()
        return ShardResult(tuple(outputs.values()), num_samples)

    def _join(self, name: str, split: str, folder: Path, wanted: Mapping[int, str]) -> int:
        """Have the chunk hold the wanted pieces: shard -> made from. Returns its samples."""
        recover(folder.parent)
        held = _parts(Chunk.open(folder)) if folder.exists() else {}
        parts = [self._part(name, split, number, f, held) for number, f in sorted(wanted.items())]
        pieces = [part.piece for part in parts]
        if pieces != [part.piece for part in held.values()]:
            described = made_by(self._tokenizers[name], pieces)
            with (
                replacing(folder) as temporary,
                ChunkWriter(temporary, described, dtype=parts[0].chunk.index.dtype) as writer,
            ):
                for part in parts:
                    writer.extend(part.chunk, part.first, part.first + part.piece.num_samples)
        return sum(piece.num_samples for piece in pieces)

    def _part(
        self, name: str, split: str, shard: int, made_from: str, held: Mapping[int, _Part]
    ) -> _Part:
        """Where the samples of a shard are that are made from the right things."""
        folder = piece_folder(self.out, split, name, shard)
        tar = shard_path(self.out, split, name, shard)  # of a release up to 0.6
        known = held.get(shard)
        if folder.exists():
            known = _parts(Chunk.open(folder))[shard]
        elif tar.is_file():
            _from_tar(tar, folder, self._modalities[name], self._tokenizers[name], made_from)
            known = _parts(Chunk.open(folder))[shard]
        if known is None or known.piece.made_from != made_from:
            raise UserError(
                f"the tokens of shard {shard} are not in {folder.parent.parent}: delete"
                f" {manifest_path(self._made, Job(split, shard, ''))} and tokenize again"
            )
        return known

    def _tell(self, shard: Job, outputs: Mapping[str, str], made_from: Mapping[str, str]) -> None:
        """Have a shard's manifest name the chunks, and no more the pieces in them."""
        path = manifest_path(self._made, shard)
        manifest = json.loads(path.read_text())
        others = [o for o in manifest["outputs"] if Path(o).parts[1] not in outputs]
        noted = {o: f for o, f in manifest.get("made_from", {}).items() if o in others}
        told = {
            "outputs": [*outputs.values(), *others],
            "made_from": {**{outputs[name]: f for name, f in made_from.items()}, **noted},
        }
        if manifest != manifest | told:
            write_json_atomic(path, manifest | told)


def _parts(chunk: Chunk) -> dict[int, _Part]:
    """The pieces of a chunk by shard, in order."""
    parts, first = {}, 0
    for entry in chunk.index.made_by["pieces"]:
        piece = Piece(**entry)
        parts[piece.shard] = _Part(chunk, first, piece)
        first += piece.num_samples
    return parts


def _from_tar(tar: Path, folder: Path, m: Modality, tokenizer: str, made_from: str) -> None:
    """Make a piece of token shard ``tar``. Raises UserError where it cannot be read whole."""
    report = DamageReport()
    rows = list(read_shard(tar, decoder_of(m), ("npy",), report))
    if report.entries:
        found = report.entries[0]
        raise UserError(f"{tar}: {found.key}: {found.reason}; delete it and tokenize again")
    write_piece(folder, rows, tokenizer, made_from, token_dtype(m.vocab_size))


def write_piece(
    folder: Path,
    rows: Sequence[tuple[str, np.ndarray]],
    tokenizer: str,
    made_from: str,
    dtype: np.dtype,
) -> None:
    """Write the (key, ids) of one shard as a piece; the folder's name is the shard's."""
    described = made_by(tokenizer, [Piece(int(folder.name), made_from, len(rows))])
    with (
        replacing(folder) as temporary,
        ChunkWriter(temporary, described, dtype=dtype.str) as writer,
    ):
        for key, ids in rows:
            writer.add(f"{folder.name}/{key}", ids)
