"""What a newcomer meets first is true: files of the repository's front door parse, name the version
that this is, and lead to paths, tests and commands that exist.
"""

import re
import tomllib
from importlib import import_module

import pytest
import yaml
from fourm_tokenizers.quantizers import QuantizerConfig
from source import PACKAGES, ROOT, num_code_lines

import fourm
from fourm.cli.program import verbs
from fourm.raw import Raw
from fourm.sampling.schemes import Scheme

DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# what has to be understood to change how the model learns and generates
CORE = [
    "modalities",
    "batches/batch",
    "batches/tokens",
    "batches/masking",
    "batches/mask_config",
    "batches/mask_rules",
    "batches/mask_counts",
    "batches/mask_samples",
    "batches/budgets",
    "batches/spans",
    "batches/read_rows",
    "batches/layout",
    "model/positions",
    "model/attention",
    "model/cache",
    "model/blocks",
    "model/fused",
    "model/embedding",
    "model/lookups",
    "model/roles",
    "model/model",
    "model/config",
    "model/encoder",
    "model/prepared",
    "files/model_files",
    "model/loss",
    "model/objectives",
    "sampling",
]
# folders that a path in a document begins with
FOLDERS = "fourm|tokenizers|data_prep|configs|launch|tests|benchmarks|examples|docs"


def read_yaml(name: str):
    return yaml.safe_load((ROOT / name).read_text())


def make_targets() -> set[str]:
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("name", ["bug", "modality"])
def test_issue_forms_ask_for_what_they_need(name):
    form = read_yaml(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert {"name", "description", "body"} <= set(form)
    names = [field["id"] for field in form["body"]]
    assert len(names) == len(set(names))
    for field in form["body"]:
        assert field["type"] in ("textarea", "input", "dropdown", "checkboxes")
        assert field["attributes"]["label"]
    assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_the_citation_names_this_version_and_its_day():
    citation = read_yaml("CITATION.cff")
    newest = re.search(r"^## (\S+) \((.+)\)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest is not None
    assert citation["version"] == fourm.__version__ == newest[1]
    assert str(citation["date-released"]) == newest[2]
    assert all(reference["authors"] for reference in citation["references"])


def test_hooks_run_the_versions_that_are_tested_together():
    constraints = (ROOT / "constraints.txt").read_text()
    ruff, local = read_yaml(".pre-commit-config.yaml")["repos"]
    assert f"\nruff=={ruff['rev'].removeprefix('v')}\n" in constraints
    assert [hook["id"] for hook in (*ruff["hooks"], *local["hooks"])] == [
        "ruff-check",
        "ruff-format",
        "pyright",
    ]


def test_every_python_that_the_package_names_is_tried_by_commands_that_exist():
    jobs = read_yaml(".github/workflows/ci.yml")["jobs"]
    named = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if ":: 3." in c]
    assert jobs["promises"]["strategy"]["matrix"]["python"] == named
    lines = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    targets = set(re.findall(r"make (\S+)", "\n".join(lines)))
    assert targets == {"check", "test-all", "demo", "site"} <= make_targets()
    assert set(re.findall(r"fourm ([a-z]+)", "\n".join(lines))) <= {*verbs(), "tokenizers"}


def test_readme_states_the_lines_of_the_core_rounded_up_to_fifty():
    paths = []
    for name in CORE:
        place = ROOT / "fourm" / name
        paths += sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    lines = sum(map(num_code_lines, paths))
    stated = re.search(r"is at most ([\d,]+) lines", (ROOT / "README.md").read_text())
    assert stated is not None
    assert int(stated[1].replace(",", "")) == -(-lines // 50) * 50, f"it has {lines} lines"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_paths_and_links_of_documents_lead_somewhere(path):
    text = path.read_text()
    named = set(re.findall(rf"(?<![\w./-])(?:{FOLDERS})/[\w./-]*\w", text))
    links = {(path.parent / link) for link in re.findall(r"\]\((?!http|#)([^)#\s]+)", text)}
    lost = {name for name in named if not (ROOT / name).exists()}
    lost |= {str(link) for link in links if not link.exists()}
    assert not lost


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_modules_verbs_and_tests_of_documents_exist(path):
    text = path.read_text()
    groups = set(PROJECT["entry-points"])
    for name in set(re.findall(r"(?<![\w./-])fourm(?:_\w+)?(?:\.\w+)+", text)) - groups:
        package, *parts = name.split(".")
        place = PACKAGES[package]
        while parts and (place / parts[0]).is_dir():
            place = place / parts.pop(0)
        if parts and (place / f"{parts[0]}.py").is_file():
            place = place / f"{parts.pop(0)}.py"
        inside = place if place.is_file() else place / "__init__.py"
        assert all(part in inside.read_text() for part in parts), name
    commands = set(re.findall(r"(?:^|`|&& )fourm ([a-z][\w-]*)", text, re.M))
    assert commands <= set(verbs())
    for file, word in re.findall(r"(tests/test_\w+\.py) -k (\w+)", text):
        assert re.search(rf"def test_\w*{word}", (ROOT / file).read_text()), f"{file} -k {word}"


def test_documents_list_every_kind_that_can_be_chosen_by_name():
    for family, page in (
        (Raw, "modalities"),
        (Scheme, "sampling"),
        (QuantizerConfig, "tokenizers"),
    ):
        text = (ROOT / "docs" / f"{page}.md").read_text()
        missing = [name for name in family.names() if not re.search(rf"`?\b{name}\b", text)]
        assert not missing, f"docs/{page}.md lacks {', '.join(missing)}"
    text = (ROOT / "docs" / "data.md").read_text()
    for file in ("exact", "packaged", "audio", "adapters", "sam"):
        module = import_module(f"fourm_data_prep.{file}")
        for name in getattr(module, "LABELLERS", {}):
            assert f"`{name}`" in text, name
        for name in getattr(module, "NETWORKS", {}):
            assert f"`{name}:X`" in text, name
