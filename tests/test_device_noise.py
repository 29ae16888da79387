"""The Triton kernel of the grid noise gives what the CPU's gives, to the bit: in Triton's interpreter, and on a GPU."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("needs triton, which torch brings on Linux", allow_module_level=True)

CASES = [  # sigma, seed, id, first draw, stream, (C, H, W)
    (0.25, 5, 77, 0, 0, (3, 5, 7)),
    (0.25, 2**64 - 1, 2**56 - 1, 2**32 - 3, 255, (1, 8, 8)),
    (1e-5, 1, 1, 1, 1, (1, 8, 8)),  # no thresholds: no noise
    (2.5e-4, 3, 2**32, 9, 2, (2, 16, 16)),
    (0.0625, 2**32, 12, 0, 0, (1, 1, 1)),
    (0.12, 7, 2**55 + 3, 2**31, 3, (3, 32, 32)),
    (0.5, 2**63, 4, 100, 0, (1, 28, 28)),
    (1.0, 0, 0, 0, 0, (3, 32, 32)),
    (14.0, 9, 9, 9, 9, (3, 32, 32)),
]
DRAWS = 2


def compare(device: str) -> int:
    """Compare every case in both memory formats; return how many pixels needed their low bits."""
    from rrise.targets.device_noise import DeviceGridNoise
    from rrise.targets.noise import GridSampler, grid_thresholds

    ambiguous = 0
    for sigma, seed, image, first, stream, shape in CASES:
        pixels = np.random.default_rng(seed % 1000).integers(0, 256, (2, int(np.prod(shape))), dtype=np.uint8)
        expected = np.empty((2, DRAWS, pixels.shape[1]), dtype=np.float32)
        ids = np.array([image, 2**56 - 1 - image], dtype=np.uint64)
        how = {"first_draw": first, "draws": DRAWS, "seed": seed, "stream": stream}
        GridSampler(sigma).fill(pixels, ids, **how, out=expected)
        for memory in (torch.contiguous_format, torch.channels_last):
            out = torch.full((2 * DRAWS, *shape), torch.nan, device=device).to(memory_format=memory)
            DeviceGridNoise(sigma, device).fill(torch.from_numpy(pixels).to(device), ids, **how, out=out)
            np.testing.assert_array_equal(out.cpu().reshape(expected.shape).numpy(), expected)
        tops = np.unique(grid_thresholds(sigma)[0] >> np.uint64(48))
        ambiguous += round(len(tops) / 65536 * expected.size)
    return ambiguous


@pytest.mark.slow
def test_the_interpreted_kernel_is_the_cpu_s_to_the_bit() -> None:
    """In a process of its own: triton reads the environment when it is imported."""
    script = "import test_device_noise as t; print(t.compare('cpu'))"
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.path.dirname(__file__)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 100  # pixels whose leading 16 bits do not decide


@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernel_compiles_for_gpus_with_the_rounding_that_it_needs(capability: int) -> None:
    """To machine code, without a GPU; a division that is only nearly right would be div.full."""
    from triton import compile as compiled
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from rrise.targets.device_noise import BLOCK, _grid_fill

    names = _grid_fill.arg_names
    kinds = {
        "pixels": "*u8",
        "thresholds": "*u64",
        "out": "*fp32",
        "ids": "*i64",
        "STEPS": "constexpr",
        "BLOCK": "constexpr",
    }
    kinds |= dict.fromkeys(("key_low", "key_high", "stream", "first_draw", "draws"), "i64")
    source = ASTSource(_grid_fill, {name: kinds.get(name, "i32") for name in names}, {"STEPS": 11, "BLOCK": BLOCK})
    found = compiled(source, target=GPUTarget("cuda", capability, 32)).asm
    assert "div.rn.f32" in found["ptx"]
    assert "div.full" not in found["ptx"]
    assert len(found["cubin"]) > 1000


def test_wrong_arguments_are_refused() -> None:
    from rrise.targets.device_noise import DeviceGridNoise

    noise, pixels, out = DeviceGridNoise(0.25, "cpu"), torch.zeros((1, 4), dtype=torch.uint8), torch.zeros(2, 1, 2, 2)
    one = np.ones(1, dtype=np.uint64)
    good = {"first_draw": 0, "draws": 2, "seed": 0, "stream": 0, "out": out}
    for change, error in (
        ({"draws": 3}, r"out: expected 1 ids and shape \(1 images × 3 draws, C, H, W\)"),
        ({"seed": 2**64}, "seed: "),
        ({"stream": 256}, "stream: "),
        ({"first_draw": 2**32 - 1}, "first_draw [+] draws: "),
        ({"out": out.double()}, "expected uint8 and float32"),
    ):
        with pytest.raises((ValueError, TypeError), match=error):
            noise.fill(pixels, one, **(good | change))
    with pytest.raises(ValueError, match=r"out: expected 1 ids .* got 2 and"):
        noise.fill(pixels, np.ones(2, dtype=np.uint64), **good)
    with pytest.raises(ValueError, match="ids: "):
        noise.fill(pixels, one << np.uint64(56), **good)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_kernel_on_a_gpu_is_the_cpu_s_to_the_bit() -> None:
    assert compare("cuda") > 100


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_noisy_copies_on_a_gpu_are_the_cpu_s() -> None:
    from rrise.targets.passes import noisy_copies

    rows = np.random.default_rng(0).integers(0, 256, (2, 192), dtype=np.uint8)
    names = np.array([3, 4], dtype=np.uint64)
    how = {"together": 3, "seed": 1, "stream": 0}
    made = [
        noisy_copies("grid", 0.25, rows, names, (3, 8, 8), 5, **how, device=torch.device(device))
        for device in ("cpu", "cuda")
    ]
    at = np.array([1, 0, 1])
    torch.testing.assert_close(made[0](at, 10), made[1](at, 10).cpu(), rtol=0, atol=0)
