"""Which part of which of our tensors is which released tensor: one table that is read in both
directions.

A link says that rows ``start:stop`` of our tensor, reshaped, are the released tensor. Loading fills
ours from the released ones, writing cuts the released ones out of ours; neither computes anything,
so the round trip is exact. Rows of ours without a link are zero. Key patterns: released 4M
checkpoints (``FM`` of apple/ml-4m).
"""

from __future__ import annotations

from dataclasses import dataclass

from fourm.model.embedding import TokenTable
from fourm.model.model import FourM
from fourm.model.positions import PositionTable


@dataclass(frozen=True)
class Link:
    """``ours[start:stop].reshape(shape)`` is ``released``; ``twins`` are other names under which
    the same tensor may lie.
    """

    ours: str
    start: int
    stop: int
    released: str
    shape: tuple[int, ...]
    twins: tuple[str, ...] = ()


def model_links(model: FourM) -> list[Link]:
    """The links of every tensor of a model that the released format can hold."""
    dim = model.config.dim
    links = [_whole("mask_token", "mask_token", (dim,), (1, 1, dim))]
    if model.registers is not None:
        links.append(
            _whole(
                "registers",
                "register_tokens",
                tuple(model.registers.shape),
                (1, *model.registers.shape),
            )
        )
    links += _embedding_links(model)
    norm_bias = model.config.norm_bias
    for i in range(model.config.encoder_depth):
        links += _norm(f"encoder.{i}.norm_self", f"encoder.{i}.norm1", dim, norm_bias)
        links += _attention(model, f"encoder.{i}.self_attention", f"encoder.{i}.attn")
        links += _norm(f"encoder.{i}.norm_mlp", f"encoder.{i}.norm2", dim, norm_bias)
        links += _mlp(model, f"encoder.{i}.mlp")
    links += _norm("encoder_norm", "encoder_norm", dim, norm_bias)
    links += _linear("context", "decoder_proj_context", (dim, dim), True)
    for i in range(model.config.decoder_depth):
        links += _norm(f"decoder.{i}.norm_self", f"decoder.{i}.norm1", dim, norm_bias)
        links += _attention(model, f"decoder.{i}.self_attention", f"decoder.{i}.self_attn")
        links += _norm(f"decoder.{i}.norm_query", f"decoder.{i}.query_norm", dim, norm_bias)
        links += _norm(f"decoder.{i}.norm_context", f"decoder.{i}.context_norm", dim, norm_bias)
        links += _cross_attention(model, f"decoder.{i}.cross_attention", f"decoder.{i}.cross_attn")
        links += _norm(f"decoder.{i}.norm_mlp", f"decoder.{i}.norm2", dim, norm_bias)
        links += _mlp(model, f"decoder.{i}.mlp")
    return links + _norm("decoder_norm", "decoder_norm", dim, norm_bias)


def _embedding_links(model: FourM) -> list[Link]:
    dim, links = model.config.dim, []
    shared = model.decoder_modality is None
    for i, m in enumerate(model.modalities):
        encoder, decoder = f"encoder_embeddings.{m.name}", f"decoder_embeddings.{m.name}"
        places = [(encoder, "modality")] if m.input else []
        if m.output and (not shared or not m.input):
            places.append((decoder, "modality" if shared else "decoder_modality"))
        for released, ours in places:
            twins = (f"{decoder}.mod_emb",) if shared and m.input and m.output else ()
            links.append(Link(ours, i, i + 1, f"{released}.mod_emb", (1, 1, dim), twins))
        if m.kind == "continuous":
            name = "proj" if m.patch_size else "emb_proj"
            bias = model.config.patch_bias or not m.patch_size
            links += _linear(
                f"vector_in.{m.name.replace('.', '_')}", f"{encoder}.{name}", (dim, m.width), bias
            )
            continue
        tables: list[tuple[str, TokenTable | None, str]] = []
        if m.input:
            tables.append(("tokens", model.tokens, f"{encoder}.token_emb.weight"))
        if m.output:
            tables.append(("heads", model.heads, f"{decoder}.to_logits.weight"))
            if m.kind == "sequence":
                tables.append(
                    ("decoder_tokens", model.decoder_tokens, f"{decoder}.token_emb.weight")
                )
        for ours, table, released in tables:
            assert table is not None
            start, size = table.vocabularies[m.vocab or m.name]
            links.append(Link(f"{ours}.table", start, start + size, released, (size, dim)))
        if m.kind == "set":
            learned: list[tuple[str, PositionTable | None, str]] = []
            if m.input:
                learned.append(("positions", model.positions, encoder))
            if m.output:
                learned.append(("decoder_positions", model.decoder_positions, decoder))
            for ours, positions, released in learned:
                assert positions is not None
                start = positions.learned_start[m.name]
                stop = start + m.num_positions
                links.append(
                    Link(
                        f"{ours}.learned",
                        start,
                        stop,
                        f"{released}.pos_emb",
                        (1, m.num_positions, dim),
                    )
                )
    return links


def _whole(
    ours: str, released: str, shape: tuple[int, ...], released_shape: tuple[int, ...] | None = None
) -> Link:
    return Link(ours, 0, shape[0], released, released_shape or shape)


def _norm(ours: str, released: str, dim: int, bias: bool) -> list[Link]:
    names = ("weight", "bias") if bias else ("weight",)
    return [_whole(f"{ours}.{name}", f"{released}.{name}", (dim,)) for name in names]


def _linear(ours: str, released: str, shape: tuple[int, int], bias: bool) -> list[Link]:
    links = [_whole(f"{ours}.weight", f"{released}.weight", shape)]
    return [*links, _whole(f"{ours}.bias", f"{released}.bias", shape[:1])] if bias else links


def _attention(model: FourM, ours: str, released: str) -> list[Link]:
    c = model.config
    links = _linear(f"{ours}.qkv", f"{released}.qkv", (3 * c.dim, c.dim), c.qkv_bias)
    links += _linear(f"{ours}.proj", f"{released}.proj", (c.dim, c.dim), c.proj_bias)
    return links + _qk_norm(model, ours, released)


def _cross_attention(model: FourM, ours: str, released: str) -> list[Link]:
    c = model.config
    links = [
        Link(f"{ours}.qkv.weight", 0, c.dim, f"{released}.q.weight", (c.dim, c.dim)),
        Link(f"{ours}.qkv.weight", c.dim, 3 * c.dim, f"{released}.kv.weight", (2 * c.dim, c.dim)),
    ]
    if c.qkv_bias:
        links.append(Link(f"{ours}.qkv.bias", 0, c.dim, f"{released}.q.bias", (c.dim,)))
        links.append(
            Link(f"{ours}.qkv.bias", c.dim, 3 * c.dim, f"{released}.kv.bias", (2 * c.dim,))
        )
    links += _linear(f"{ours}.proj", f"{released}.proj", (c.dim, c.dim), c.proj_bias)
    return links + _qk_norm(model, ours, released)


def _qk_norm(model: FourM, ours: str, released: str) -> list[Link]:
    c = model.config
    if not c.qk_norm:
        return []
    width = c.dim // c.num_heads
    return [
        link
        for part in ("q_norm", "k_norm")
        for link in _norm(f"{ours}.{part}", f"{released}.{part}", width, c.norm_bias)
    ]


def _mlp(model: FourM, name: str) -> list[Link]:
    c, hidden = model.config, model.config.block.hidden
    links = []
    for i, part in enumerate(("fc1", "fc3") if c.gated_mlp else ("fc1",)):
        theirs, rows = f"{name}.{part}", (i * hidden, (i + 1) * hidden)
        links.append(Link(f"{name}.fc_in.weight", *rows, f"{theirs}.weight", (hidden, c.dim)))
        if c.mlp_bias:
            links.append(Link(f"{name}.fc_in.bias", *rows, f"{theirs}.bias", (hidden,)))
    return links + _linear(f"{name}.fc_out", f"{name}.fc2", (c.dim, hidden), c.mlp_bias)
