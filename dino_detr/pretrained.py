"""The parent of the models: what transformers asks them, and how they load, copy and checkpoint."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.output_capturing import capture_outputs

from .backbone import DinoDetrBackbone
from .configuration_dino_detr import DinoDetrConfig
from .deformable_attention import SAMPLING, MultiScaleDeformableAttention
from .initialization import initialize


class DinoDetrPreTrainedModel(PreTrainedModel):
    """What all models share: loading, initialisation, gradient checkpointing, the choice of sampling."""

    config: DinoDetrConfig
    config_class = DinoDetrConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)  # pyright: ignore[reportAssignmentType] as the models of transformers have it
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _no_split_modules = ["DinoDetrBackbone", "DinoDetrEncoderLayer", "DinoDetrDecoderLayer"]

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load as transformers does. New parameters are put in place, so what is frozen is frozen again."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with `output_loading_info`
        for module in model.modules():
            if isinstance(module, DinoDetrBackbone):
                module.freeze()
        for parameter in model.parameters():
            # where they lie in the file decides which CPU kernels run, and so the last bits of the outputs
            if parameter.device.type == "cpu" and parameter.data_ptr() % 64:
                parameter.data = parameter.data.clone()
        return loaded

    def __getstate__(self) -> dict:
        """Return the attributes for `pickle`, without the hooks of `capture_outputs`, which it installs again."""
        for module in self.modules():
            for key, hook in list(module._forward_hooks.items()):
                if getattr(hook, "__module__", None) == capture_outputs.__module__:
                    del module._forward_hooks[key]
            module.__dict__.pop("_output_capturing_hooks_installed", None)
        return self.__dict__.copy()

    def set_deformable_sampling(self, sampling: str) -> None:
        """
        Choose how deformable attention samples; the numbers are the same but for rounding, and no checkpoint says it.

        Args:
            sampling: `auto` (the fastest that works here), `plain` (PyTorch's `grid_sample`, the definition), `gather`
                (for CPUs) or `triton` (for GPUs).

        Raises:
            ValueError: for any other.
        """
        if sampling not in SAMPLING:
            raise ValueError(f"sampling {sampling!r} is none of {', '.join(SAMPLING)}")
        for module in self.modules():
            if isinstance(module, MultiScaleDeformableAttention):
                module.sampling = sampling

    def _set_gradient_checkpointing(self, enable: bool = True, *args: Any, **kwargs: Any) -> None:
        """Switch recomputation on or off, in a backbone of timm too."""
        super()._set_gradient_checkpointing(enable, *args, **kwargs)
        for module in self.modules():
            if isinstance(module, DinoDetrBackbone):
                module.set_gradient_checkpointing(enable)

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        """Initialise also modules without parameters of their own, which transformers skips outside its tree."""
        super()._initialize_weights(module, is_custom_code=False)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        initialize(module)
