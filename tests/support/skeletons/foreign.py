"""The other files of the code bases: a few images, small networks, and the functions that the loops import."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from dream_accel.networks import make_network

CLASSES, PER_CLASS, SIDE = 3, 24, 8
MEANS, STDS = {"few": [0.4]}, {"few": [0.3]}


class Few(torch.utils.data.Dataset):
    """A data set of pairs with ``targets`` and ``nclass``."""

    def __init__(self, *_: Any) -> None:
        draws = torch.Generator().manual_seed(0)
        self.targets = torch.arange(CLASSES).repeat(PER_CLASS).tolist()
        self.nclass = CLASSES
        self.pictures = torch.rand(len(self.targets), 1, SIDE, SIDE, generator=draws)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.pictures[i], self.targets[i]


class ClassMemDataLoader:
    """Images in memory, by class and from all classes."""

    def __init__(self, dataset: Few, batch_size: int, device: str = "cpu") -> None:
        self.data = [image.to(device) for image, _ in dataset]
        self.targets = torch.tensor(dataset.targets, device=device)
        self.batch_size, self.nclass, self.calls = batch_size, dataset.nclass, 0
        self.cls_idx = [(self.targets == c).nonzero().flatten().tolist() for c in range(self.nclass)]

    def class_sample(self, c: int, ipc: int = -1) -> tuple[torch.Tensor, torch.Tensor]:
        self.calls += 1
        rows = self.cls_idx[c][:ipc] if ipc > 0 else self.cls_idx[c][: self.batch_size]
        return torch.stack([self.data[i] for i in rows]), self.targets[rows]

    def sample(self) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.randperm(len(self.data))[: self.batch_size].tolist()
        return torch.stack([self.data[i] for i in rows]), self.targets[rows]


class AsyncLoader:
    """Answers ``class_sample(c)``; the thread of the original, which reads ahead, is not needed to have its names."""

    def __init__(self, loader_real: Any, class_list: list[int], batch_size: int, device: str) -> None:
        self.loader_real, self.class_list, self.batch_size, self.device = loader_real, class_list, batch_size, device

    def class_sample(self, c: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.loader_real.class_sample(c, self.batch_size)


class Normalize:
    """(images - mean) / std, for batches."""

    def __init__(self, mean: list[float], std: list[float], device: str = "cpu") -> None:
        self.mean = torch.tensor(mean, device=device).view(1, -1, 1, 1)
        self.std = torch.tensor(std, device=device).view(1, -1, 1, 1)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return (images - self.mean) / self.std


class Synset:
    """Synthetic images, one per class and more."""

    def __init__(self, nclass: int, ipc: int, shape: tuple[int, ...]) -> None:
        self.ipc = ipc
        self.data = torch.rand(nclass * ipc, *shape).requires_grad_()
        self.targets = torch.arange(nclass).repeat_interleave(ipc)

    def init(self, loader: Any, init_type: str = "random") -> None:
        images = [loader.class_sample(c, self.ipc)[0] for c in self.targets.unique().tolist()]
        self.data.data = torch.cat(images).clone()

    def sample(self, c: int, max_size: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
        return self.data[self.targets == c], self.targets[self.targets == c]

    def parameters(self) -> list[torch.Tensor]:
        return [self.data]


class Returning(torch.nn.Module):
    """A network that also returns its features, as DANCE and TGDD call it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def get_feature(self, x: torch.Tensor, idx_from: int, idx_to: int = -1) -> list[torch.Tensor]:
        return [self.inner.embed(x)]

    def forward(self, x: torch.Tensor, return_features: bool = False) -> Any:
        return (self.inner(x), self.inner.embed(x)) if return_features else self.inner(x)


def network(*_: Any, **__: Any) -> torch.nn.Module:
    """A network of its own at each call, whatever the arguments."""
    return make_network("convnet", (1, SIDE, SIDE), CLASSES, 4, 1, int(torch.randint(1 << 30, (1,))))


def cross_entropy_step(model: torch.nn.Module, optimizer: Any, images: torch.Tensor, labels: torch.Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()


def arguments(**more: Any) -> SimpleNamespace:
    """``args`` of every loop, small."""
    common = {"dataset": "few", "device": "cpu", "ipc": 1, "batch_real": 6, "model": "ConvNet", "Iteration": 2}
    common |= {"dis_metric": "ours", "lr_img": 0.1, "lr_net": 0.01, "outer_loop": 2, "inner_loop": 2, "niter": 2}
    common |= {"match": "grad", "metric": "l1", "bias": False, "fc": False, "batch_syn_max": 8, "fix_iter": 1}
    common |= {"class_list": list(range(CLASSES)), "num_premodel": 2}
    return SimpleNamespace(**common | more)


def never(*_: Any, **__: Any) -> Any:
    """A function that a page replaces: its call is a failure."""
    raise AssertionError("the original was called")


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the modules that the skeletons import."""
    data = {"ClassMemDataLoader": ClassMemDataLoader, "MEANS": MEANS, "STDS": STDS}
    normal = Normalize(MEANS["few"], STDS["few"])
    modules: dict[str, dict[str, Any]] = {
        "utils": {"get_network": network, "match_loss": never, "Normalize": Normalize, "get_dataset": Few},
        "data": data,
        "data.dataloader": {"AsyncLoader": AsyncLoader},
        "data.dataset_statistics": {"MEANS": MEANS, "STDS": STDS},
        "misc": {"utils": SimpleNamespace(Normalize=Normalize)},
        "train": {"define_model": network, "train_epoch": cross_entropy_step},
        "common": {
            "define_model": lambda *_: Returning(),
            "load_resized_data": lambda args: (Few(), None),
            "diffaug": lambda args: (normal, None),
        },
        "new_strategy": {"NEW_Strategy": never},
        "fast_pytorch_kmeans": {"KMeans": never, "MultiKMeans": never},
    }
    for name, members in modules.items():
        module = ModuleType(name)
        module.__dict__.update(members)
        module.__path__ = []  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
