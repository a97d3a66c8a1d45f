"""Requests whose clients have gone away leave nothing behind a thread that still computes."""

import asyncio
import gc
import threading
import weakref

from jobs.serving.local_engine import LocalEngine


class Inputs(dict):
    """A dict that can be watched."""


def test_requests_that_come_and_go_do_not_pile_up(monkeypatch):
    running, go_on = threading.Event(), threading.Event()

    def compute(self, version, inputs, options):
        running.set()
        go_on.wait(20)
        return version

    monkeypatch.setattr(LocalEngine, "_answer", compute)

    async def attack():
        engine = LocalEngine(None, "photo", workers=1, max_pixels=1)
        first = asyncio.create_task(engine.answer("1", {}, {}))
        await asyncio.to_thread(running.wait, 20)
        first.cancel()
        watched = []
        for _ in range(5):
            inputs = Inputs(photo=b"large")
            watched.append(weakref.ref(inputs))
            task = asyncio.create_task(engine.answer("1", inputs, {}))
            del inputs
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            del task
        gc.collect()
        left = [each for each in watched if each() is not None]
        go_on.set()
        # And the thread is free again.
        answer = await asyncio.wait_for(engine.answer("2", {}, {}), 20)
        engine.close()
        return left, answer

    assert asyncio.run(attack()) == ([], "2")
