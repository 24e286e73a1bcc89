"""Names of options: those of transformers that are refused here, and what other trainers call ours."""

import difflib
from collections.abc import Iterable

_OF_TEXT = "it is about text"
_OF_TRAINER_METRICS = "COCO's figures are computed otherwise"
_OF_SHARDING = "`accelerate launch --config_file recipes/accelerate/fsdp2.yaml` shards"

# Options of transformers that our data, loss, evaluation or checkpoints would pass over in silence, and why.
REFUSED = {
    "accelerator_config": "batches follow from total_batch_size, the order of images from seed",
    "auto_find_batch_size": "set gradient_accumulation_steps, which leaves total_batch_size as it is",
    "average_tokens_across_devices": _OF_TEXT,
    "batch_eval_metrics": _OF_TRAINER_METRICS,
    "bf16_full_eval": "evaluation has the precision of training",
    "data_seed": "the order of images follows from seed",
    "deepspeed": _OF_SHARDING,
    "do_eval": "see eval_strategy",
    "do_predict": "`dino-detr predict` does",
    "do_train": "`dino-detr train` does",
    "enable_jit_checkpoint": "SIGTERM and SIGUSR1 are answered with a checkpoint anyway",
    "eval_accumulation_steps": _OF_TRAINER_METRICS,
    "eval_do_concat_batches": _OF_TRAINER_METRICS,
    "eval_use_gather_object": _OF_TRAINER_METRICS,
    "fp16_full_eval": "evaluation has the precision of training",
    "fsdp": _OF_SHARDING,
    "fsdp_config": _OF_SHARDING,
    "hub_revision": "",
    "include_for_metrics": _OF_TRAINER_METRICS,
    "include_num_input_tokens_seen": _OF_TEXT,
    "label_names": "labels are the data set's objects",
    "label_smoothing_factor": "the focal loss has none",
    "length_column_name": "images are grouped by size",
    "liger_kernel_config": _OF_TEXT,
    "logging_nan_inf_filter": "a loss that is not finite ends the run",
    "neftune_noise_alpha": _OF_TEXT,
    "optim_args": "AdamW's are adam_beta1, adam_beta2 and adam_epsilon",
    "optim_target_modules": "all that is not frozen is trained",
    "parallelism_config": _OF_SHARDING,
    "prediction_loss_only": _OF_TRAINER_METRICS,
    "save_on_each_node": "all machines write to one output_dir",
    "skip_memory_metrics": "metrics.jsonl has peak_memory_mib",
    "train_sampling_strategy": "images are grouped by size",
    "use_cache": _OF_TEXT,
    "use_liger_kernel": _OF_TEXT,
}

# What Ultralytics, detectron2, mmdetection, RF-DETR, DETR and older transformers call an option, by ours.
_OTHER_NAMES = {
    "augmentation": "augment aug mosaic multi_scale",
    "backbone": "encoder backbone_name timm_model",
    "backbone_layer_decay": "layer_decay lr_vit_layer_decay layer_decay_rate",
    "backbone_lr_factor": "lr_backbone lr_encoder lr_mult backbone_lr backbone_multiplier",
    "bf16": "amp half precision mixed_precision dtype fp32",
    "dataloader_num_workers": "workers num_workers dataloader_workers workers_per_gpu",
    "dataset": "datasets data data_path data_root data_dir dataset_dir dataset_file dataset_name dataset_path "
    "coco_path",
    "dataset_weights": "source_weights sampling_weights dataset_weight weights_per_dataset",
    "early_stopping_patience": "patience early_stopping",
    "ema_decay": "ema use_ema model_ema",
    "eval_split": "val val_split test_split valid",
    "eval_steps": "eval_period eval_interval val_interval eval_every",
    "eval_strategy": "evaluation_strategy",
    "freeze_backbone": "freeze freeze_encoder freeze_at frozen_stages",
    "gradient_accumulation_steps": "accumulate grad_accum grad_accum_steps accumulation accumulation_steps accum_iter",
    "gradient_checkpointing": "use_checkpoint with_cp activation_checkpointing",
    "horizontal_flip": "fliplr flip hflip",
    "image_sizes": "imgsz img img_size image_size input_size resolution img_scale shape size",
    "learning_rate": "lr lr0 base_lr",
    "logging_steps": "log_interval log_period print_freq log_every",
    "lr_decay_steps": "lr_drop lr_step milestones lr_steps",
    "lr_scheduler_type": "scheduler lr_scheduler lr_schedule cos_lr",
    "max_grad_norm": "clip_grad grad_clip clip_max_norm gradient_clip_val clip_grad_norm",
    "max_image_size": "max_size longest_edge max_dimension",
    "max_steps": "iterations iters iter max_iter max_iters steps num_steps total_steps",
    "model": "weights pretrained checkpoint ckpt pretrain_weights pretrained_model model_name_or_path "
    "load_from init_checkpoint finetune model_name",
    "num_denoising": "dn_number num_dn",
    "num_queries": "queries num_query",
    "num_train_epochs": "epochs epoch num_epochs max_epochs n_epochs train_epochs",
    "output_dir": "name output out outdir out_dir save_dir work_dir logdir log_dir logging_dir exp_name",
    "overfit_images": "overfit overfit_batches",
    "overwrite": "exist_ok overwrite_output_dir force",
    "report_to": "wandb tensorboard logger",
    "resume_from_checkpoint": "resume auto_resume",
    "save_steps": "save_period checkpoint_period checkpoint_interval save_interval save_every",
    "total_batch_size": "batch batch_size train_batch_size ims_per_batch samples_per_gpu batch_size_per_gpu bs",
    "train_split": "train",
    "use_cpu": "cpu no_cuda",
    "warmup_steps": "warmup warmup_epochs warmup_iters warmup_ratio",
    "weight_decay": "wd",
}
_NAME_HERE = {other: name for name, others in _OTHER_NAMES.items() for other in others.split()}

_CHOOSE_DEVICE = (
    "the GPU is taken if there is one; --use_cpu leaves it, CUDA_VISIBLE_DEVICES=1 chooses another, and `accelerate "
    "launch train.py ...` trains on several"
)
_FROM_DATA = "the classes are the data set's"
_ADVICE = {
    **dict.fromkeys(("device", "devices", "gpu", "gpus", "num_gpus", "nproc_per_node", "cuda"), _CHOOSE_DEVICE),
    **dict.fromkeys(("num_classes", "nc", "classes", "class_names", "num_labels"), _FROM_DATA),
    **dict.fromkeys(("cfg", "config", "config_file", "recipe"), "the recipe comes first: dino-detr train RECIPE"),
    **dict.fromkeys(("optimizer", "momentum"), "the recipe's optimiser is AdamW: adam_beta1, adam_beta2, weight_decay"),
}


def check_names(place: str, names: Iterable[str], known: set[str]) -> None:
    """
    Refuse what is no option, or one without effect.

    Args:
        place: where the names were given, with which a message begins.

    Raises:
        ValueError: that names the option, and the one that was probably meant.
    """
    for name in names:
        if name == "per_device_train_batch_size":
            raise ValueError(f"{place}: set total_batch_size; {name} follows from it")
        if name in REFUSED:
            reason = f": {REFUSED[name]}" if REFUSED[name] else ""
            raise ValueError(f"{place}: {name} is an option of transformers that has no effect here{reason}")
        if name not in known:
            raise ValueError(f"{place}: unknown option {name!r}{suggest(name, known)}")


def suggest(name: str, known: set[str]) -> str:
    """Return the end of a sentence that names the option meant by `name`, or nothing."""
    plain = str(name).lower().replace("-", "_")
    if plain in _ADVICE:
        return f": {_ADVICE[plain]}"
    near = [_NAME_HERE[plain]] if plain in _NAME_HERE else difflib.get_close_matches(plain, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
