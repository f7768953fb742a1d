"""The options of a run in the words that are printed before its first step."""

from resnet_hub.finetuning.config import FinetuneConfig


def unusual_options(config: FinetuneConfig) -> list[str]:
    """What of the training is not as usual, in a few words each."""
    words = {
        f"{config.per_device_train_batch_size} at a time": (
            config.per_device_train_batch_size != config.images_per_step
        ),
        f"at most {config.max_minutes} minutes": config.max_minutes,
        f"stops after {config.early_stopping_epochs} epochs without a better one": (
            config.early_stopping_epochs
        ),
        f"best by {config.metric_for_best_model}": config.metric_for_best_model != "accuracy",
        f"{config.feature_views} views to fit fc": config.feature_views > 1,
        f"layer decay {config.layer_decay}": config.layer_decay != 1,
        f"gradient clipped to {config.max_grad_norm}": config.max_grad_norm,
        f"weights averaged with decay {config.ema_decay:.4g}": config.ema_decay,
        f"weights averaged over the last {config.average_last_epochs} epochs": config.average_last_epochs,
        f"BatchNorm from {config.reestimate_batchnorm} images": config.reestimate_batchnorm,
        f"images of {config.train_image_size} px": config.train_image_size != config.image_size,
        f"images from {config.first_image_size} px on": config.first_image_size != config.train_image_size,
        f"{config.loss.replace('_', ' ')}": config.loss != "cross_entropy",
        f"{config.optimizer}": config.optimizer != "adamw",
        f"{config.auto_augment}": config.auto_augment,
        f"color jitter {config.color_jitter}": config.color_jitter,
        f"{config.repeated_augmentation} copies of an image in a step": config.repeated_augmentation > 1,
        f"drop path {config.drop_path_rate}": config.drop_path_rate,
        f"class weights {config.class_weights}": config.class_weights != "none",
        f"mirrored with probability {config.horizontal_flip}": (
            config.horizontal_flip != 0.5 and config.augmentation != "none"
        ),
        f"erasing {config.random_erasing}": config.random_erasing,
        f"mixup {config.mixup}": config.mixup,
        f"CutMix {config.cutmix}": config.cutmix,
        "gradient checkpointing": config.gradient_checkpointing,
        "compiled": config.torch_compile,
        f"{config.frozen_stages} stages frozen": config.frozen_stages,
        f"one more stage learns every {config.gradual_unfreezing} epochs": config.gradual_unfreezing,
        f"teacher {config.teacher_model} with weight {config.distillation_weight}": config.teacher_model,
    }
    return [text for text, is_on in words.items() if is_on]
