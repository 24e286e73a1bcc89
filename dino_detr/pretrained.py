"""What transformers wants to know of the models, and their initial weights."""

import math

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils.output_capturing import capture_outputs

from .backbone import DinoDetrBackbone
from .configuration_dino_detr import DinoDetrConfig
from .deformable_attention import SAMPLING, MultiScaleDeformableAttention
from .feature_pyramid import ChannelsFirstLayerNorm, Neck
from .linear import FeedForward
from .query_selection import QuerySelection


class DinoDetrPreTrainedModel(PreTrainedModel):
    """Initialisation (the reference's) and what transformers wants to know of the models."""

    config: DinoDetrConfig
    config_class = DinoDetrConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _no_split_modules = ["DinoDetrBackbone", "DinoDetrEncoderLayer", "DinoDetrDecoderLayer"]

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
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
        """The attributes, for `pickle`, without hooks of `capture_outputs`: it installs them again when it needs to."""
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

    def _set_gradient_checkpointing(self, enable: bool = True, **kwargs) -> None:
        """Switch recomputation on or off, in a backbone of timm too."""
        super()._set_gradient_checkpointing(enable, **kwargs)
        for module in self.modules():
            if isinstance(module, DinoDetrBackbone):
                module.set_gradient_checkpointing(enable)

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        """Initialise modules without parameters of their own too, which transformers skips outside its tree."""
        super()._initialize_weights(module, is_custom_code=False)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Called for every module, children before parents, so that a parent has the last word on its children."""
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            _init_as_torch_does(module)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
        elif isinstance(module, (nn.LayerNorm, nn.GroupNorm, ChannelsFirstLayerNorm)):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, Neck):
            for convolution, _ in module.levels:
                init.xavier_uniform_(convolution.weight)
                init.zeros_(convolution.bias)
        elif isinstance(module, FeedForward):
            init.xavier_uniform_(module.fc1.weight)
            init.xavier_uniform_(module.fc2.weight)
        elif isinstance(module, MultiScaleDeformableAttention):
            init.zeros_(module.sampling_offsets.weight)
            init.copy_(module.sampling_offsets.bias, module.initial_offsets())
            init.zeros_(module.attention_weights.weight)
            init.zeros_(module.attention_weights.bias)
            for projection in (module.value_proj, module.output_proj):
                init.xavier_uniform_(projection.weight)
                init.zeros_(projection.bias)
        elif isinstance(module, QuerySelection):
            init.xavier_uniform_(module.enc_output.weight)


def _init_as_torch_does(module: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> None:
    init.kaiming_uniform_(module.weight, a=math.sqrt(5))
    if module.bias is not None:
        bound = 1 / math.sqrt(nn.init._calculate_fan_in_and_fan_out(module.weight)[0])
        init.uniform_(module.bias, -bound, bound)
