"""`resnet-hub compare`: finished runs side by side, on the terminal and as a page."""

import argparse
from dataclasses import asdict
from typing import Any

from resnet_hub.cli.tables import print_json, print_rows
from resnet_hub.files import write_atomically
from resnet_hub.finetuning.report.compare import (
    ComparedRun,
    Comparison,
    compare_runs,
    comparison_page,
    describe_test,
)
from resnet_hub.finetuning.report.page import page_of_run, render_page
from resnet_hub.terminal import say


def run_compare(arguments: argparse.Namespace) -> int:
    """Print the runs, the options that differ and the tests; write the page if one is asked for."""
    comparison = compare_runs(arguments.runs)
    if arguments.json:
        print_json(_record(comparison))
    else:
        _print(comparison)
    if arguments.output is not None:
        write_atomically(arguments.output, _page(comparison))
        if not arguments.json:
            say(f"\npage  {arguments.output}")
    return 0


def _page(comparison: Comparison) -> str:
    if len(comparison.runs) == 1:
        (run,) = comparison.runs
        return render_page(page_of_run(run.folder, run.report))
    return comparison_page(comparison)


def _print(comparison: Comparison) -> None:
    print_rows([_row(run) for run in comparison.runs], title=comparison.split or "runs")
    names = [run.name for run in comparison.runs]
    if comparison.options:
        say()
        rows = [
            {"option": option} | dict(zip(names, values, strict=True))
            for option, values in comparison.options.items()
        ]
        print_rows(rows, title="options that differ", verbatim=True)
    for test in comparison.tests:
        say(f"\n{describe_test(test, comparison.split or '')}")


def _row(run: ComparedRun) -> dict[str, Any]:
    score, train = run.score, run.report.train
    low, high = score.accuracy_interval_95 if score else (0.0, 0.0)
    return {
        "run": run.name,
        "model": run.report.model,
        "accuracy": f"{score.accuracy:.2%}" if score else None,
        "95 % interval": f"{low:.2%} to {high:.2%}" if score else None,
        "macro F1": f"{score.macro_f1:.4f}" if score else None,
        "loss": f"{score.loss:.4f}" if score else None,
        "images": score.num_images if score else None,
        "seconds": f"{train.seconds:.0f}",
        "images/s": f"{train.images_per_second:.0f}",
    }


def _record(comparison: Comparison) -> dict[str, Any]:
    """What a program reads."""
    return {
        "split": comparison.split,
        "runs": [
            {
                "run": run.name,
                "folder": str(run.folder.path),
                "model": run.report.model,
                "dataset": run.report.dataset,
                "accuracy": run.score.accuracy if run.score else None,
                "accuracy_interval_95": run.score.accuracy_interval_95 if run.score else None,
                "macro_f1": run.score.macro_f1 if run.score else None,
                "loss": run.score.loss if run.score else None,
                "num_images": run.score.num_images if run.score else None,
                "seconds": run.report.train.seconds,
                "images_per_second": run.report.train.images_per_second,
            }
            for run in comparison.runs
        ],
        "different_options": {
            option: dict(zip((run.name for run in comparison.runs), values, strict=True))
            for option, values in comparison.options.items()
        },
        "paired_tests": [asdict(test) for test in comparison.tests],
    }
