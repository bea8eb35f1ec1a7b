"""What is installed: an installed wheel holds every package, and what is imported is required or
brought by an extra.
"""

import ast
import compileall
import re
import sys

from refusals import PYPROJECT, ROOT

from fourm.cli.extras import where_to_get

SOURCES = {
    "fourm": ROOT / "fourm",
    "fourm_tokenizers": ROOT / "tokenizers" / "fourm_tokenizers",
    "fourm_data_prep": ROOT / "data_prep" / "fourm_data_prep",
}


def test_every_source_compiles(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))
    for folder in [*SOURCES.values(), ROOT / "examples", ROOT / "benchmarks"]:
        assert compileall.compile_dir(folder, quiet=2, force=True), folder


def test_the_wheel_holds_every_package_and_its_types():
    listed = set(PYPROJECT["tool"]["setuptools"]["packages"])
    found = set()
    for name, folder in SOURCES.items():
        assert (folder / "py.typed").is_file()
        for init in folder.rglob("__init__.py"):
            found.add(".".join([name, *init.parent.relative_to(folder).parts]))
    assert found == {name for name in listed if not name.startswith("fourm.configs")}
    configs = {f"fourm.configs.{p.name}" for p in (ROOT / "configs").iterdir() if p.is_dir()}
    assert configs | {"fourm.configs"} == listed - found


def test_every_module_that_is_imported_is_required_or_brought_by_an_extra():
    required = {
        re.split(r"[<>=]", line)[0].replace("-", "_")
        for line in PYPROJECT["project"]["dependencies"]
    }
    required = required - {"pillow", "pyyaml"} | {"PIL", "yaml"}
    named_where_imported = {"lpips", "timm", "pyarrow"}  # each with what to install
    for folder in SOURCES.values():
        for path in folder.rglob("*.py"):
            for module in _imported(ast.parse(path.read_text())):
                if module in sys.stdlib_module_names or module in (*required, *SOURCES):
                    continue
                if module in named_where_imported:
                    continue
                assert where_to_get(module), f"{path}: nothing installs {module}"


def _imported(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.partition(".")[0])
    return found
