"""The story of a run, on one screen: from a configuration to a report, an export and a card."""

import os
from contextlib import nullcontext

from resnet_hub.errors import ConfigError, RunError, UserError
from resnet_hub.finetuning.config.options import FinetuneConfig, with_options
from resnet_hub.finetuning.finish import measure, publish, write_results
from resnet_hub.finetuning.machine.full_disk import naming_full_disks
from resnet_hub.finetuning.machine.lost_process import naming_lost_processes
from resnet_hub.finetuning.machine.preemption import PreemptionWatch
from resnet_hub.finetuning.prepare import (
    confirm_publishing,
    on_a_terminal,
    prepare,
)
from resnet_hub.finetuning.run_folder.folder import RunFolder
from resnet_hub.finetuning.training.bad_images import all_left_out
from resnet_hub.finetuning.training.context import Run
from resnet_hub.finetuning.training.epochs import draw_first_batches, fit_new_fc, train_epochs
from resnet_hub.finetuning.training.given import NOTHING_GIVEN, Given
from resnet_hub.finetuning.training.rate_finder import RateSearch, search_rate
from resnet_hub.finetuning.training.state import fc_is_to_be_fitted, start_or_resume
from resnet_hub.finetuning.training.suspects import LabelInspection, inspect_run
from resnet_hub.results import RunReport


def finetune(config: FinetuneConfig, given: Given = NOTHING_GIVEN) -> RunReport:
    """Fine-tune one model on one data set and return what was measured.

    The same call resumes an unfinished run in its `output_dir`. Every process of the run calls this, and
    every one gets the report. Objects that are given take the place of what the configuration names.

    Raises:
        UserError: the request cannot be carried out; nothing was written.
        RunError: the run had begun and cannot go on; what it has written stays. A finished run that could
            not be published is a PublishingError.
        Preempted: a signal asked to stop; a checkpoint was written and the same call goes on from it.
    """
    folder = RunFolder(config.run_dir)
    is_finished = folder.awaits_publishing(config)
    report = RunReport.load(folder.report) if is_finished else _finetune(config, given)
    # Signals are no longer waited for: one that ends this loses nothing, and the same call publishes.
    if config.push_to_hub and os.environ.get("RANK", "0") == "0":
        publish(folder, config, was_asked=not is_finished and on_a_terminal())
    return report


def _finetune(config: FinetuneConfig, given: Given) -> RunReport:
    with naming_lost_processes(), naming_full_disks(), PreemptionWatch() as watch:
        return watch.carry_out(lambda: _prepare_and_train(config, watch, given))


def _prepare_and_train(config: FinetuneConfig, watch: PreemptionWatch, given: Given) -> RunReport:
    run = prepare(config, watch, given)
    confirm_publishing(run)
    with run.folder.in_use() if run.machine.is_main else nullcontext():
        if run.machine.is_main:
            run.folder.begin(
                run.settings.recorded,
                facts=run.facts(),
                machine=run.machine.record(),
                bad_images=all_left_out(run),
            )
        run.machine.accelerator.wait_for_everyone()
        try:
            report = _train_and_report(run)
        except UserError as error:  # the request was fine, what happened since was not
            raise RunError(str(error)) from error
        run.machine.accelerator.wait_for_everyone()
    if config.push_to_hub:
        run.stop_if_asked()
    return report


def _train_and_report(run: Run) -> RunReport:
    run = run.with_cached_images()
    if run.machine.is_main:
        draw_first_batches(run)
    run.machine.accelerator.wait_for_everyone()
    training = start_or_resume(run)
    train_epochs(run, training)
    report, logits = measure(run, training)
    if run.machine.is_main:
        write_results(run, training, report, logits)
    return report


def dry_run(config: FinetuneConfig) -> None:
    """Say what `finetune` would do, having checked all that it checks; writes nothing."""
    with PreemptionWatch() as watch:
        prepare(config, watch)


def inspect_labels(config: FinetuneConfig) -> LabelInspection:
    """Find training labels that may be wrong, in the time of one look at every image; writes nothing.

    Every fifth of the training images is judged by a linear probe on features of the rest; see `suspects.py`.

    Raises:
        UserError: the request cannot be carried out.
        Preempted: a signal asked to stop.
    """
    if config.streaming:
        raise ConfigError("The labels of a stream cannot be inspected. Leave out --streaming.")
    config = with_options(config, resume="never", report_to="none", fit_fc_first=True, num_train_epochs=0)
    with PreemptionWatch() as watch:
        return inspect_run(prepare(config, watch))


def find_learning_rate(config: FinetuneConfig) -> RateSearch:
    """Find a learning rate for a run by its own first steps, and write the search into the run's folder.

    The run is not begun: no weights are kept, and `finetune` can use the folder afterwards. Every process
    calls this, and every one gets the result.

    Raises:
        UserError: the request cannot be carried out; nothing was written.
        RunError: the loss is no number from the first steps on; nothing was written.
        Preempted: SIGTERM or SIGINT came; nothing was written.
    """
    config = with_options(
        config,
        report_to="none",
        push_to_hub=False,
        hub_model_id=None,
        hub_private_repo=False,
        hub_public_repo=False,
    )
    with PreemptionWatch() as watch:
        run = prepare(config, watch)
        run.folder.check_free_for_search()
        if not run.total_steps:
            raise ConfigError("--find_learning_rate: this run has no steps (--num_train_epochs 0).")
        run = run.with_cached_images()
        training = start_or_resume(run)
        if fc_is_to_be_fitted(run, training.progress):
            fit_new_fc(run, training.network)
        search = search_rate(run, training)
        if run.machine.is_main:
            search.save(run.folder)
        run.machine.accelerator.wait_for_everyone()
        return search
