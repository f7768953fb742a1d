"""The last words of a run: what was reached, where it is, and how to use it."""

from pathlib import Path

from resnet_hub.finetuning.report import EXAMPLE
from resnet_hub.finetuning.run_folder import RunFolder
from resnet_hub.results import RunReport, Score


def summarise(report: RunReport) -> str:
    """Accuracy, paths, and three lines of Python that load the export and classify an image."""
    folder = RunFolder(Path(report.recipe["output_dir"]))
    lines = [
        "",
        *(
            f"{name:11}{_describe(score)}"
            for name, score in (("validation", report.validation), ("test", report.test))
            if score is not None
        ),
        f"training   {report.train.epochs} epochs, {report.train.seconds:.0f} s, "
        f"{report.train.images_per_second:.0f} images/s",
        "",
        *([f"page       {folder.page}"] if folder.page.is_file() else []),
        f"report     {folder.report}",
        f"model      {folder.export}",
        f"card       {folder.export / 'README.md'}",
        "",
        "Use it from Python:",
        "",
        "    import resnet_hub",
        f"    model = resnet_hub.load({str(folder.export)!r})",
        f"    print(resnet_hub.classify(model, {str(folder.path / EXAMPLE)!r}))",
    ]
    return "\n".join(lines)


def _describe(score: Score) -> str:
    low, high = score.accuracy_interval_95
    return (
        f"accuracy {score.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}), "
        f"{score.num_images} images, macro F1 {score.macro_f1:.4f}, loss {score.loss:.4f}"
    )
