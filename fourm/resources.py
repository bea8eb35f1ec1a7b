"""Files that ship with the package: configs and the demo's trained model."""

from __future__ import annotations

from pathlib import Path

from fourm.errors import UserError

_PACKAGE = Path(__file__).parent


def configs_folder() -> Path:
    """The folder ``configs``: beside the package in a checkout, inside it in a wheel."""
    for folder in (_PACKAGE.parent / "configs", _PACKAGE / "configs"):
        if (folder / "modalities").is_dir():
            return folder
    raise UserError("the folder 'configs' is not where it should be: install the package again")


def demo_model_folder() -> Path:
    """The demo's trained model that ships with the package. Raises UserError if it is not there."""
    folder = _PACKAGE / "demo" / "model"
    if not (folder / "model.safetensors").is_file():
        raise UserError(
            "no trained demo model ships with this copy: run `make demo` and name its folder with"
            " --model runs/demo/model"
        )
    return folder
