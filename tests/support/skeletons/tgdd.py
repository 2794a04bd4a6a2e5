"""TGDD's TGDD.py: two networks are made and loaded at every iteration."""

import torch
from common import define_model, diffaug, load_resized_data
from data import ClassMemDataLoader
from misc import utils  # noqa: F401

from support.skeletons.foreign import Synset


def matchloss(img_real, img_syn, model):
    with torch.no_grad():
        _, feat_tg = model(img_real, return_features=True)
    _, feat = model(img_syn, return_features=True)
    return torch.sum((feat.mean(0) - feat_tg.mean(0)) ** 2)


def condense(args, logger, device="cpu"):
    trainset, _val_loader = load_resized_data(args)
    loader_real = ClassMemDataLoader(trainset, batch_size=args.batch_real)
    nclass = trainset.nclass
    synset = Synset(nclass, args.ipc, trainset[0][0].shape)
    synset.init(loader_real)
    aug, _ = diffaug(args)
    optim_img = torch.optim.SGD(synset.parameters(), lr=args.lr_img)

    for _it in range(args.niter):
        model_init = define_model(args, nclass).to(device)
        synset.data.data = torch.clamp(synset.data.data, min=0.0, max=1.0)
        for c in range(nclass):
            img, _ = loader_real.class_sample(c)
            img_syn, _ = synset.sample(c, max_size=args.batch_syn_max)
            n = img.shape[0]
            img_aug = aug(torch.cat([img, img_syn]))
            loss = matchloss(img_aug[:n], img_aug[n:], model_init)
            optim_img.zero_grad()
            loss.backward()
            optim_img.step()
    return synset.data.detach(), loader_real
