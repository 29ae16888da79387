"""How much of sampling is not the network: sample_counts and a plain loop, as ratios to the bare forward pass.

Usage: python benchmarks/sampling.py [--threads 1 2] [--rounds 15] [--only digits-mixer] [--neighbour] [--few 4]

Each round times, one after the other and in turning order, on the same images and at the same batch:

bare    the network alone, on one noisy batch that is already there, as many passes as the draws need
rrise   sample_counts with the grid sampler (noise, network, counting), one pass at a time as the others
cores   the same on as many threads, each with a pass of its own: what `rrise sample` does
plain   the loop users write, in the manner of randomized smoothing's first code: repeat the image, add
        torch.randn_like(batch) * sigma, predict, count in numpy

With --few 4, instead: what an evaluation costs with so few draws, on one thread, as ratios to `many`, n draws an image

many    n draws of each image, as counts for bounds are made
few     4 draws of each of as many shifted and mirrored views as need the same evaluations, several in a pass
alone   the same in a pass of its own each

The ratio of a round compares neighbours in time; the median over rounds is printed, with the quartiles. Ratios of wall
time are what a user waits for; ratios of processor time hold still when other work shares the machine. With --neighbour
another process keeps one core busy meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import timm
import torch
from timm.models.convmixer import ConvMixer
from timm.models.mlp_mixer import MlpMixer

from rrise.images import image_ids
from rrise.targets.sampling import available_cores, batch_geometry, sample_counts
from rrise.targets.settings import SampleConfig, TargetsConfig
from rrise.training.cifar_resnet import SmallResNet

SIGMA = 0.25
CLOCKS = ("wall", "processor")
NETWORKS: dict[str, tuple[Callable[[], torch.nn.Module], tuple[int, ...], int]] = {
    "digits-mixer": (
        lambda: MlpMixer(num_classes=10, img_size=8, in_chans=1, patch_size=2, num_blocks=4, embed_dim=64),
        (8, 8),
        4,
    ),
    "cifar-mixer": (
        lambda: MlpMixer(num_classes=10, img_size=32, in_chans=3, patch_size=4, num_blocks=4, embed_dim=64),
        (32, 32, 3),
        2,
    ),
    "digits-convmixer": (
        lambda: ConvMixer(num_classes=10, in_chans=1, dim=48, depth=4, kernel_size=3, patch_size=2),
        (8, 8),
        8,
    ),
    "fashion-resnet": (
        lambda: SmallResNet(num_classes=10, in_chans=1, channels=[32, 64, 128], stem_stride=4),
        (28, 28),
        2,
    ),
    "cifar-resnet": (lambda: SmallResNet(num_classes=10, channels=[32, 64, 128], stem_stride=4), (32, 32, 3), 2),
    "cifar-resnet18": (lambda: timm.create_model("resnet18", num_classes=10), (32, 32, 3), 2),
}


def keep_memory() -> None:
    """Let glibc keep freed buffers: when it gives them back hangs on the heap's shape and moves equal loops by 15%."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(ctypes.c_int(-1), ctypes.c_int(2**31 - 1))  # M_TRIM_THRESHOLD
        libc.mallopt(ctypes.c_int(-3), ctypes.c_int(2**31 - 1))  # M_MMAP_THRESHOLD


@contextlib.contextmanager
def busy_neighbour() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def plain_counts(network: torch.nn.Module, image: torch.Tensor, n: int, batch_size: int) -> np.ndarray:
    counts = np.zeros(10, dtype=int)
    left = n
    with torch.no_grad():
        while left > 0:
            size = min(batch_size, left)
            left -= size
            batch = image.repeat((size, 1, 1, 1))
            predictions = network(batch + torch.randn_like(batch) * SIGMA).argmax(1)
            for label in predictions.numpy():
                counts[label] += 1
    return counts


def measure(name: str, threads: int, rounds: int, n: int, batch_size: int) -> None:
    build, shape, number = NETWORKS[name]
    torch.manual_seed(0)
    network = build().eval()
    images = np.random.default_rng(0).integers(0, 256, (number, *shape), dtype=np.uint8)
    ids = image_ids(images)
    pixels = images[..., None] if images.ndim == 3 else images
    clean = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255))
    batch, batches = batch_geometry(n, batch_size)
    noisy = clean[:1].repeat((batch, 1, 1, 1)) + torch.randn(batch, *clean.shape[1:]) * SIGMA

    def bare() -> None:
        with torch.inference_mode():
            for _ in range(number * batches):
                network(noisy)

    def rrise() -> None:
        sample_counts(network, images, ids, sigma=SIGMA, n=n, seed=0, batch_size=batch_size)

    def cores() -> None:
        sample_counts(network, images, ids, sigma=SIGMA, n=n, seed=0, batch_size=batch_size, threads=threads)

    def plain() -> None:
        for image in clean:
            plain_counts(network, image, n, batch)

    taken = timed({"bare": bare, "rrise": rrise, "cores": cores, "plain": plain}, rounds)
    each = np.median(np.array(taken["bare"])[:, 0]) / (number * batches) * 1e3
    print(f"{name}: {number} images x {n} draws, batch {batch}, {rounds} rounds; bare pass {each:.2f} ms")
    compare(taken, "bare")


def measure_few(name: str, few: int, rounds: int, n: int, batch_size: int) -> None:
    build, shape, number = NETWORKS[name]
    torch.manual_seed(0)
    network = build().eval()
    count = number * n // few
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
    ids = image_ids(images)
    targets = TargetsConfig(views=2, n=few, shift=2, flip=True)
    config = targets.sampling(SampleConfig(n=n, batch_size=batch_size))
    together = targets.images_per_pass(config, count)

    def sampled(each: int) -> None:
        made = targets.of_seed(0).images(images, ids, 1)
        sample_counts(network, made, ids, sigma=SIGMA, n=few, seed=0, first_draw=few, images_per_pass=each)

    def many() -> None:
        sample_counts(network, images[:number], ids[:number], sigma=SIGMA, n=n, seed=0, batch_size=batch_size)

    taken = timed({"many": many, "few": lambda: sampled(together), "alone": lambda: sampled(1)}, rounds)
    each = np.median(np.array(taken["many"])[:, 0]) / (number * n) * 1e6
    batch = batch_geometry(n, batch_size)[0]
    print(
        f"{name}: {number} images x {n} draws, batch {batch}, against {count} views x {few}, {together} in a pass; "
        f"{rounds} rounds; an evaluation of many {each:.1f} µs"
    )
    compare(taken, "many")


def timed(ways: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return the seconds of each way in each round, by both clocks; each way was tried once before."""
    for way in ways.values():
        way()
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for turn in range(rounds):
        names = list(ways)
        for way in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.perf_counter(), time.process_time()
            ways[way]()
            taken[way].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return taken


def compare(taken: dict[str, list[tuple[float, float]]], measure: str) -> None:
    for way in (name for name in taken if name != measure):
        low, middle, high = np.percentile(np.array(taken[way]) / np.array(taken[measure]), (25, 50, 75), axis=0)
        columns = (f"{clock} {middle[at]:.3f} ({low[at]:.3f} to {high[at]:.3f})" for at, clock in enumerate(CLOCKS))
        print(f"  {way:5} / {measure}:  {'   '.join(columns)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, available_cores()}))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--only", choices=NETWORKS, nargs="+", default=["digits-mixer", "cifar-mixer"])
    parser.add_argument("--few", type=int, default=0, help="draws a view, against --n draws an image")
    parser.add_argument("--neighbour", action="store_true", help="keep one core busy with another process")
    options = parser.parse_args()
    keep_memory()
    with busy_neighbour() if options.neighbour else contextlib.nullcontext():
        run(options)


def run(options: argparse.Namespace) -> None:
    if options.few:
        torch.set_num_threads(1)
        for name in options.only:
            measure_few(name, options.few, options.rounds, options.n, options.batch_size)
        return
    for threads in options.threads:
        torch.set_num_threads(threads)
        print(f"torch {torch.__version__}, CPU, {threads} thread(s)")
        for name in options.only:
            measure(name, threads, options.rounds, options.n, options.batch_size)


if __name__ == "__main__":
    main()
