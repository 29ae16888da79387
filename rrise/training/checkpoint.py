"""Where an interrupted fit goes on: the state after an epoch, beside the artifact that is to be made."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

EVERY = 10.0
"""Seconds between two checkpoints, at least: writing costs next to nothing then."""
_FILE = "state.safetensors"


class Checkpoint:
    """The state of a training run after an epoch, as a file in the hidden folder ``.NAME.partial`` beside ``NAME``.

    The file is a digest and tensors in safetensors, no pickle. The digest is of the tensors and of the key together, so
    a state is taken up only if every byte of it is as written and it belongs to the same settings and inputs.

    Parameters
    ----------
    artifact : Path
        What will be made from the run.
    key : mapping
        Everything that the run depends on; plain JSON.
    """

    def __init__(self, artifact: Path, key: Mapping[str, object]) -> None:
        self.folder = artifact.parent / f".{artifact.name}.partial"
        self.history: list[tuple[float, float]] = []
        """Training loss and held-out loss (NaN: none) after each epoch."""
        self._key = json.dumps(key, sort_keys=True).encode()
        self._saved = time.monotonic()

    def restore(self, module: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> None:
        """Put a run where the file says, history included; where there is none, or another's, leave it at its start."""
        path = self.folder / _FILE
        if not path.is_file():
            return
        content = path.read_bytes()
        digest, payload = content[:32], content[32:]
        if self._digest(payload) != digest:
            text = f"fit: {path} is of other settings or inputs, or damaged; the fit starts anew."
            warnings.warn(text, RuntimeWarning, stacklevel=2)
            return
        state = safetensors.torch.load(payload)
        module.load_state_dict({name[7:]: value for name, value in state.items() if name.startswith("module.")})
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in state.items():
            if name.startswith("optimizer."):
                _, number, kind = name.split(".")
                moments.setdefault(int(number), {})[kind] = value
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
        generator.set_state(state["generator"])
        torch.set_rng_state(state["torch"])
        if "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], generator.device)
        self.history[:] = [(loss, held_out) for loss, held_out in state["history"].tolist()]

    def keep(self, module: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> None:
        """Write the state after an epoch, if the last one was written long enough ago."""
        if time.monotonic() - self._saved < EVERY:
            return
        state = {f"module.{name}": value for name, value in module.state_dict().items()}
        for number, moments in optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{number}.{kind}": value for kind, value in moments.items()}
        state |= {"generator": generator.get_state(), "torch": torch.get_rng_state()}
        if generator.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(generator.device)
        state["history"] = torch.tensor(self.history, dtype=torch.float64)
        plain = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
        payload = bytes(safetensors.torch.save(plain))
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{_FILE}.new"
        with partial.open("wb") as stream:
            stream.write(self._digest(payload) + payload)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, self.folder / _FILE)
        self._saved = time.monotonic()

    def clear(self) -> None:
        """Remove the folder: the artifact is there."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _digest(self, payload: bytes) -> bytes:
        return hashlib.sha256(self._key + b"\0" + payload).digest()
