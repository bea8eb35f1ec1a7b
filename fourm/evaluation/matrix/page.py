"""The matrix as one page that loads nothing: heat maps with their numbers, bounds, curves of
reliability, and the cells that are no better than what is reached without an answer.

A cell's colour is its position between its bounds: amber at or below the lower, the greener the
nearer to the upper.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path

from fourm.evaluation.matrix.figures import Calibration, Cell, Figure, Matrix, shortfall
from fourm.report import Report

_STYLE = """<style>
.heat th { position: sticky; left: 0; background: var(--paper); white-space: nowrap;
  font-weight: 600 }
.heat td { text-align: center; min-width: 4.2rem; border: 2px solid var(--paper);
  border-radius: 6px; padding: .35rem .4rem; line-height: 1.25 }
.heat small, .heat thead th small { display: block; color: var(--ink); opacity: .75;
  font-size: 11px; font-weight: 400 }
.heat thead th { text-align: center; border: 0 }
.heat .none { background: none; opacity: .35 }
.key i { display: inline-block; width: 1.4rem; height: .8rem; margin: 0 .15rem }
.curves { display: flex; flex-wrap: wrap; gap: .8rem }
.curves figure { margin: 0; font-size: 11px; text-align: center }
details { margin: .6rem 0 } summary { cursor: pointer; font-weight: 600 }
</style>"""
_GREEN, _AMBER = "16 150 105", "217 119 6"
_STRONGEST = 0.62  # of a colour, so that numbers on it can be read
_CALIBRATION_SCALE = 0.25  # error that is as amber as it gets
_SIDE = 92  # of a curve, pixels
_ANSWERS = "One answer for each sample"
Show = Callable[[Cell], "tuple[str, str, str] | None"]  # number, small text, colour


def write_page(matrix: Matrix, path: Path) -> None:
    """Write the page."""
    several = matrix.num_generations > 1
    each = f", {matrix.num_generations} generations of each" if several else ""
    report = Report(
        f"Any to any: {matrix.model}",
        f"{matrix.num_samples} held-out samples of {matrix.data}/{matrix.split}{each}",
    )
    report.parts.append(_STYLE)
    steps = "".join(f'<i style="background:{_color(p)}"></i>' for p in (0, 0.2, 0.4, 0.6, 0.8, 1))
    report.parts.append(
        '<p class="note key">Rows: what is given. Columns: what is asked. A cell is coloured by'
        f" its place between its bounds: {steps} from the better of the lower bounds (a constant"
        " answer, another sample's condition) to the upper (the tokenizer's reconstruction of the"
        " truth); amber is no better than the lower.</p>"
    )
    if matrix.num_generations:
        notes = {c.target: next(iter(c.figures), "") for c in matrix.cells}
        _heat_map(report, matrix, "Figures of what is generated", _shown_figure, notes)
    _heat_map(report, matrix, _ANSWERS, _shown_answer, _first_answers(matrix))
    _heat_map(report, matrix, "Cross-entropy of the target's tokens (nats a token)", _shown_loss)
    _heat_map(report, matrix, "Calibration error of token probabilities", _shown_calibration)
    if any(cell.coverage for cell in matrix.cells):
        _heat_map(
            report, matrix, "Coverage: share of the truth in the generated range", _shown_coverage
        )
    _pictures(report, matrix)
    _not_better(report, matrix)
    report.heading("All figures and bounds")
    for target in matrix.targets:
        cells = [cell for cell in matrix.cells if cell.target == target]
        report.parts.append(f"<details><summary>{html.escape(target)}</summary>")
        _details(report, cells)
        curves = "".join(map(_curve, cells))
        report.parts.append(f'<div class="curves">{curves}</div></details>')
    report.write(path)


def add_answers(report: Report, matrix: Matrix, note: str = "") -> None:
    """Of another page: the heat map of one answer for each sample, and the cells that are not
    better than what costs nothing.
    """
    report.parts.append(_STYLE)
    _heat_map(report, matrix, _ANSWERS, _shown_answer, _first_answers(matrix), note)
    listed = [
        (cell, name, figure)
        for cell in matrix.cells
        for name, figure in {"cross_entropy": cell.cross_entropy, **cell.answer}.items()
        if cell.given and figure.better is False
    ]
    if listed:
        rows = [
            [
                html.escape(f"{cell.condition} → {cell.target}"),
                html.escape(name),
                _number(figure.value),
                html.escape(", ".join(f"{n} {_number(v)}" for n, v in figure.lower.items())),
            ]
            for cell, name, figure in listed
        ]
        report.parts.append(f"<details><summary>{len(rows)} figures are not better</summary>")
        report.table(["cell", "figure", "value", "what costs nothing"], rows)
        report.parts.append("</details>")


def _heat_map(
    report: Report,
    matrix: Matrix,
    title: str,
    show: Show,
    notes: dict[str, str] | None = None,
    told: str = "",
) -> None:
    """One number a cell; ``notes`` stand below the names of targets, ``told`` below the title."""
    of = {(cell.condition, cell.target): cell for cell in matrix.cells}
    head = "".join(
        f"<th>{html.escape(t)}<small>{html.escape((notes or {}).get(t, ''))}</small></th>"
        for t in matrix.targets
    )
    rows = ""
    for condition in matrix.conditions:
        row = ""
        for target in matrix.targets:
            cell = of.get((condition, target))
            shown = show(cell) if cell is not None else None
            if shown is None:
                row += '<td class="none">·</td>'
                continue
            number, small, color = shown
            row += f'<td style="background:{color}">{number}<small>{small}</small></td>'
        rows += f"<tr><th>{html.escape(condition)}</th>{row}</tr>"
    report.heading(title, told)
    report.parts.append(
        f'<div class="wide"><table class="heat"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _color(position: float | None, better: bool | None = True) -> str:
    """By the position between bounds; none where it is not known."""
    if better is False:
        return f"rgb({_AMBER} / .45)"
    if position is None:
        return "transparent"
    return f"rgb({_GREEN} / {_STRONGEST * min(max(position, 0.03), 1):.2f})"


def _shown(figure: Figure) -> tuple[str, str, str]:
    small = "" if figure.position is None else f"{100 * figure.position:.0f} %"
    if figure.best is not None:
        small += f" · best {_number(figure.best)}"
    return _number(figure.value), small, _color(figure.position, figure.better)


def _shown_figure(cell: Cell) -> tuple[str, str, str] | None:
    return _shown(next(iter(cell.figures.values()))) if cell.figures else None


def _shown_answer(cell: Cell) -> tuple[str, str, str] | None:
    """The first figure; below it the best lower bound and whose it is."""
    if not cell.answer:
        return None
    figure = next(iter(cell.answer.values()))
    value, _, color = _shown(figure)
    if cell.better_answer is False:  # in any of its figures
        color = _color(None, False)
    if not figure.lower or figure.perfect is None:
        return value, "", color
    perfect = figure.perfect
    name = min(figure.lower, key=lambda n: shortfall(perfect, figure.lower[n]))
    return value, f"{html.escape(name)} {_number(figure.lower[name])}", color


def _shown_loss(cell: Cell) -> tuple[str, str, str]:
    return _shown(cell.cross_entropy)


def _shown_calibration(cell: Cell) -> tuple[str, str, str] | None:
    error = cell.calibration.error
    if error is None:
        return None
    share = min(error / _CALIBRATION_SCALE, 1.0)
    return f"{error:.3f}", "", f"rgb({_AMBER} / {_STRONGEST * share:.2f})"


def _shown_coverage(cell: Cell) -> tuple[str, str, str] | None:
    found = cell.coverage
    if found is None:
        return None
    position = min(found.tokenized / found.nominal, 1.0) if found.nominal > 0 else None
    small = f"tokenized {100 * found.tokenized:.0f}, nominal {100 * found.nominal:.0f}"
    return f"{100 * found.truth:.0f} %", small, _color(position)


def _first_answers(matrix: Matrix) -> dict[str, str]:
    """The name of each target's first figure, which the map shows."""
    return {cell.target: next(iter(cell.answer), "") for cell in matrix.cells}


def _pictures(report: Report, matrix: Matrix) -> None:
    cells = [cell for cell in matrix.cells if cell.deviation is not None]
    if not cells:
        return
    report.heading(
        "Distributions of pictures",
        "Fréchet and unbiased kernel distance (x 1,000, with its standard error) of EfficientNet-"
        "Lite0 features to those of the true pictures, which are no FID and KID; at"
        f" {matrix.num_samples} pictures the Fréchet distance is comparable with others of the same"
        " number alone. Deviation of pixels over the places of a picture. In brackets:"
        " reconstructions.",
    )
    rows = []
    for cell in cells:
        d, shown = cell.pictures, ["", ""]
        if d is not None:
            shown = [
                f"{d.frechet:.1f} ({d.frechet_reconstructed:.1f})",
                f"{1000 * d.kernel:.1f} ± {1000 * d.kernel_error:.1f}"
                f" ({1000 * d.kernel_reconstructed:.1f})",
            ]
        assert cell.deviation is not None
        varied = f"{cell.deviation.generated:.1f} ({cell.deviation.reconstructed:.1f})"
        rows.append([html.escape(f"{cell.condition} → {cell.target}"), *shown, varied])
    report.table(["", "Fréchet", "kernel", "deviation"], rows)


def _not_better(report: Report, matrix: Matrix) -> None:
    listed = matrix.not_better
    report.heading(
        "Not better than the lower bounds",
        f"{len(listed)} of {len(matrix.cells)} cells. With nothing given there is nothing to be"
        " better by.",
    )
    if listed:
        rows = [
            [
                html.escape(f"{e['condition']} → {e['target']}"),
                html.escape(", ".join(e["figures"])),
                html.escape(", ".join(e["answer"])),
            ]
            for e in listed
        ]
        report.table(["cell", "figures of generations", "of one answer"], rows)


def _details(report: Report, cells: list[Cell]) -> None:
    columns = ["given", "figure", "value", "best", "deviation", "constant", "shuffled", "upper"]
    rows = []
    for cell in cells:
        named = {"cross_entropy": cell.cross_entropy, **cell.figures}
        named |= {f"{name} of one answer": figure for name, figure in cell.answer.items()}
        for name, f in named.items():
            lower = [f.lower.get("constant"), f.lower.get("shuffled")]
            numbers = map(_number, (f.value, f.best, f.deviation, *lower, f.upper))
            value, *others = numbers
            mark = "bad" if f.better is False else "good"
            bold = f'<span class="{mark}">{value}</span>' if f.better is not None else value
            rows.append([html.escape(cell.condition), html.escape(name), bold, *others])
    report.table(columns, rows)


def _curve(cell: Cell) -> str:
    """Accuracy over confidence, with the diagonal of perfect calibration."""
    title = f"{html.escape(cell.condition)}: {_number(cell.calibration.error)}"
    points = _points(cell.calibration)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{1.5 + 4 * share:.1f}" fill="rgb({_GREEN})"/>'
        for x, y, share in points
    )
    frame = f'<rect width="{_SIDE}" height="{_SIDE}" fill="none" stroke="currentColor"'
    return (
        f'<figure><svg width="{_SIDE}" height="{_SIDE}" viewBox="-5 -5 {_SIDE + 10} {_SIDE + 10}">'
        f'{frame} stroke-opacity=".25"/><line x1="0" y1="{_SIDE}" x2="{_SIDE}" y2="0"'
        f' stroke="currentColor" stroke-opacity=".25"/><polyline points="{path}" fill="none"'
        f' stroke="rgb({_GREEN})"/>{dots}</svg><figcaption>{title}</figcaption></figure>'
    )


def _points(calibration: Calibration) -> list[tuple[float, float, float]]:
    """Place of each bin that holds anything, and its share of the tokens."""
    total = sum(b.tokens for b in calibration.bins)
    return [
        (b.confidence * _SIDE, (1 - b.accuracy) * _SIDE, b.tokens / total)
        for b in calibration.bins
        if b.confidence is not None and b.accuracy is not None
    ]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
