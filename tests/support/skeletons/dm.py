"""DM's main_DM.py: a closure for real images, a network and one update of the images per iteration."""

import numpy as np
import torch
from utils import get_dataset, get_network


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

        image_syn = torch.cat([get_images(c, args.ipc) for c in range(num_classes)]).requires_grad_()
        optimizer_img = torch.optim.SGD([image_syn], lr=args.lr_img, momentum=0.5)

        for _it in range(args.Iteration + 1):
            net = get_network(args.model, channel, num_classes, im_size).to(args.device)  # get a random model
            net.train()
            for param in list(net.parameters()):
                param.requires_grad = False
            embed = net.module.embed if torch.cuda.device_count() > 1 else net.embed

            loss = torch.tensor(0.0)
            for c in range(num_classes):
                output_real = embed(get_images(c, args.batch_real)).detach()
                output_syn = embed(image_syn[c * args.ipc : (c + 1) * args.ipc])
                loss += torch.sum((torch.mean(output_real, dim=0) - torch.mean(output_syn, dim=0)) ** 2)
            optimizer_img.zero_grad()
            loss.backward()
            optimizer_img.step()
    return image_syn.detach(), get_images
