"""A bundle as a Ray Serve deployment: one image a request over HTTP, batched on the way to the engine.

On a cluster of yours: serve run deployment:build bundle=/path/on/every/node/bundles/scaled replicas=2
"""

# No `from __future__ import annotations` here: FastAPI has to see the class Request, not its name.
import asyncio
from typing import Any

import numpy as np
import numpy.typing as npt
from decoding import decode
from fastapi import FastAPI, HTTPException, Request
from ray import serve
from ray.serve import Application

from rrise import Certifier

MOST_BYTES = 16 * 2**20
api = FastAPI(title="rrise", description="Certified labels from one forward pass")


@serve.deployment(max_ongoing_requests=128, health_check_period_s=10)
@serve.ingress(api)
class CertifierService:
    """Replica of a bundle."""

    def __init__(self, bundle: str, threads: int = 1) -> None:
        self._certifier = Certifier.load(bundle, threads=threads)  # verified: any changed byte is refused
        self.check_health()

    def check_health(self) -> None:
        """Make one pass; Serve calls this again and again and replaces the replica if it raises."""
        self._certifier(np.zeros((1, *self._certifier.input_shape), np.float32))

    @api.get("/health")
    def health(self) -> dict[str, Any]:
        """Say that a replica answers, and with which bundle."""
        return {"status": "ok", **self._names()}

    @api.get("/statement")
    def statement(self) -> dict[str, Any]:
        """Say what the certificates guarantee, and what not."""
        certifier = self._certifier
        known = {"statement": certifier.statement, "limits": certifier.bundle.limits, "sigma": certifier.sigma}
        return {**known, "input_shape": certifier.input_shape, "classes": certifier.classes, **self._names()}

    @api.post("/certify")
    async def certify(self, request: Request) -> dict[str, Any]:
        """Certify the image in the body."""
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BYTES:
                raise HTTPException(413, f"body: expected at most {MOST_BYTES} bytes, got more.")
        try:
            image = decode(bytes(body), self._certifier.input_shape)  # before batching: a bad image fails alone
        except ValueError as error:
            raise HTTPException(400, " ".join(str(error).split())) from None
        return await self._certified(image)

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.005)
    async def _certified(self, images: list[npt.NDArray[np.float32]]) -> list[dict[str, Any]]:
        # In a thread, so that requests are taken meanwhile; the engine releases the GIL.
        certificates = await asyncio.to_thread(self._certifier, np.concatenate(images))
        shared = {"batch_size": len(images), **self._names()}
        return [self._answer(row) | shared for row in certificates.to_rows()]

    def _answer(self, row: dict[str, Any]) -> dict[str, Any]:
        label = row["label"]
        name = None if label < 0 else self._certifier.classes[label]
        return {"label": label, "class": name, **{key: row[key] for key in ("radius", "p_lower", "q")}}

    def _names(self) -> dict[str, str]:
        return {"bundle_sha256": self._certifier.bundle.sha256}


def build(arguments: dict[str, str]) -> Application:
    """Return the application for ``serve run deployment:build bundle=FOLDER [replicas=N] [threads=N]``."""
    service = CertifierService.options(num_replicas=int(arguments.get("replicas", 1)))
    return service.bind(arguments["bundle"], int(arguments.get("threads", 1)))
