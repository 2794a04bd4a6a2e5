"""DC's main.py: a closure for real images, a network per iteration, one update of the images per outer loop."""

import numpy as np
import torch
from torch import nn
from utils import get_dataset, get_network, match_loss


def main(args):
    dst_train = get_dataset(args.dataset)
    num_classes, channel, im_size = dst_train.nclass, 1, (8, 8)
    for _exp in range(1):
        indices_class = [[] for c in range(num_classes)]
        images_all = torch.cat([dst_train[i][0].unsqueeze(0) for i in range(len(dst_train))])
        labels_all = torch.tensor([dst_train[i][1] for i in range(len(dst_train))])
        for i, lab in enumerate(labels_all.tolist()):
            indices_class[lab].append(i)

        def get_images(c, n):  # get random n images from class c
            return images_all[np.random.permutation(indices_class[c])[:n]]  # noqa: B023

        image_syn = torch.randn(num_classes * args.ipc, channel, *im_size, requires_grad=True)
        for c in range(num_classes):
            image_syn.data[c * args.ipc : (c + 1) * args.ipc] = get_images(c, args.ipc).detach().data
        optimizer_img = torch.optim.SGD([image_syn], lr=args.lr_img, momentum=0.5)
        criterion = nn.CrossEntropyLoss()

        for _it in range(args.Iteration + 1):
            net = get_network(args.model, channel, num_classes, im_size).to(args.device)  # get a random model
            net.train()
            net_parameters = list(net.parameters())

            for ol in range(args.outer_loop):
                loss = torch.tensor(0.0)
                for c in range(num_classes):
                    img_real = get_images(c, args.batch_real)
                    lab_real = torch.full((len(img_real),), c)
                    gw_real = torch.autograd.grad(criterion(net(img_real), lab_real), net_parameters)
                    img_syn = image_syn[c * args.ipc : (c + 1) * args.ipc]
                    output_syn = net(img_syn)
                    gw_syn = torch.autograd.grad(criterion(output_syn, lab_real[:1]), net_parameters, create_graph=True)
                    loss += match_loss(gw_syn, [g.detach() for g in gw_real], args)
                optimizer_img.zero_grad()
                loss.backward()
                optimizer_img.step()
                if ol == args.outer_loop - 1:
                    break
    return image_syn.detach(), get_images
