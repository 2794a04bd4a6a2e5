"""CuPy arrays in and out, without a copy. Without CuPy or a GPU the script prints the reason and ends.

python examples/cupy_arrays.py
"""

import dream_accel as da


def main() -> None:
    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()
    except Exception as reason:  # an absent package, driver or device, each raises another error
        print(f"skipped: {type(reason).__name__}: {str(reason).splitlines()[0]}")
        return
    draws = cupy.random.RandomState(0)
    x = draws.standard_normal((2000, 64), dtype=cupy.float32)
    km = da.BatchedKMeans(n_clusters=16, seed=0).fit(x, [0, 700, 2000])
    print(f"labels {type(km.labels_).__module__}.{type(km.labels_).__name__} of shape {km.labels_.shape}")
    counts = cupy.bincount(km.labels_[:700], minlength=16)
    print(f"counts by CuPy are those of the clustering: {bool((counts == km.counts_[0]).all())}")
    print(f"rows nearest the centres: {km.representatives().shape}")


if __name__ == "__main__":
    main()
