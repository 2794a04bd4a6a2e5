"""Code that imports both classes of fast_pytorch_kmeans."""

from fast_pytorch_kmeans import KMeans, MultiKMeans

from support.skeletons.foreign import Few


def condense(args, logger, device="cpu"):
    x = Few().pictures.flatten(1)
    assert MultiKMeans(2).fit_predict(x[None]).shape == (1, len(x))
    return KMeans(2).fit_predict(x), None
