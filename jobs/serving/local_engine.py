"""Engine in this process: opened models, computed in threads."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np

from isnet.images.provenance import Origin
from isnet.inference.filler import Filler
from isnet.inference.predictor import Predictor
from jobs.evaluation.models import Model, models_folder, open_model
from jobs.inference.signing import Signing, identity_of
from jobs.serving.fill import difference, fill_hole
from jobs.serving.invocations import CONTENT_TYPE, invoke, scoring_model
from trainplane.cluster.context import Context
from trainplane.errors import RunFailed
from trainplane.registry.versions import ModelVersion
from trainplane.serving.engine import Output, ServedVersion

_WARM_SIDE = 96


class LocalEngine:
    """Opens versions here, and fills with them in threads."""

    def __init__(self, context: Context, name: str, *, workers: int, max_pixels: int) -> None:
        """Opens nothing yet.

        Args:
            context: Where the registry is.
            name: Registered model.
            workers: Fills at once.
            max_pixels: Larger pictures are refused.
        """
        self._context, self._name, self._max_pixels = context, name, max_pixels
        self._models: dict[str, Model] = {}
        self._digests: dict[str, str] = {}
        self._signing: dict[str, Signing] = {}
        self._scoring: dict[str, Any] = {}  # MLflow's models over the same networks
        self._fills = ThreadPoolExecutor(workers, thread_name_prefix="fill")
        self._free = asyncio.Semaphore(workers)
        # A version is opened beside the traffic, one after the other: MLflow's default server is a global.
        self._opens = ThreadPoolExecutor(1, thread_name_prefix="open")

    async def prepare(self, version: str) -> ServedVersion:
        """Fetches a version, checks its digest, warms it up."""
        model, served = await asyncio.get_running_loop().run_in_executor(
            self._opens, open_version, self._context, self._name, version
        )
        self._models[version], self._digests[version] = model, served.digest
        if (identity := identity_of(self._context)) is not None:
            self._signing[version] = Signing(identity, Origin(self._name, version, served.digest))
        return served

    async def answer(self, version: str, inputs: Mapping[str, bytes], options: Mapping[str, object]) -> Output:
        """Fills one hole, or answers MLflow's route."""
        await self._free.acquire()
        future = self._fills.submit(self._answer, version, inputs, options)
        loop = asyncio.get_running_loop()

        # A thread goes on when its client has gone away, so it is not free before it ends. Otherwise requests that
        # come and go would pile up behind it, with their pictures.
        def free(_: Future[Output]) -> None:
            # The server has ended meanwhile.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._free.release)

        future.add_done_callback(free)
        return await asyncio.wrap_future(future)

    def _answer(self, version: str, inputs: Mapping[str, bytes], options: Mapping[str, object]) -> Output:
        filler = self._models[version].filler
        if CONTENT_TYPE not in options:
            signing = self._signing.get(version)
            return fill_hole(filler, inputs, options, max_pixels=self._max_pixels, signing=signing)
        if version not in self._scoring:
            folder = models_folder(self._context) / self._digests[version]
            assert isinstance(filler, Predictor), "registered models are networks"
            self._scoring[version] = scoring_model(filler, folder, max_pixels=self._max_pixels)
        return invoke(self._scoring[version], inputs, str(options[CONTENT_TYPE]))

    async def difference(self, one: Output, other: Output) -> Mapping[str, float]:
        """Compares two filled pictures."""
        return await asyncio.to_thread(difference, one.content, other.content)

    async def release(self, version: str) -> None:
        """Forgets a model."""
        self._models.pop(version, None)
        self._signing.pop(version, None)
        self._scoring.pop(version, None)
        gc.collect()

    def filler(self, version: str) -> Filler:
        """The opened method of a version."""
        return self._models[version].filler

    def close(self) -> None:
        """Ends the threads."""
        self._fills.shutdown(wait=False, cancel_futures=True)
        self._opens.shutdown(wait=False, cancel_futures=True)


def open_version(context: Context, name: str, version: str) -> tuple[Model, ServedVersion]:
    """Opens a version: fetched, digest-checked, and warm.

    Raises:
        RunFailed: Its files were changed, or it answers with NaN.
        UserError: There is no such version, or MLflow does not answer.
    """
    record = ModelVersion(context.tracking_server, name, version).checked()
    model = open_model(record.address, context)
    _warm_up(model.filler, record.address)
    verdicts = record.verdicts
    failed = tuple(verdict["gate"] for verdict in verdicts if not verdict["passed"])
    facts: dict[str, str | int | float] = {}
    if model.size is not None:
        facts["trained_size"] = model.size
    if model.steps is not None:
        facts["steps"] = model.steps
    passed = len(verdicts) - len(failed) if verdicts else None
    return model, ServedVersion(version, record.model_digest or "", facts, passed, failed)


def _warm_up(filler: Filler, address: str) -> None:
    """Fills a small picture, as the first fill is slow."""
    rows = np.linspace(0, 1, _WARM_SIDE, dtype=np.float32)
    image = np.repeat(np.outer(rows, rows)[..., None], 3, axis=2)
    hole = np.zeros((_WARM_SIDE, _WARM_SIDE), np.bool_)
    hole[32:64, 24:72] = True
    predicted = filler.predict(image, hole)
    if not np.isfinite(predicted).all():
        raise RunFailed(f"{address} answers with NaN or infinity; register it again, or go back to another version")
