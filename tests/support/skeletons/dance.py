"""DANCE's DANCE.py: weights between those of two networks are copied into one network at every iteration."""

import random

import torch
from common import define_model, diffaug, load_resized_data
from data import ClassMemDataLoader
from misc import utils  # noqa: F401

from support.skeletons.foreign import Synset


def innerloss(img_real, img_syn, model):
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
    model_init = define_model(args, nclass).to(device)
    model_final = define_model(args, nclass).to(device)
    model_interval = define_model(args, nclass).to(device)

    for _it in range(args.niter):
        share = random.random()
        for param_C, param_A, param_B in zip(
            model_interval.parameters(), model_init.parameters(), model_final.parameters(), strict=True
        ):
            param_C.data.copy_(share * param_A.data + (1 - share) * param_B.data)
        loss_total = 0
        synset.data.data = torch.clamp(synset.data.data, min=0.0, max=1.0)
        for c in range(nclass):
            img, _ = loader_real.class_sample(c)
            img_syn, _ = synset.sample(c, max_size=args.batch_syn_max)
            n = img.shape[0]
            img_aug = aug(torch.cat([img, img_syn]))
            loss = innerloss(img_aug[:n], img_aug[n:], model_interval)
            loss_total += loss.item()
            optim_img.zero_grad()
            loss.backward()
            optim_img.step()
    return synset.data.detach(), loader_real
