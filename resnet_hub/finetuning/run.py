"""The story of a run, on one screen: from a configuration to a report, an export and a card."""

from resnet_hub.errors import RunError, UserError
from resnet_hub.finetuning.config import FinetuneConfig
from resnet_hub.finetuning.left_out import all_left_out
from resnet_hub.finetuning.preemption import PreemptionWatch
from resnet_hub.finetuning.preparation import confirm_publishing, prepare
from resnet_hub.finetuning.report import measure, publish_if_asked, write_results
from resnet_hub.finetuning.state import start_or_resume
from resnet_hub.finetuning.training import draw_first_batches, train_epochs
from resnet_hub.results import RunReport


def finetune(config: FinetuneConfig) -> RunReport:
    """Fine-tune one model on one data set and return what was measured.

    The same configuration goes on with an unfinished run in its `output_dir`. Every process of the run calls
    this, and every one gets the report.

    Raises:
        UserError: the request cannot be carried out; nothing was written.
        RunError: the run had begun and cannot go on; what it has written stays. A finished run that could
            not be published is a PublishingError.
        Preempted: SIGTERM or SIGINT came; a checkpoint was written and the same call goes on from it.
    """
    with PreemptionWatch() as watch:
        run = prepare(config, watch)
        confirm_publishing(run)
        accelerator = run.machine.accelerator
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            run.folder.begin(
                run.config,
                facts=run.facts(),
                machine=run.machine.record(),
                bad_images=all_left_out(run),
            )
        try:
            run = run.with_cached_images()
            if accelerator.is_main_process:
                draw_first_batches(run)
            accelerator.wait_for_everyone()
            training = start_or_resume(run)
            train_epochs(run, training)
            report, logits = measure(run, training)
            if accelerator.is_main_process:
                write_results(run, training, report, logits)
        except UserError as error:  # the request was fine, what happened since was not
            raise RunError(str(error)) from error
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            publish_if_asked(run)
        return report


def dry_run(config: FinetuneConfig) -> None:
    """Say what `finetune` would do, having checked all that it checks; writes nothing."""
    with PreemptionWatch() as watch:
        prepare(config, watch)
