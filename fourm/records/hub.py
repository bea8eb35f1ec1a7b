"""Models on the hub: where they are found, and the mixin of ``huggingface_hub`` with a card that is
true.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from fourm.errors import UserError
from fourm.files.foreign_code import refuse_code
from fourm.records.model_card import HERE, model_card, write_card
from fourm.records.provenance import Provenance

if TYPE_CHECKING:
    from fourm.model.model import FourM


_WANTED = ["*.json", "*.safetensors", "*.yaml"]


def is_hub_id(name: str | Path) -> bool:
    """True for what could be a repository of the hub, and is no folder."""
    text = str(name)
    return text.count("/") == 1 and not text.startswith((".", "/", "~")) and not Path(name).exists()


def fetched_model(name: str) -> Path | None:
    """The folder of a hub repository as far as it was fetched before; None if it never was."""
    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED, local_files_only=True))
    except (OSError, ValueError, HfHubHTTPError):
        return None


def fetch_model(name: str, **options: Any) -> Path:
    """The folder of a hub repository. Raises UserError where its files name code to import, and
    what the hub's client raises; ``options`` are that client's.
    """
    return refuse_code(Path(snapshot_download(name, allow_patterns=_WANTED, **options)))


def find_model(name: str | Path, asked_by: str = "") -> Path:
    """A model's folder, or that of a hub repository, fetched if it is not here yet.

    Raises UserError if there is neither, or if a fetched one names code to import; ``asked_by``
    begins the sentence.
    """
    folder, asked = Path(name), f"{asked_by}: " if asked_by else ""
    if folder.exists():
        return folder
    if not is_hub_id(name):
        raise UserError(f"{asked}no model folder {name}")
    try:
        return fetch_model(str(name))
    except UserError:
        raise
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise UserError(
            f"{asked}{name} is no folder and cannot be had from the hub: {type(error).__name__}"
        ) from None


class HubModel(ModelHubMixin):
    """``save_pretrained`` and ``push_to_hub`` of a FourM, which write its card (``README.md``)."""

    provenance: Provenance | None = None  # how it was trained, where that is known

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | Path,
        *,
        model_card_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> str | None:
        """The mixin's; ``model_card_kwargs`` are those of ``generate_model_card``."""
        told = model_card_kwargs or {}
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        write_card(folder, self._card(**told))  # the mixin leaves one that is there
        return super().save_pretrained(folder, model_card_kwargs=told, **options)

    def push_to_hub(  # type: ignore[override]
        self, repo_id: str, *, model_card_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> str:
        """The mixin's, with the repository's name in the card."""
        told = {"name": repo_id, **(model_card_kwargs or {})}
        return super().push_to_hub(repo_id, model_card_kwargs=told, **options)

    def generate_model_card(self, **told: Any) -> ModelCard:
        """What ``README.md`` says; ``name`` of the repository is for its snippet."""
        return ModelCard(self._card(**told))

    def _card(self, name: str = HERE) -> str:
        return model_card(cast("FourM", self), name)
