"""
What training leans on in transformers and accelerate that they promise nobody, in one list.

A test looks for each name in the installed versions: a release that drops one fails by that name, not in a run.
"""

TRAINER = "transformers.trainer.Trainer"

OVERRIDDEN = {  # methods that the Trainer's loop calls and `DetectionTrainer` has its own of
    "_get_train_sampler": "batches of images of like sizes",
    "get_batch_samples": "boxes of a step are counted before its first forward pass",
    "_get_grad_norm": "the last moment before the optimiser's step, with the gradient's norm",
    "_save_checkpoint": "checkpoints are whole or not there",
    "_load_from_checkpoint": "weights by way of from_pretrained, and into shards",
    "_load_optimizer_and_scheduler": "by way of the CPU, and into shards",
    "_load_best_model": "the average, where there is one",
}
CALLED = {  # methods of the Trainer that are called as they are
    "_get_grad_norm": "the norm, if it was not clipped",
    "_determine_best_metric": "an evaluation that is made up for may be the best",
    "_save_scaler": "a checkpoint of fp16",
    "_save_rng_state": "a checkpoint",
    "store_flos": "before a checkpoint",
}
ATTRIBUTES = {  # of classes or of their objects, by the class's place
    f"{TRAINER}._created_lr_scheduler": "set, so that a second `train` makes a schedule anew",
    f"{TRAINER}.model_accepts_loss_kwargs": "set: losses are not normalised by what the Trainer counts",
    f"{TRAINER}.is_in_train": "read: evaluations are logged in training only",
    "transformers.trainer_callback.ProgressCallback.current_step": "set in a resumed run",
    "transformers.trainer_callback.EarlyStoppingCallback.early_stopping_patience_counter": "goes on in a resumed run",
    "transformers.training_args.TrainingArguments._n_gpu": "one process has one GPU",
    "transformers.modeling_utils.PreTrainedModel.should_save_on_this_rank": "any process may dump a step",
    "accelerate.data_loader.DataLoaderAdapter.base_dataloader": "workers outlive a signal",
    "accelerate.state.AcceleratorState.dynamo_plugin": "layers are compiled, not the whole",
    "accelerate.accelerator.Accelerator.is_fsdp2": "shards of FSDP2 only",
    "accelerate.utils.dataclasses.FullyShardedDataParallelPlugin.transformer_cls_names_to_wrap": "what is a shard",
    "accelerate.utils.dataclasses.FullyShardedDataParallelPlugin.mixed_precision_policy": "autocast's",
    "accelerate.utils.dataclasses.FullyShardedDataParallelPlugin.reshard_after_forward": "restored after evaluations",
}
NAMES = (  # functions, classes and constants that are in no reference
    "transformers.trainer.OPTIMIZER_NAME",
    "transformers.trainer.SCHEDULER_NAME",
    "transformers.trainer.TRAINING_ARGS_NAME",
    "transformers.trainer_callback.ExportableState",
    "transformers.training_args.trainer_log_levels",
    "transformers.modeling_layers.GradientCheckpointingLayer",
    "accelerate.utils.DynamoBackend",
    "accelerate.utils.broadcast_object_list",
    "accelerate.utils.send_to_device",
)
