"""Make a trained PyTorch model a classifier folder of rrise.

    python adopt.py my_weights.pt my_images.npy OUT

The images' ids go into the folder. They are why `rrise calibrate` refuses images that the model has seen.
"""

import sys

import numpy as np
import torch

from rrise.images import image_ids
from rrise.training.networks import NetworkSpec, build_network, save_network

DIGITS = [str(digit) for digit in range(10)]


def main(weights: str, images: str, out: str) -> None:
    """Build the network by its name, load the weights into it, save both."""
    # mean and std are those of the training: the network proper gets (pixel - mean) / std of pixels in [0, 1].
    spec = NetworkSpec(
        network="my_model:build", options={"width": 32}, num_classes=10, input_shape=(1, 8, 8), mean=(0.5,), std=(0.5,)
    )
    module = build_network(spec)
    module.network.load_state_dict(torch.load(weights, weights_only=True))
    trained_on = image_ids(np.load(images))
    sha256 = save_network(out, spec, module, trained_on, kind="classifier", classes=DIGITS)
    print(f"adopted {weights} as {out}, sha256 {sha256[:12]}, trained on {len(trained_on)} images")


if __name__ == "__main__":
    main(*sys.argv[1:])
