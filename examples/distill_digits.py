"""Distil, evaluate, save and load from Python.

python examples/distill_digits.py [--quick]
"""

import argparse
import tempfile

import dream_accel as da


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--quick", action="store_true", help="too short to be good")
    quick = args.parse_args().quick
    settings = {"iterations": 1, "inner_steps": 2, "eval_epochs": 5} if quick else {}

    result = da.distill(
        da.recipe("dream", dataset="digits", ipc=5, seed=0, **settings),
        on_iteration=lambda done: print(f"iteration {done.iteration}: distance {done.loss:.3g}"),
    )
    with tempfile.TemporaryDirectory() as folder:
        result.save(folder)
        result = da.load(folder)
    images, labels = result.synthetic.decode()
    print(f"{len(images)} training images of shape {tuple(images.shape[1:])}, labels {sorted(set(labels.tolist()))}")
    print(f"test accuracy {da.evaluate(result)} %")


if __name__ == "__main__":
    main()
