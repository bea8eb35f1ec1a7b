"""The house has floors: no module imports from a floor above its own, and none imports itself by a
detour. Imports inside functions count; those for type checkers alone do not.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = {
    "fourm": ROOT / "fourm",
    "fourm_tokenizers": ROOT / "tokenizers" / "fourm_tokenizers",
    "fourm_data_prep": ROOT / "data_prep" / "fourm_data_prep",
}

# from the ground up; a module is on the floor that names it or the nearest folder around it
FLOORS: list[set[str]] = [
    {
        "fourm.errors",
        "fourm.files.model_memory",
        "fourm.files.json_files",
        "fourm.resources",
        "fourm.choices",
        "fourm.files.yaml_files",
        "fourm.config",
        "fourm.files.foreign_code",
        "fourm.numbers.rng",
        "fourm.numbers.ragged",
        "fourm.numbers.low_discrepancy",
    },
    {"fourm.numbers"},
    {"fourm.files", "fourm.places", "fourm.progress"},
    {"fourm.cli", "fourm.__main__"},
    {
        "fourm.data.crops",
        "fourm.data.npy",
        "fourm.data.pictures",
        "fourm.data.picture_parts",
        "fourm.evaluation.metrics",
        "fourm.evaluation.efficientnet",
    },
    {"fourm.raw"},
    {"fourm.item_form"},
    {"fourm.codec_types", "fourm.modalities", "fourm.codecs"},
    {"fourm.batches"},
    {"fourm.data"},
    {"fourm.records.tokenizer_settings", "fourm.records.provenance"},
    {"fourm.records.model_card"},
    {"fourm.records"},
    {
        "fourm.model.roles",
        "fourm.model.positions",
        "fourm.model.embedding",
        "fourm.model.lookups",
        "fourm.model.pieces",
        "fourm.model.loss",
        "fourm.model.objectives",
    },
    {"fourm.model.attention", "fourm.model.cache", "fourm.model.fused", "fourm.model.blocks"},
    {
        "fourm.model.encoder",
        "fourm.model.latent_rows",
        "fourm.model.latent_encoder",
        "fourm.model.prepared",
    },
    {"fourm.model.config"},
    {"fourm.model"},
    {"fourm.training"},
    {"fourm.doctor"},
    {"fourm.sampling.answers", "fourm.sampling.gaps"},
    {"fourm.sampling"},
    {
        "fourm.pipeline.given",
        "fourm.pipeline.automatic",
        "fourm.pipeline.together",
        "fourm.pipeline.scoring",
        "fourm.pipeline.feature_rows",
    },
    {"fourm.pipeline.given_sequences"},
    {"fourm.pipeline.generated", "fourm.pipeline.preferred"},
    {"fourm.pipeline.output_types", "fourm.pipeline.mixing"},
    {"fourm.pipeline.inputs", "fourm.pipeline.candidates"},
    {"fourm.pipeline.call", "fourm.pipeline.windows"},
    {"fourm.pipeline.tiled"},
    {"fourm.pipeline", "fourm.interop"},
    {"fourm.export", "fourm.interop.transformers"},
    {"fourm.pipeline.generated_files"},
    {"fourm.training.cpu_ranks", "fourm.project.project", "fourm.report", "fourm.evaluation"},
    {"fourm.project.changes", "fourm.project.minutes", "fourm.project.clean"},
    {"fourm.project.edits", "fourm.project.defaults"},
    {"fourm.project"},
    {"fourm.alignment", "fourm.fusion", "fourm.demo", "fourm.app"},
    {"fourm.features"},
    {"fourm.finetune"},
    {"fourm.commands"},
    {"fourm_tokenizers"},
    {"fourm_data_prep"},
]
# arrows upwards that are known and to be removed: (from, to)
KNOWN_UPWARD: set[tuple[str, str]] = set()


def modules() -> dict[str, Path]:
    """Every module of the three packages by its name."""
    found = {}
    for package, folder in SOURCES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *parts))
            found[name.removesuffix(".__init__")] = path
    return found


def is_for_type_checkers(node: ast.AST) -> bool:
    test = node.test if isinstance(node, ast.If) else None
    named = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
    return named == "TYPE_CHECKING"


def imports(tree: ast.AST):
    """Full names that a module imports, members of packages as if they were modules."""
    for node in ast.iter_child_nodes(tree):
        if is_for_type_checkers(node):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name their package"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from imports(node)


def graph() -> dict[str, set[str]]:
    """Each module's imports within the three packages."""
    known = modules()
    found = {}
    for name, path in known.items():
        wanted = set()
        for full in imports(ast.parse(path.read_text())):
            # a.b.c is the module a.b.c or the name c in the module a.b
            target = full if full in known else full.rpartition(".")[0]
            if target in known and target != name:
                wanted.add(target)
        found[name] = wanted
    return found


def floor_of(name: str) -> int | None:
    """The number of the floor that names a module or the nearest folder around it."""
    numbers = {entry: number for number, floor in enumerate(FLOORS) for entry in floor}
    while "." in name or name in numbers:
        if name in numbers:
            return numbers[name]
        name = name.rpartition(".")[0]
    return None


def test_no_module_imports_itself_by_a_detour():
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        raise AssertionError(f"a circle: {' <- '.join(error.args[1])}") from None


def test_no_module_imports_from_a_floor_above_its_own():
    # the package's own file imports nothing until a name is asked of it
    names = set(modules()) - {"fourm"}
    homeless = sorted(name for name in names if floor_of(name) is None)
    assert not homeless, f"put {', '.join(homeless)} on one of the FLOORS"
    upward = {
        (name, wanted)
        for name, found in graph().items()
        for wanted in found - {"fourm"}
        if name in names and floor_of(wanted) > floor_of(name)
    }
    assert not upward - KNOWN_UPWARD, "\n".join(f"{a} imports {b}" for a, b in sorted(upward))
    assert upward >= KNOWN_UPWARD, "an arrow that is no more: take it out of KNOWN_UPWARD"


def test_the_graph_sees_imports_inside_functions_and_passes_over_those_for_type_checkers():
    assert "fourm.pipeline.pipeline" in graph()["fourm_data_prep.adapters"]
    assert not graph()["fourm"]
