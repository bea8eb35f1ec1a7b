"""The command ``fourm``: one sub-command for each thing a user does. Each parses its options and
calls the library.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from fourm.commands import run_command
from fourm.errors import UserError


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``fourm``."""
    parser = argparse.ArgumentParser(
        prog="fourm", description="Any-to-any multimodal masked modelling."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, add in _COMMANDS.items():
        sub = commands.add_parser(name, help=(add.__doc__ or "").split(".")[0])
        sub.set_defaults(run=add(sub))
    options = parser.parse_args(arguments)
    run_command(lambda: options.run(options))


def _modalities(parser: argparse.ArgumentParser):
    """Show the modalities of a config as a table."""
    parser.add_argument("config", help="YAML file, or the name of a built-in set")

    def run(o: argparse.Namespace) -> None:
        from fourm.modalities import ModalitySet
        from fourm.resources import configs_folder

        path = Path(o.config)
        if not path.is_file() and (configs_folder() / "modalities" / f"{o.config}.yaml").is_file():
            path = configs_folder() / "modalities" / f"{o.config}.yaml"
        print(ModalitySet.load(path).table())

    return run


def _demo(parser: argparse.ArgumentParser):
    """Render a small world, learn it, generate any-to-any, report.

    `evaluate` judges a finished run on other scenes.
    """
    parser.add_argument("action", nargs="?", default="run", choices=["run", "evaluate"])
    parser.add_argument("--size", default="default", help="smoke, default or large")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="project folder")
    parser.add_argument("--seed", type=int, default=0, help="evaluate: seed of the scenes")
    parser.add_argument("--scenes", type=int, default=256, help="evaluate: number of scenes")
    parser.add_argument(
        "--json",
        type=Path,
        help="evaluate: where the figures go (default: <out>/metrics-<seed>.json)",
    )

    def run(o: argparse.Namespace) -> None:
        if o.action == "evaluate":
            from fourm.demo.examine import evaluate, print_summary
            from fourm.project import Project

            print_summary(
                evaluate(
                    Project(o.out), o.seed, o.scenes, o.json or o.out / f"metrics-{o.seed}.json"
                )
            )
            return
        from fourm.demo.run import run_demo

        run_demo(o.size, o.out)

    return run


def _quickstart(parser: argparse.ArgumentParser):
    """From a folder of pictures with captions to a trained small model and its report."""
    parser.add_argument(
        "folder", type=Path, help="pictures (jpg, png, webp), captions in <name>.txt or one CSV"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="project folder")
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="about how long to pretrain on this machine"
    )
    parser.add_argument(
        "--max-damage",
        type=float,
        default=0.05,
        help="largest share of pictures that may be unreadable",
    )

    def run(o: argparse.Namespace) -> None:
        from fourm_data_prep.quickstart import quickstart

        quickstart(o.folder, o.out, o.minutes, o.max_damage)

    return run


def _import(parser: argparse.ArgumentParser):
    """Pictures and captions to raw shards."""
    parser.add_argument(
        "source",
        help="folder of pictures (captions in <name>.txt or a table), a table, a folder of tars, or hf:DATASET[:SPLIT]",
    )
    parser.add_argument(
        "--config",
        required=True,
        type=Path,
        help="YAML file of modalities: what is made of each picture",
    )
    parser.add_argument(
        "--size",
        type=int,
        default=0,
        help="store the widest modality at this many pixels, for crops later",
    )
    parser.add_argument("--out", required=True, type=Path, help="folder of raw shards")
    parser.add_argument(
        "--max-damage",
        type=float,
        default=0.05,
        help="largest share of pictures that may be unreadable",
    )
    _engine_options(parser)

    def run(o: argparse.Namespace) -> None:
        from fourm_data_prep.engine_options import engine_of
        from fourm_data_prep.importing import import_pictures

        import_pictures(o.source, o.config, o.out, o.max_damage, engine_of(o), o.size)

    return run


def _tokenize(parser: argparse.ArgumentParser):
    """Raw shards to token shards (same as python -m fourm_data_prep.tokenize)."""
    parser.add_argument("project", type=Path, help="project folder")
    parser.add_argument(
        "--crops", type=int, default=1, help="crops of each picture: the whole one and random ones"
    )
    parser.add_argument("--flip", action="store_true", help="mirror half of the random crops")
    _engine_options(parser)

    def run(o: argparse.Namespace) -> None:
        from fourm_data_prep.engine_options import engine_of
        from fourm_data_prep.tokenize import tokenize

        from fourm.project import Project

        p = Project(o.project)
        tokenize(
            p.modalities,
            p.raw,
            p.tokenizers,
            p.tokens,
            engine=engine_of(o),
            crops=o.crops,
            flip=o.flip,
        )

    return run


def _download(parser: argparse.ArgumentParser):
    """Fetch pictures from a list of addresses (CC12M's TSV, CSV, JSONL) into tars."""
    parser.add_argument("list", type=Path, help="addresses with captions")
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        help="folder of tars; give it to `fourm import` afterwards",
    )
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds for each attempt")
    parser.add_argument("--retries", type=int, default=2)
    parser.add_argument("--max-mb", type=float, default=20.0, help="largest picture")
    parser.add_argument("--per-host", type=int, default=4, help="requests to one host at a time")
    _engine_options(parser)

    def run(o: argparse.Namespace) -> None:
        from fourm_data_prep.download import DownloadConfig, download
        from fourm_data_prep.engine_options import engine_of

        config = DownloadConfig(
            timeout=o.timeout, retries=o.retries, max_bytes=int(o.max_mb * 1e6), per_host=o.per_host
        )
        report = download(o.list, o.out, config, engine_of(o)).report
        print(
            f"{report.num_seen - len(report.entries)} of {report.num_seen} fetched; the others are"
            f" in {o.out / 'status.json'}"
        )

    return run


def _inspect(parser: argparse.ArgumentParser):
    """Count raw shards and show samples of all modalities on a page."""
    parser.add_argument("raw", type=Path, help="folder of raw shards")
    parser.add_argument("--config", required=True, type=Path, help="YAML file of modalities")
    parser.add_argument("--out", type=Path, help="page to write (default: RAW/inspect.html)")

    def run(o: argparse.Namespace) -> None:
        from fourm_data_prep.inspect import inspect

        page = o.out or o.raw / "inspect.html"
        for count in inspect(o.raw, o.config, page):
            print(
                f"{count.split:<6} {count.modality:<12} {count.samples:>9,} samples"
                f" {count.shards:>6} shards {count.damaged:>6} damaged {count.megabytes:>10.1f} MB"
            )
        print(page)

    return run


def _label(parser: argparse.ArgumentParser):
    """Add modalities to raw shards that exist, with the labellers of the config."""
    parser.add_argument("raw", type=Path, help="folder of raw shards")
    parser.add_argument("--config", required=True, type=Path, help="YAML file of modalities")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        help="this modality (may be given again); else all that are lacking",
    )
    parser.add_argument(
        "--max-damage",
        type=float,
        default=0.05,
        help="largest share of pictures that may be unreadable",
    )
    _engine_options(parser)

    def run(o: argparse.Namespace) -> None:
        from fourm_data_prep.engine_options import engine_of
        from fourm_data_prep.label import label

        label(o.raw, o.config, o.only, o.max_damage, engine_of(o))

    return run


def _latents(parser: argparse.ArgumentParser):
    """Cache the latents of a frozen encoder over raw shards, to align encoders with."""
    parser.add_argument("raw", type=Path, help="folder of raw shards")
    parser.add_argument("--config", required=True, type=Path, help="YAML file of modalities")
    parser.add_argument("--modality", required=True, help="what is encoded: pictures or text")
    parser.add_argument(
        "--encoder",
        required=True,
        help="efficientnet, minilm, features:NETWORK, sentence:NETWORK, fourm:FOLDER ...",
    )
    parser.add_argument("--out", required=True, type=Path, help="folder of latents")
    parser.add_argument(
        "--tokens", action="store_true", help="keep a vector for each token instead of their mean"
    )
    parser.add_argument("--full", action="store_true", help="store 32 bits a number instead of 16")
    parser.add_argument(
        "--max-damage", type=float, default=0.05, help="largest share of samples that may fail"
    )
    _engine_options(parser)

    def run(o: argparse.Namespace) -> None:
        from fourm_data_prep.engine_options import engine_of
        from fourm_data_prep.latents import cache_latents

        cache_latents(
            o.raw,
            o.config,
            o.modality,
            o.encoder,
            o.out,
            tokens=o.tokens,
            half=not o.full,
            max_damage=o.max_damage,
            engine=engine_of(o),
        )
        print(o.out)

    return run


def _fusion(parser: argparse.ArgumentParser):
    """Align frozen encoders on cached latents, adapt them to another domain, and judge both."""
    what = parser.add_subparsers(dest="what", required=True)
    for name, text in (
        ("align", "train FuseMix or Alt-MoE connectors"),
        ("adapt", "UniMoS: adapt to an unlabelled domain"),
    ):
        part = what.add_parser(name, help=text)
        part.add_argument("config", help="YAML file, see configs/alignment")
        part.add_argument(
            "overrides",
            nargs="*",
            metavar="key=value",
            help="changes to the config, e.g. loop.steps=1000",
        )
    part = what.add_parser("evaluate", help="recalls of an alignment on its test subjects")
    part.add_argument("folder", type=Path, help="folder of the run")
    part = what.add_parser("accuracy", help="accuracy of an adaptation on its target")
    part.add_argument("folder", type=Path, help="folder of the run")
    part.add_argument("--labels", required=True, type=Path, help="CSV with the target's classes")
    part = what.add_parser("embed", help="map latents into an alignment's space")
    part.add_argument("folder", type=Path, help="folder of the run")
    part.add_argument("--modality", required=True)
    part.add_argument("--latents", required=True, type=Path)
    part.add_argument("--out", required=True, type=Path)

    def run(o: argparse.Namespace) -> None:
        if o.what in ("align", "adapt"):
            module = importlib.import_module(f"fourm.alignment.{o.what}")
            module.main(["--config", o.config, *o.overrides])
            return
        if o.what == "accuracy":
            from fourm.alignment.adapt import accuracy

            figures = accuracy(o.folder, o.labels)
        elif o.what == "evaluate":
            from fourm.alignment.align import figures_on_test

            figures = figures_on_test(o.folder)
        else:
            from fourm.alignment.align import embed_latents

            print(f"{embed_latents(o.folder, o.modality, o.latents, o.out)} latents in {o.out}")
            return
        print(json.dumps(figures, indent=1))

    return run


def _engine_options(parser: argparse.ArgumentParser) -> None:
    from fourm_data_prep.engine_options import add_engine_options

    add_engine_options(parser)


def _report(parser: argparse.ArgumentParser):
    """Write the report of a project: galleries, curves, any-to-any matrix."""
    parser.add_argument("project", type=Path, help="project folder")

    def run(o: argparse.Namespace) -> None:
        from fourm.evaluation.project_report import report_project
        from fourm.project import Project

        print(f"report: {report_project(Project(o.project))}")

    return run


def _generate(parser: argparse.ArgumentParser):
    """Generate any modalities from any others."""
    parser.add_argument(
        "--model", help="pipeline folder or hub id; the demo's own model if left out"
    )
    parser.add_argument("--caption", help="short for --input caption=...")
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a text, a picture file, a .json or .npy file",
    )
    parser.add_argument(
        "--targets", nargs="+", default=["rgb"], help="modalities to generate, in order"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/generated"), help="folder for the results"
    )
    parser.add_argument("--num", type=int, default=1, help="how many samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guidance", type=float, help="guidance scale of all targets")
    parser.add_argument("--steps", type=int, help="steps of all targets")

    def run(o: argparse.Namespace) -> None:
        from fourm.pipeline import AnyToAnyPipeline
        from fourm.resources import demo_model_folder
        from fourm.show import has_picture

        pipe = AnyToAnyPipeline.from_pretrained(o.model or demo_model_folder())
        given = dict(_named(text) for text in o.input)
        if o.caption is not None:
            given["caption"] = o.caption
        inputs = {
            name: _read_input(pipe.modalities[name].raw, value) for name, value in given.items()
        }
        settings: dict[str, Any] = {}
        if o.guidance is not None:
            settings["guidance_scale"] = o.guidance
        if o.steps is not None:
            settings["steps"] = o.steps
        results = pipe(inputs, o.targets, seed=o.seed, num_samples=o.num, **settings)
        o.out.mkdir(parents=True, exist_ok=True)
        for name, result in results.items():
            spec = result.modality.raw
            for i in range(len(result.values)):
                path = o.out / f"{name}-{o.seed + i}"
                if has_picture(spec):
                    picture = result.images[i]
                    scale = max(1, 256 // max(picture.size))
                    picture.resize((picture.width * scale, picture.height * scale)).save(
                        path.with_suffix(".png")
                    )
                    print(path.with_suffix(".png"))
                if not spec.dense:
                    text = result.values[i] if spec.type == "text" else json.dumps(result.values[i])
                    path.with_suffix(".txt" if spec.type == "text" else ".json").write_text(
                        text + "\n"
                    )
                    print(f"{name}: {text}")

    return run


def _export(parser: argparse.ArgumentParser):
    """Write a project's newest model, tokenizers and settings as one folder."""
    parser.add_argument("project", type=Path, help="project folder")
    parser.add_argument("--out", required=True, type=Path, help="pipeline folder")
    parser.add_argument("--half", action="store_true", help="store weights in 16 bits")

    def run(o: argparse.Namespace) -> None:
        from fourm.evaluation.project_report import assemble
        from fourm.project import Project

        assemble(Project(o.project)).save_pretrained(o.out, half=o.half)
        print(o.out)

    return run


def _convert(parser: argparse.ArgumentParser):
    """Convert a model between the released 4M format and ours."""
    parser.add_argument("model", help="model folder, safetensors file or hub id, of either format")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument(
        "--to", choices=["fourm", "released"], default="fourm", help="format to write"
    )

    def run(o: argparse.Namespace) -> None:
        from fourm.interop.released import save_released
        from fourm.model import FourM

        if not Path(o.model).exists() and (
            o.model.count("/") != 1 or o.model.startswith((".", "/", "~"))
        ):
            raise UserError(f"no model folder or file {o.model}")
        model = FourM.from_pretrained(o.model)
        if o.to == "released":
            save_released(model, o.out)
        else:
            model.save_pretrained(o.out)
        print(o.out)

    return run


def _app(parser: argparse.ArgumentParser):
    """Serve a web page: drop a picture or type a caption, get every other modality."""
    parser.add_argument(
        "--model", help="pipeline folder or hub id; the demo's own model if left out"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7860)

    def run(o: argparse.Namespace) -> None:
        from fourm.app import serve
        from fourm.pipeline import AnyToAnyPipeline
        from fourm.resources import demo_model_folder

        serve(AnyToAnyPipeline.from_pretrained(o.model or demo_model_folder()), o.host, o.port)

    return run


def _named(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign:
        raise UserError(f"--input {text!r} is not of the form NAME=VALUE")
    return name, value


def _read_input(spec: Any, value: str) -> Any:
    from fourm.data.raw import open_picture, read_npy, read_raw

    if spec.type == "text":
        return value
    path = Path(value)
    if not spec.dense and not path.is_file():
        return read_raw(value.encode(), "json", spec)
    if not path.is_file():
        raise UserError(f"no file {value}")
    data = path.read_bytes()
    if not spec.dense:
        return read_raw(data, "json", spec)
    return read_npy(data) if path.suffix == ".npy" else open_picture(data)


_COMMANDS = {
    "demo": _demo,
    "quickstart": _quickstart,
    "generate": _generate,
    "modalities": _modalities,
    "download": _download,
    "import": _import,
    "inspect": _inspect,
    "label": _label,
    "latents": _latents,
    "fusion": _fusion,
    "tokenize": _tokenize,
    "report": _report,
    "export": _export,
    "convert": _convert,
    "app": _app,
}

if __name__ == "__main__":
    main(sys.argv[1:])
