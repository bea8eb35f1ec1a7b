"""What the site shows beside ``docs/``: the repository's front pages, and links that leave them.

A document is written for its place in the repository, where ``../fourm/model/model.py`` is a link.
On the site such a link leads to the repository's page of that file (``repo_url`` in mkdocs.yml) or,
where no address is known, is the file's name alone. A link to a page of the site is a link among
pages.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
FRONT = {"README.md": "index.md"} | {
    name: name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|#|mailto:)([^)\s#]+)(#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """The front pages of the repository become pages."""
    for source, page in FRONT.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links are those of the page's place in the repository; here they lead to pages or files."""
    source = {page_: source for source, page_ in FRONT.items()}.get(page.file.src_uri)
    folder = ROOT if source else ROOT / "docs"
    pages = {ROOT / source: page_ for source, page_ in FRONT.items()}
    repository = (config.repo_url or "").rstrip("/")

    def moved(match: re.Match[str]) -> str:
        picture, text, target, anchor = match.groups()
        place = Path(os.path.normpath(folder / target))
        if place in pages:
            return f"{picture}[{text}]({pages[place]}{anchor or ''})"
        if place.is_relative_to(ROOT / "docs") or not place.exists():
            inside = os.path.relpath(place, ROOT / "docs")
            return f"{picture}[{text}]({inside}{anchor or ''})"
        if repository:
            return f"[{text}]({repository}/blob/main/{place.relative_to(ROOT)}{anchor or ''})"
        return text

    return LINK.sub(moved, markdown)
