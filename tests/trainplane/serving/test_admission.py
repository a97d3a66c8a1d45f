"""Who runs, who waits and who is refused: bounded, and fair between users."""

import asyncio

import pytest

from trainplane.serving.admission import AdmissionQueue, QueueFull, QueueLimits, admit, next_in_line, retry_after_s

LIMITS = QueueLimits(running=2, waiting=4, waiting_of_one=3)


@pytest.mark.parametrize(
    ("waiting", "mine", "decision"), [(0, 0, "wait"), (3, 2, "wait"), (3, 3, "mine full"), (4, 0, "full")]
)
def test_a_place_is_given_within_the_bounds(waiting, mine, decision):
    assert admit(LIMITS, waiting=waiting, mine=mine) == decision


def test_the_time_to_come_back_follows_from_the_queue():
    assert retry_after_s(LIMITS, waiting=3, seconds_each=2.5) == 5
    assert retry_after_s(LIMITS, waiting=0, seconds_each=0.01) == 1
    assert retry_after_s(LIMITS, waiting=1000, seconds_each=9) == 60


def test_the_oldest_request_of_who_has_least_runs_next():
    assert next_in_line(["a", "a", "b"], {"a": 1}) == 2
    assert next_in_line(["a", "a", "b"], {}) == 0
    assert next_in_line(["a", "b"], {"a": 1, "b": 1}) == 0


def test_a_user_with_many_requests_does_not_shut_out_another():
    order = []

    async def ask(queue, user, started):
        async with queue.place(user) as place, place.turn():
            order.append(user)
            await started.wait()

    async def main():
        queue, go = AdmissionQueue(QueueLimits(2, 8, 8)), asyncio.Event()
        tasks = [asyncio.create_task(ask(queue, "many", go)) for _ in range(6)]
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(ask(queue, "one", go)))
        await asyncio.sleep(0.01)
        assert (queue.running, queue.waiting) == (2, 5)
        go.set()
        await asyncio.gather(*tasks)
        assert (queue.running, queue.waiting) == (0, 0)

    asyncio.run(main())
    # Two run when it comes; it is the next one.
    assert order[2] == "one"


def test_of_two_hundred_requests_at_once_those_in_bounds_run_and_the_others_are_refused_with_a_time():
    async def ask(queue):
        try:
            async with queue.place("user") as place, place.turn():
                await asyncio.sleep(0.001)
                return "ran"
        except QueueFull as error:
            return error

    async def main():
        queue = AdmissionQueue(QueueLimits(2, 16, 16))
        ends = await asyncio.gather(*(ask(queue) for _ in range(200)))
        assert (queue.running, queue.waiting) == (0, 0)
        return ends

    ends = asyncio.run(main())
    assert ends.count("ran") == 18
    refusals = [end for end in ends if end != "ran"]
    assert len(refusals) == 182
    assert all(1 <= error.retry_after_s <= 60 and "try again in" in str(error) for error in refusals)


def test_a_request_that_is_given_up_while_it_waits_or_runs_frees_its_place():
    async def ask(queue):
        async with queue.place("user") as place, place.turn():
            await asyncio.sleep(60)

    async def main():
        queue = AdmissionQueue(QueueLimits(1, 4, 4))
        tasks = [asyncio.create_task(ask(queue)) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert (queue.running, queue.waiting) == (1, 2)
        # One that waits, then the one that runs: the last one gets its turn.
        for task in (tasks[1], tasks[0]):
            task.cancel()
            await asyncio.sleep(0.01)
        assert (queue.running, queue.waiting) == (1, 0)
        tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (queue.running, queue.waiting) == (0, 0)

    asyncio.run(main())
