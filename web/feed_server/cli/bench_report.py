"""The table that `feed bench` prints for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from feed_server.bench.report import FIGURES, Figure, Report, Spread


def print_report(report: Report, console: Console) -> None:
    """Print the table, the warnings and the faults."""
    first, *others = report.targets
    console.print(f"feed bench: {report.plan.description}")
    console.print(f"{report.cores}; medians of all rounds (least to most)\n")
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("")
    for name in report.targets:
        table.add_column(name, justify="right", no_wrap=True)
    for name in others:
        table.add_column(f"{first.partition(' (')[0]} / {name}", justify="right", no_wrap=True)
    for figure in FIGURES:
        row = [_cell(report.values(target, figure.name), figure) for target in report.targets]
        ratios = [report.ratio(figure.name, other) if figure.compared else None for other in others]
        if any(row):
            table.add_row(figure.label, *row, *(ratio.text(2) if ratio else "" for ratio in ratios))
    console.print(table)
    console.print()
    if report.plan.rate is not None:
        for other in others:
            added = ", ".join(f"{name} {spread.text(2)} ms" for name, spread in report.differences(other).items())
            if added:
                console.print(f"latency of {first} over {other}: {added}")
    for warning in report.warnings:
        console.print(f"warning: {warning}")
    for fault in report.faults:
        console.print(f"WRONG: {fault}")
    if not report.faults and report.plan.verdict:
        console.print(report.plan.verdict)


def _cell(values: Sequence[float], figure: Figure) -> str:
    return Spread.of(values).text(figure.digits, figure.divisor) if values else ""
