"""NCFM's Condenser.py: a loader read ahead in a thread, weights loaded into one network at every iteration."""

import torch
from data.dataloader import AsyncLoader

from support.skeletons.foreign import ClassMemDataLoader, Few, Normalize, Synset, network


def update_feature_extractor(args, model_interval):
    model_interval.load_state_dict(network().state_dict())
    return model_interval


class Condenser:
    def __init__(self, args, nclass_list):
        self.synset = Synset(len(nclass_list), args.ipc, Few()[0][0].shape)
        self.data = self.synset.data

    def condense(self, args, loader_real, aug, optim_img, model_interval):
        loader_real = AsyncLoader(
            loader_real, args.class_list, args.batch_real, args.device
        )  # fmt: skip
        for _it in range(args.niter):
            model_interval = update_feature_extractor(args, model_interval)
            self.data.data = torch.clamp(self.data.data, min=0.0, max=1.0)
            for c in args.class_list:
                img, _ = loader_real.class_sample(c)
                img_syn, _ = self.synset.sample(c)
                img_aug = aug(torch.cat([img, img_syn]))
                n = img.shape[0]
                real, synthetic = model_interval.embed(img_aug[:n]), model_interval.embed(img_aug[n:])
                loss = (real.detach().mean(0) - synthetic.mean(0)).square().sum()
                optim_img.zero_grad()
                loss.backward()
                optim_img.step()
        return self.data.detach(), loader_real


def condense(args, logger, device="cpu"):
    condenser = Condenser(args, args.class_list)
    loader_real = ClassMemDataLoader(Few(), batch_size=args.batch_real)
    condenser.synset.init(loader_real)
    optim_img = torch.optim.SGD([condenser.data], lr=args.lr_img)
    return condenser.condense(args, loader_real, Normalize([0.4], [0.3]), optim_img, network())
