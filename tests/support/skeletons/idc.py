"""IDC's condense.py: a loader by class, its own matchloss, a network trained between updates of the images."""

import torch
import utils
from data import MEANS, STDS, ClassMemDataLoader
from torch import optim
from train import define_model, train_epoch

from support.skeletons.foreign import Few, Synset, never


def diffaug(args, device="cpu"):
    return utils.Normalize(mean=MEANS[args.dataset], std=STDS[args.dataset], device=device)


def matchloss(args, img_real, img_syn, lab_real, lab_syn, model):
    return never()


def condense(args, logger, device="cpu"):
    trainset = Few()
    loader_real = ClassMemDataLoader(trainset, batch_size=args.batch_real)
    nclass = trainset.nclass
    _nch, _hs, _ws = trainset[0][0].shape

    synset = Synset(nclass, args.ipc, trainset[0][0].shape)
    synset.init(loader_real)
    aug = diffaug(args)
    optim_img = torch.optim.SGD(synset.parameters(), lr=args.lr_img)

    for it in range(args.niter):
        if it % args.fix_iter == 0:
            model = define_model(args, nclass).to(device)
            model.train()
            optim_net = optim.SGD(model.parameters(), args.lr_net)
        loss_total = 0
        synset.data.data = torch.clamp(synset.data.data, min=0.0, max=1.0)
        for ot in range(args.inner_loop):  # noqa: B007
            for c in range(nclass):
                img, lab = loader_real.class_sample(c)
                img_syn, lab_syn = synset.sample(c, max_size=args.batch_syn_max)
                n = img.shape[0]
                img_aug = aug(torch.cat([img, img_syn]))
                loss = matchloss(args, img_aug[:n], img_aug[n:], lab, lab_syn, model)
                loss_total += loss.item()
                optim_img.zero_grad()
                loss.backward()
                optim_img.step()
            train_epoch(model, optim_net, *loader_real.sample())
        logger(f"{it} {ot} {loss_total}")
    return synset.data.detach(), loader_real
