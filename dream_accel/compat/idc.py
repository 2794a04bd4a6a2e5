"""Drop-ins for the IDC family: ``loader.class_sample(c, ipc)`` (IDC, DREAM, DANCE, NCFM), ``dist``, ``matchloss``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arrays import to_tensor, whole_number
from ..backends.formulas import plain_distance
from ..data import to_float
from ..errors import DreamAccelError, choices
from ..networks.features import Embedder, embed_rows, embedder_of, unwrap
from ..ops import gradient_distance
from ..sampling import RepresentativeSampler, select
from .unused import pair_used

_METRICS = ("mse", "l1", "l1_mean", "cos")
_MATCHES = ("grad", "feat", "bi_match")


class RepresentativeLoader:
    """A loader whose ``class_sample(c)`` returns representatives; all other attributes are those of the wrapped loader.

    Two lines wrap the loader and pass it the network::

        loader_real = RepresentativeLoader(loader_real, normalize=normalize)
        loader_real.update(model)  # once per matching step

    ``sample()``, iteration, ``len``, ``nclass`` and all other accesses and assignments are passed on to the wrapped
    loader. Images are read as the loader stores them, pixels in [0, 1] or uint8. ``normalize`` converts them to what
    the network was trained on before it embeds them. If it is left out, as in DREAM's code, the network embeds images
    of a range that it is never trained on.

    A loader that reads ahead in a thread (NCFM's ``AsyncLoader``) is wrapped, or better replaced: representatives are
    in memory. If it wraps this one instead, pass ``match_size`` and call ``update`` before it starts; the batches in
    its queue are then picks of earlier updates.

    Args:
        loader: a loader with ``class_sample``; its images and labels are read from ``loader.data`` and
            ``loader.targets``, else one by one from ``loader.dataset``, else from ``loader.loader_real`` likewise.
        n_clusters: N sub-clusters per class; default: ``match_size``, else ``loader.batch_size``.
        normalize: converts pixels in [0, 1] to what the network takes.
        init: a network or callable whose features also choose the images of ``class_sample(c, ipc)``, as DREAM's
            initialisation does; by default those are the first ``ipc`` of the class, as in IDC.
        match_size: the ``ipc`` with which the code asks for a batch to match, as NCFM does: for it ``class_sample``
            returns representatives too. Default: every ``ipc`` above 0 is for initialisation.
        images: (N, channels, H, W), used in place of the loader's own.
        labels: (N,) integers, used in place of the loader's own.
        options: the other arguments of :class:`dream_accel.RepresentativeSampler`.

    Raises:
        DreamAccelError: the loader has no images, labels or batch size, or images and labels do not match.
    """

    def __init__(
        self,
        loader: Any,
        n_clusters: int | None = None,
        *,
        normalize: Embedder | None = None,
        init: nn.Module | Embedder | None = None,
        match_size: int | None = None,
        images: Any = None,
        labels: Any = None,
        **options: Any,
    ) -> None:
        if images is None or labels is None:
            images, labels = _images_of(loader)
        match_size = None if match_size is None else whole_number(match_size, "match_size", 1)
        count = next((n for n in (n_clusters, match_size, getattr(loader, "batch_size", None)) if n is not None), None)
        if count is None:
            raise DreamAccelError(f"{type(loader).__name__} has no batch_size: pass n_clusters")
        own = {
            "loader": loader,
            "sampler": RepresentativeSampler(images, labels, count, normalize=normalize, **options),
            "_labels": labels,
            "_init": init,
            "_match_size": match_size,
            "_initial": {},
        }
        # Bypasses __setattr__, which passes assignments on to the loader.
        self.__dict__.update(own)

    def update(self, network: nn.Module | Embedder | None = None) -> bool:
        """Count one step, and renew the picks when due: :meth:`dream_accel.RepresentativeSampler.update`."""
        return self.sampler.update(network)

    def class_sample(self, c: int, ipc: int = -1) -> tuple[Tensor, Tensor]:
        """Return images of one class and their labels.

        Args:
            c: the class, 0 to C-1.
            ipc: above 0, return ``ipc`` images to initialise with; else, or if it is ``match_size``, return the
                representatives of the class.

        Returns:
            images (n, channels, H, W), floating point, uint8 scaled to [0, 1], and labels (n,) int64.

        Raises:
            DreamAccelError: the class does not exist or has fewer images, or representatives are requested before the
                first ``update``.
        """
        if ipc <= 0 or ipc == self._match_size:
            images = self.sampler.sample(c)
        elif self._init is None:
            return self.loader.class_sample(c, ipc)
        else:
            images = to_float(self.sampler.images[self._initial_rows(ipc)[c]])
        return images, torch.full((len(images),), c, dtype=torch.int64, device=images.device)

    def _initial_rows(self, ipc: int) -> Tensor:
        if ipc not in self._initial:
            own = self.sampler
            rows = torch.arange(len(own.images), device=own.images.device)
            features = embed_rows(own.images, rows, self._init, own.normalize, own.chunk_size)
            self._initial[ipc] = select(features, self._labels, ipc, seed=own.seed)
        return self._initial[ipc]

    def __getattr__(self, name: str) -> Any:
        # Copying and unpickling read attributes before the loader is set.
        if name.startswith("__") or "loader" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.loader, name, value)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)


def _images_of(loader: Any) -> tuple[Tensor, Tensor]:
    """The loader's images (N, ...) and labels (N,) int64, on one device."""
    data, targets = getattr(loader, "data", None), getattr(loader, "targets", None)
    if data is None or targets is None:
        dataset = getattr(loader, "dataset", None)
        if dataset is None and hasattr(loader, "loader_real"):
            return _images_of(loader.loader_real)
        if dataset is None:
            raise DreamAccelError(
                f"{type(loader).__name__} has neither data and targets nor a dataset: pass images= and labels="
            )
        pairs = [dataset[i] for i in range(len(dataset))]
        data, targets = [image for image, _ in pairs], [int(label) for _, label in pairs]
    images = torch.stack(list(data)) if isinstance(data, Sequence) else to_tensor(data, "images")
    labels = torch.as_tensor(targets, dtype=torch.int64)
    return images, labels.to(images.device)


def dist(x: Tensor, y: Tensor, method: str = "mse") -> Tensor:
    """Compute the distance between two tensors of the same shape, differentiable with respect to both.

    With ``d = x - y`` and rows along the first dimension:

    - ``mse``: the sum of ``d²``;
    - ``l1``: the sum of ``|d|``;
    - ``l1_mean``: the mean of ``|d|`` of every row, summed over rows;
    - ``cos``: ``1 - x·y / (|x| |y| + 1e-6)`` of every row, summed over rows.

    Args:
        x: a tensor.
        y: a tensor of the same shape.
        method: ``"mse"``, ``"l1"``, ``"l1_mean"`` or ``"cos"``.

    Returns:
        () the distance.

    Raises:
        DreamAccelError: the method is another one, or the shapes differ.
    """
    if method not in _METRICS:
        raise choices("method", method, _METRICS)
    if x.requires_grad and y.requires_grad:
        return plain_distance([x], [y], method, False).squeeze(0)
    # Every method is symmetric, and the operator differentiates by its second argument.
    real, synthetic = (y, x) if x.requires_grad else (x, y)
    return gradient_distance([real], [synthetic], method, "all")


def matchloss(
    args: Any, img_real: Tensor, img_syn: Tensor, lab_real: Tensor, lab_syn: Tensor, model: nn.Module
) -> Tensor:
    """Compute the matching loss of IDC and DREAM, differentiable with respect to ``img_syn``.

    Under ``no_grad`` and in inference mode the value alone is returned, where the original cannot be called. Parameters
    that are frozen, or that the output does not depend on, are not compared.

    Args:
        args: any object with these attributes. ``match``: ``"grad"`` compares gradients of the cross-entropy,
            ``"feat"`` mean features, and ``"bi_match"`` adds both (DREAM+; in DREAM's own code it crashes).
            ``metric``: a method of :func:`dist`. ``bias`` and ``fc``, optional: also compare the gradients of 1-d and
            of 2-d parameters; default: False. ``idx_from`` and ``idx_to``, optional: the range of
            ``model.get_feature`` to compare; a model without that method is compared by its embedding.
        img_real: (n, channels, H, W) real images, as the model takes them.
        img_syn: (m, channels, H, W) synthetic images, as the model takes them.
        lab_real: (n,) int64 classes of the real images.
        lab_syn: (m,) int64 classes of the synthetic images.
        model: the network; neither its parameters nor their ``grad`` are changed.

    Returns:
        () the loss.

    Raises:
        DreamAccelError: ``match`` or ``metric`` is another one, no parameter is left to compare, or the model was made
            in inference mode.
    """
    if args.match not in _MATCHES:
        raise choices("match", args.match, _MATCHES)
    if args.metric not in _METRICS:
        raise choices("metric", args.metric, _METRICS)
    wanted = torch.is_grad_enabled()
    # The gradients in the weights are part of the value, so they are computed whatever the caller's mode.
    with torch.inference_mode(False), torch.enable_grad():
        img_real, img_syn, lab_real, lab_syn = map(_ordinary, (img_real, img_syn, lab_real, lab_syn))
        terms = []
        if args.match in ("grad", "bi_match"):
            terms.append(_gradient_loss(args, img_real, img_syn, lab_real, lab_syn, model))
        if args.match in ("feat", "bi_match"):
            terms.append(_feature_loss(args, img_real, img_syn, model))
        loss = torch.stack(terms).sum()
    return loss if wanted else loss.detach()


def _ordinary(tensor: Tensor) -> Tensor:
    """A tensor of inference mode as one that autograd takes."""
    return tensor.clone() if tensor.is_inference() else tensor


def _gradient_loss(
    args: Any, img_real: Tensor, img_syn: Tensor, lab_real: Tensor, lab_syn: Tensor, model: nn.Module
) -> Tensor:
    left_out = {1: not getattr(args, "bias", False), 2: not getattr(args, "fc", False)}
    # Gradients that are not compared need not be computed.
    parameters = [p for p in model.parameters() if p.requires_grad and not left_out.get(p.dim(), False)]
    if any(p.is_inference() for p in parameters):
        raise DreamAccelError("the model was made in inference mode, which keeps no gradients: make it outside")
    if not parameters:
        raise DreamAccelError("the model has no parameter to compare but 1-d and 2-d ones: set args.bias or args.fc")
    loss = F.cross_entropy(model(img_real), lab_real)
    g_real = torch.autograd.grad(loss, parameters, allow_unused=True)
    loss = F.cross_entropy(model(img_syn), lab_syn)
    g_syn = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
    return gradient_distance(*pair_used(g_real, g_syn), args.metric, "all")


def _feature_loss(args: Any, img_real: Tensor, img_syn: Tensor, model: nn.Module) -> Tensor:
    get_feature = getattr(unwrap(model), "get_feature", None)
    if callable(get_feature):
        first, last = getattr(args, "idx_from", 0), getattr(args, "idx_to", -1)

        def features(images: Tensor) -> list[Tensor]:
            return list(get_feature(images, first, last))
    else:
        embed = embedder_of(model)

        def features(images: Tensor) -> list[Tensor]:
            return [embed(images)]

    with torch.no_grad():
        real = [feature.mean(0) for feature in features(img_real)]
    synthetic = [feature.mean(0) for feature in features(img_syn)]
    return gradient_distance(real, synthetic, args.metric, "all")
