"""What each parameter is, said where it is made: the optimizer's groups follow from it.

* ``matrix(pieces)``: maps the hidden width to itself. Muon's, where Muon is chosen; decayed. Fused
  weights say in how many row blocks they fall (query, key and value are three maps).
* ``PROJECTION``: a matrix into or out of the hidden width. AdamW's; decayed.
* ``TABLE``: rows that are looked up or asked for (embeddings, heads, queries, codes) and kernels of
  convolutions. AdamW's; not decayed. ``LOOKED_UP`` are those that a batch only reads rows of.
* ``VECTOR``: norms, biases, gates. AdamW's; not decayed.

Modules state the roles of their own parameters with ``state_roles``; layers of ``torch`` that
nobody says anything about have the role that follows from their kind, and so has any vector. A
parameter whose role nobody knows is an error.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Role:
    """``pieces``: row blocks of a matrix that are maps of their own."""

    name: str
    decayed: bool
    hidden: bool = False  # a map of the hidden width to itself
    pieces: int = 1
    looked_up: bool = False  # a table of which a batch reads some rows, and nothing else does

    @property
    def is_table(self) -> bool:
        """Rows, whoever reads them."""
        return self.name == TABLE.name


PROJECTION = Role("projection", decayed=True)
TABLE = Role("table", decayed=False)
LOOKED_UP = Role("table", decayed=False, looked_up=True)
VECTOR = Role("vector", decayed=False)


def matrix(pieces: int = 1) -> Role:
    """A hidden matrix whose rows fall into ``pieces`` equal blocks."""
    return Role("matrix", decayed=True, hidden=True, pieces=pieces)


_OF_LAYERS: tuple[tuple[type[nn.Module], Role], ...] = (
    (nn.Linear, PROJECTION),
    (nn.Embedding, TABLE),
    (nn.modules.conv._ConvNd, TABLE),
)


def state_roles(module: nn.Module, **roles: Role) -> None:
    """Say what parameters of a module are: ``state_roles(self.qkv, weight=matrix(3))``."""
    own = dict(module.named_parameters(recurse=False))
    assert set(roles) <= set(own), f"{type(module).__name__} lacks {set(roles) - set(own)}"
    stated: dict[str, Role] = getattr(module, "stated_roles", {})
    module.stated_roles = {**stated, **roles}  # type: ignore[assignment]


def parameter_roles(model: nn.Module) -> dict[str, Role]:
    """The role of each parameter by name, in the order of ``named_parameters``.

    A parameter whose role nobody states and no layer implies is a fault of the module's author.
    """
    roles: dict[str, Role] = {}
    for prefix, module in model.named_modules():
        stated: dict[str, Role] = getattr(module, "stated_roles", {})
        for name, parameter in module.named_parameters(recurse=False):
            whole = f"{prefix}.{name}" if prefix else name
            role = stated.get(name) or (VECTOR if parameter.ndim < 2 else _implied(module))
            if role is None:
                raise TypeError(
                    f"parameter {whole} {list(parameter.shape)} of {type(module).__name__} states"
                    " no role: say it with fourm.model.roles.state_roles where it is made"
                )
            roles[whole] = role
    return {name: roles[name] for name, _ in model.named_parameters()}


def _implied(module: nn.Module) -> Role | None:
    return next((role for kind, role in _OF_LAYERS if isinstance(module, kind)), None)
