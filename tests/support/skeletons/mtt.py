"""MTT's distill.py as far as the initialisation, the only place that reads real images."""

import numpy as np
import torch
from utils import get_dataset, get_network  # noqa: F401


def main(args):
    dst_train = get_dataset(args.dataset)
    num_classes, channel, im_size = dst_train.nclass, 1, (8, 8)
    images_all = torch.cat([dst_train[i][0].unsqueeze(0) for i in range(len(dst_train))])
    labels_all = [dst_train[i][1] for i in range(len(dst_train))]
    indices_class = [[] for c in range(num_classes)]
    for i, lab in enumerate(labels_all):
        indices_class[lab].append(i)
    labels_all = torch.tensor(labels_all, dtype=torch.long, device="cpu")

    def get_images(c, n):  # get random n images from class c
        return images_all[np.random.permutation(indices_class[c])[:n]]

    image_syn = torch.randn(num_classes * args.ipc, channel, *im_size)
    for c in range(num_classes):
        image_syn.data[c * args.ipc : (c + 1) * args.ipc] = get_images(c, args.ipc).detach().data
    return image_syn, indices_class
