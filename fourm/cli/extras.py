"""Which extra of the package brings a module that is not installed.

The wheel alone runs the demo's model; preparing data, judging and the web page need more. Whatever
a command fails to import is looked up in the package's own list of requirements.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires

# modules that are called otherwise than the package that holds them
_PACKAGES = {
    "cv2": "opencv-python-headless",
    "faiss": "faiss-cpu",
    "sklearn": "scikit-learn",
}
_REQUIREMENT = re.compile(r"(?P<package>[\w.-]+).*extra == ['\"](?P<extra>\w+)['\"]")


def where_to_get(module: str) -> str:
    """``pip install 'fourm[data]'`` for a module of that extra; empty for one that none brings."""
    name = module.partition(".")[0]
    package = _PACKAGES.get(name, name.replace("_", "-"))
    for line in _requirements():
        found = _REQUIREMENT.match(line)
        if found and found["package"].lower() == package and found["extra"] != "dev":
            return f"pip install 'fourm[{found['extra']}]'"
    return ""


def _requirements() -> list[str]:
    try:
        return requires("fourm") or []
    except PackageNotFoundError:  # a copy of the sources that was never installed
        return []
