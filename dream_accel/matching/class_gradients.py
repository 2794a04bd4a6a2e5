"""Per-class weight gradients: four implementations.

All classes share the network's weights, so activations and their gradients are those of one large batch; only the
weight gradients must be kept apart by class. The fastest implementation depends on the device
(:mod:`dream_accel.matching.choice`):

``loop``
    runs one forward and backward pass per class. It uses the least memory and serves every network.
``vmap``
    applies ``torch.func.vmap`` to ``grad``. Every launch serves all classes; weight gradients become grouped
    convolutions.
``capture``
    runs one forward and backward pass of all classes that keeps the input of each matched layer and the gradient of its
    output, and computes the weight gradients of each class from these.
``fused``
    is ``capture`` with the norm, ReLU and pooling of a block in one operator
    (:func:`dream_accel.ops.norm_relu_pool.norm_relu_pool`). It is the fastest where the operator has a kernel.

All of them take and return the same::

    (network, parameters, images, classes, create_graph) -> gradients

    parameters    the L parameters to differentiate by, by name
    images        (C * n, ...) images of C neighbouring classes, one class after another, as the network takes them
    classes       the labels of the C classes
    create_graph  keep the autograd graph, so that the gradients can be differentiated
    gradients     L tensors (C, *parameter): gradients of the mean cross-entropy of each class
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from ..errors import DreamAccelError
from ..networks.batchnorm import batch_norms
from ..networks.fused_blocks import fused, fusible_sequences, unserved
from .convolution import constant_weights


def by_loop(
    network: nn.Module, parameters: Mapping[str, Tensor], images: Tensor, classes: range, create_graph: bool = False
) -> list[Tensor]:
    """Compute the gradients by one forward and backward pass per class."""
    wanted = list(parameters.values())
    per_class = []
    # A class alone is not split off: a view between would have PyTorch add up its derivatives in another order.
    parts = images.chunk(len(classes)) if len(classes) > 1 else (images,)
    for c, own in zip(classes, parts, strict=True):
        labels = torch.full((len(own),), c, dtype=torch.int64, device=own.device)
        loss = F.cross_entropy(network(own), labels)
        per_class.append(torch.autograd.grad(loss, wanted, create_graph=create_graph))
    # A view suffices for a single class; a copy would cost time and change the memory format.
    return [torch.stack(own) if len(own) > 1 else own[0].unsqueeze(0) for own in zip(*per_class, strict=True)]


def by_vmap(
    network: nn.Module, parameters: Mapping[str, Tensor], images: Tensor, classes: range, create_graph: bool = False
) -> list[Tensor]:
    """Compute the gradients of all classes at once by ``torch.func.vmap``."""
    fixed = {
        name: tensor.detach()
        for name, tensor in (*network.named_parameters(), *network.named_buffers())
        if name not in parameters
    }

    def loss(matched: dict[str, Tensor], own: Tensor, label: Tensor) -> Tensor:
        logits = torch.func.functional_call(network, {**fixed, **matched}, (own,))
        return F.cross_entropy(logits, label.expand(len(own)))

    matched = {name: tensor.detach() for name, tensor in parameters.items()}
    labels = torch.arange(classes.start, classes.stop, device=images.device)
    by_class = images.unflatten(0, (len(classes), -1))
    with torch.set_grad_enabled(create_graph):
        gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(matched, by_class, labels)
    return [gradients[name] for name in parameters]


def by_capture(
    network: nn.Module, parameters: Mapping[str, Tensor], images: Tensor, classes: range, create_graph: bool = False
) -> list[Tensor]:
    """Compute the gradients from the input of each matched layer and the gradient of its output."""
    # The second derivative then computes no weight gradient that nobody reads.
    constants = {name: tensor.detach() for name, tensor in network.named_parameters()}
    if not images.requires_grad:
        images = images.detach().requires_grad_()
    owners = _owners(network, parameters)
    into: dict[nn.Module, Tensor] = {}
    out: dict[nn.Module, Tensor] = {}
    version: dict[nn.Module, int] = {}

    def keep(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if layer in out:
            raise _uncaptured(layer, "runs twice in a forward pass")
        into[layer], out[layer], version[layer] = args[0], output, output._version

    handles = [layer.register_forward_hook(keep) for layer in {layer for layer, _ in owners}]
    try:
        with constant_weights(network):
            logits = torch.func.functional_call(network, constants, (images,))
    finally:
        for handle in handles:
            handle.remove()
    for layer, output in out.items():
        # The gradient would be that of what the output has become.
        if output._version != version[layer]:
            raise _uncaptured(layer, "has its output changed in place")
    n_classes, n = len(classes), len(images) // len(classes)
    labels = torch.arange(classes.start, classes.stop, device=images.device).repeat_interleave(n)
    loss = F.cross_entropy(logits, labels, reduction="sum") / n
    gradients = torch.autograd.grad(loss, list(out.values()), create_graph=create_graph)
    of_output = dict(zip(out, gradients, strict=True))
    with torch.set_grad_enabled(create_graph):
        return [
            _FORMULAS[type(layer), name](
                layer,
                # Under autocast a layer casts its input, so the dtype of its output may be narrower.
                into[layer].to(of_output[layer].dtype).unflatten(0, (n_classes, n)),
                of_output[layer].unflatten(0, (n_classes, n)),
            ).to(parameter.dtype)
            for (layer, name), parameter in zip(owners, parameters.values(), strict=True)
        ]


def by_fused(
    network: nn.Module, parameters: Mapping[str, Tensor], images: Tensor, classes: range, create_graph: bool = False
) -> list[Tensor]:
    """Compute the gradients as :func:`by_capture` does, with norm, ReLU and pooling of a block in one operator."""
    with fused(network, parameters):
        return by_capture(network, parameters, images, classes, create_graph)


ANYWHERE: dict[str, Callable[..., list[Tensor]]] = {"loop": by_loop, "vmap": by_vmap, "capture": by_capture}
"""The implementations in plain PyTorch, for every device, by name."""
CLASS_GRADIENTS: dict[str, Callable[..., list[Tensor]]] = {**ANYWHERE, "fused": by_fused}
"""All of them; ``fused`` needs kernels, for CPUs or for GPUs."""


def refusal(name: str, network: nn.Module, parameters: Mapping[str, Tensor]) -> str | None:
    """Explain why an implementation cannot serve a network whose batch norms are frozen, as in the matching step.

    Args:
        name: a key of :data:`CLASS_GRADIENTS`.
        network: the network.
        parameters: its parameters to differentiate by, by name.

    Returns:
        the reason, as a clause without a full stop; None if the implementation can serve the network.
    """
    if name == "loop":
        return None
    frozen = set(batch_norms(network))
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module not in frozen:
            return f"its {type(module).__name__} has no running statistics and would mix the classes"
    if name == "vmap":
        return None
    for layer, kind in _owners(network, parameters):
        if (type(layer), kind) not in _FORMULAS or getattr(layer, "padding_mode", "zeros") != "zeros":
            return f"there is no formula for the {kind} of a {type(layer).__name__}"
        if isinstance(getattr(layer, "padding", 0), str):
            return "a convolution names its padding in words"
    return _unfused(network, parameters) if name == "fused" else None


def _unfused(network: nn.Module, parameters: Mapping[str, Tensor]) -> str | None:
    if not parameters:
        return "no gradients are compared"
    if (reason := unserved(next(iter(parameters.values())))) is not None:
        return reason
    if not fusible_sequences(network, parameters):
        return "it has no instance norm, ReLU and 2x2 average pooling one after another whose norm is not matched"
    return None


def _uncaptured(layer: nn.Module, reason: str) -> DreamAccelError:
    return DreamAccelError(
        f"class_gradients 'capture' and 'fused' cannot serve this network: a {type(layer).__name__} {reason}; "
        "use loop or vmap"
    )


def _owners(network: nn.Module, parameters: Mapping[str, Tensor]) -> list[tuple[nn.Module, str]]:
    """The layer that each parameter belongs to, and the parameter's name within that layer."""
    return [(network.get_submodule(path), name) for path, _, name in (key.rpartition(".") for key in parameters)]


def _conv_weight(layer: nn.Conv2d, inputs: Tensor, gradients: Tensor) -> Tensor:
    return torch.stack(
        [
            conv2d_weight(
                own,
                list(layer.weight.shape),
                gradient,
                layer.stride,
                layer.padding,
                layer.dilation,
                layer.groups,
            )
            for own, gradient in zip(inputs, gradients, strict=True)
        ]
    )


def _linear_weight(layer: nn.Linear, inputs: Tensor, gradients: Tensor) -> Tensor:
    return gradients.transpose(1, 2) @ inputs


def _norm_weight(layer: nn.GroupNorm, inputs: Tensor, gradients: Tensor) -> Tensor:
    normed = F.group_norm(inputs.flatten(0, 1), layer.num_groups, eps=layer.eps).view_as(inputs)
    return _channel_sum(layer, inputs, gradients * normed)


def _batch_norm_weight(layer: nn.BatchNorm2d, inputs: Tensor, gradients: Tensor) -> Tensor:
    """The weight's gradient where the layer normalises by its running statistics."""
    images = inputs.flatten(0, 1)
    normed = F.batch_norm(images, layer.running_mean, layer.running_var, eps=layer.eps).view_as(inputs)
    return _channel_sum(layer, inputs, gradients * normed)


def _channel_sum(layer: nn.Module, inputs: Tensor, gradients: Tensor) -> Tensor:
    return gradients.sum(dim=[d for d in range(gradients.dim()) if d not in (0, 2)])


_FORMULAS: dict[tuple[type, str], Callable[..., Tensor]] = {
    (nn.Conv2d, "weight"): _conv_weight,
    (nn.Conv2d, "bias"): _channel_sum,
    (nn.Linear, "weight"): _linear_weight,
    (nn.Linear, "bias"): _channel_sum,
    (nn.GroupNorm, "weight"): _norm_weight,
    (nn.GroupNorm, "bias"): _channel_sum,
    (nn.BatchNorm2d, "weight"): _batch_norm_weight,
    (nn.BatchNorm2d, "bias"): _channel_sum,
}
"""``(layer, inputs (C, n, ...), gradients of outputs (C, n, ...))`` to the gradient (C, *parameter), for each kind of
layer and name of its parameter."""
