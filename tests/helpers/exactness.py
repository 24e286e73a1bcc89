"""How near a module is to another in float64."""

import torch


def output_and_gradients(module: torch.nn.Module, x: torch.Tensor, direction: torch.Tensor) -> list[torch.Tensor]:
    x = x.detach().requires_grad_()
    output = module(x)
    return [output.detach(), *torch.autograd.grad(output, (x, *module.parameters()), direction.to(output.dtype))]


def relative_errors(ours: list[torch.Tensor], exact: list[torch.Tensor]) -> list[float]:
    return [float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, exact, strict=True)]
