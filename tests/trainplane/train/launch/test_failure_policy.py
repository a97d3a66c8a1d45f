"""Each cause of a failure has its own answer, and where that is another attempt, it follows. Without a cluster."""

import pickle

import noise_datasets
import pytest
import torch
from tiny_task import TinyConfig, TinyTask

from trainplane.config.load import build
from trainplane.errors import RunFailed, UserError
from trainplane.storage import StorageError, open_store
from trainplane.train.checkpoint import store as checkpoints
from trainplane.train.checkpoint.state import TrainingState
from trainplane.train.errors import (
    CodeFailed,
    Diverged,
    Halted,
    Misconfigured,
    NodeFailed,
    OutOfMemory,
    Resized,
    WorkerLost,
    out_of_memory,
)
from trainplane.train.launch import launch
from trainplane.train.launch.failure_policy import Cause, NodeBlame, cause_of, decide_retry
from trainplane.train.spec import NullProgress, Outcome, TrainJob

EXPIRED = StorageError("s3://b: the store refuses to write (ExpiredToken); check the credentials")


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (WorkerLost("gone"), Cause.LOST),
        (NodeFailed("ECC", node="n", host="h", step=3), Cause.HARDWARE),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), Cause.HARDWARE),
        (Misconfigured("Duplicate GPU detected"), Cause.SETUP),
        (RuntimeError("ncclInvalidUsage: Duplicate GPU detected"), Cause.SETUP),
        (Halted("told to"), Cause.NOTICE),
        (Resized("more room"), Cause.RESIZE),
        (OutOfMemory("too large", 8, 16), Cause.MEMORY),
        (EXPIRED, Cause.CREDENTIALS),
        (RunFailed("3 checkpoints in a row could not be stored (ExpiredTokenException)"), Cause.CREDENTIALS),
        (StorageError("no room"), Cause.OURS),
        (Diverged("NaN"), Cause.DIVERGED),
        (CodeFailed("shapes differ"), Cause.CODE),
        (ValueError("shapes differ"), Cause.CODE),
        (UserError("typo"), Cause.USER),
    ],
)
def test_causes_are_told_apart(error, cause):
    assert cause_of(error) is cause


@pytest.mark.parametrize("cause", [Cause.OURS, Cause.DIVERGED, Cause.CODE, Cause.USER, Cause.SETUP])
def test_what_would_happen_again_is_not_tried_again(cause):
    assert not decide_retry(RunFailed("x"), cause=cause, in_a_row={cause: 1}, auto_micro_batch=True).retry


@pytest.mark.parametrize(
    ("cause", "tries"), [(Cause.LOST, 3), (Cause.NOTICE, 3), (Cause.CREDENTIALS, 4), (Cause.RESIZE, 99)]
)
def test_each_cause_has_a_count_of_its_own(cause, tries):
    def again(count):
        others = dict.fromkeys(Cause, 99)
        return decide_retry(RunFailed("x"), cause=cause, in_a_row={**others, cause: count}, auto_micro_batch=True).retry

    assert again(tries)
    assert cause is Cause.RESIZE or not again(tries + 1)


def test_pauses_before_a_lost_worker_is_replaced_grow():
    waits = [
        decide_retry(RunFailed("x"), cause=Cause.LOST, in_a_row={Cause.LOST: count}, auto_micro_batch=False).wait_s
        for count in (1, 2, 3)
    ]
    assert waits == sorted(set(waits))
    assert waits[0] > 0


def test_a_node_is_suspected_after_one_failed_gpu_and_avoided_after_two():
    blame = NodeBlame().adding(broken("a", 5))
    assert (blame.suspected, blame.avoided) == ({"a"}, set())
    blame = blame.adding(broken("b", 9)).adding(broken("a", 7))
    assert (blame.suspected, blame.avoided) == ({"b"}, {"a"})
    assert not blame.is_of_code()
    assert not NodeBlame().adding(broken("a", 5)).adding(broken("a", 5)).is_of_code()
    assert blame.adding(broken("b", 7)).is_of_code()


def test_credentials_are_waited_for():
    assert decide_retry(EXPIRED, cause=Cause.CREDENTIALS, in_a_row={}, auto_micro_batch=False).wait_s > 0


def test_memory_halves_the_micro_batch_only_where_that_is_left_to_us():
    error = OutOfMemory("too large", 8, 24)
    halved = decide_retry(error, cause=Cause.MEMORY, in_a_row={}, auto_micro_batch=True)
    assert (halved.retry, halved.micro_batch) == (True, 4)
    assert not decide_retry(error, cause=Cause.MEMORY, in_a_row={}, auto_micro_batch=False).retry
    one = OutOfMemory("too large", 1, 24)
    assert not decide_retry(one, cause=Cause.MEMORY, in_a_row={}, auto_micro_batch=True).retry


def test_errors_that_cross_processes_arrive_whole():
    again = pickle.loads(pickle.dumps(OutOfMemory("too large", 8, 24)))
    assert (str(again), again.micro_batch, again.share) == ("too large", 8, 24)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_memory_that_ran_out_is_known_in_every_guise(error):
    assert out_of_memory(error)
    assert not out_of_memory(RuntimeError("shapes differ"))


class Heard(NullProgress):
    """Remembers what was told."""

    def __init__(self):
        self.sentences = []

    def emit(self, message):
        self.sentences.append(message)


class Attempts:
    """Raises one error after the other, committing checkpoints on the way as told, then ends well."""

    def __init__(self, store, script):
        self.jobs, self.blames, self._store, self._script = [], [], store, list(script)

    def __call__(self, job, blame, usage):
        self.jobs.append(job)
        self.blames.append(blame)
        # Three ranks for ten seconds, then two, then one.
        with usage.of(max(1, 4 - len(self.jobs))):
            launch.time.sleep(10)
        if not self._script:
            return Outcome("finished", 9, {}, "", "", {}, 0.0)
        error, step = self._script.pop(0)
        if step:
            checkpoints.write(self._store, TrainingState(step, {"w": torch.zeros(1)}, {}), meta={})
        raise error


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self):
        self._now = 0.0

    def monotonic(self):
        return self._now

    def sleep(self, seconds):
        self._now += seconds


@pytest.fixture
def persist(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "time", Clock())

    def go(script, **train):
        config = build(
            TinyConfig,
            {"name": "t", "data": {"train": "t"}, "train": {"steps": 9, "global_batch": 16, **train}},
        )
        attempts, heard = Attempts(open_store(str(tmp_path)), script), Heard()
        job = TrainJob(config.model_dump(mode="json"), "", None, str(tmp_path))
        return launch.train_with_retries(job, config.train, attempts, heard), attempts.jobs, heard.sentences

    return go


LOST = WorkerLost("1 of 2 workers died")


def broken(node, step):
    return NodeFailed(f"a GPU failed (rank 0 on {node}: ECC)", node=node, host=node, step=step)


def test_a_broken_gpu_is_told_and_the_run_goes_elsewhere(persist):
    outcome, jobs, told = persist([(broken("a", 5), 3)])
    assert (outcome.status, len(jobs)) == ("finished", 2)
    assert told == ["a node's GPU failed (a GPU failed (rank 0 on a: ECC)); resuming at step 3"]


def test_the_time_of_failed_attempts_is_counted_by_their_ranks(persist):
    outcome, jobs, _ = persist([(LOST, 1), (LOST, 2)])
    assert len(jobs) == 3
    assert (outcome.attempts_s, outcome.rank_s) == (30, 10 * (3 + 2 + 1))


def test_two_nodes_that_fail_at_one_step_are_the_codes_fault(persist):
    with pytest.raises(CodeFailed, match=r"two nodes failed at the same step.*rank 0 on b"):
        persist([(broken("a", 5), 3), (broken("b", 5), 0)])


def test_a_broken_gpu_of_this_process_ends_the_run_in_a_sentence(tmp_path, importable):
    with pytest.raises(RunFailed, match=r"this machine's GPU or its driver failed \(CUDA error: unspecified"):
        greedy_run(tmp_path, None, Heard(), task="BrokenGpuTask")


def test_lost_workers_are_replaced_as_long_as_there_is_progress(persist):
    outcome, jobs, told = persist([(LOST, step) for step in range(1, 9)])
    assert outcome.status == "finished"
    assert len(jobs) == 9
    assert told[0] == "a worker was lost (1 of 2 workers died); resuming at step 1 in 1 s"


def test_without_progress_lost_workers_end_the_run(persist):
    with pytest.raises(WorkerLost):
        persist([(LOST, 3), *[(LOST, 0)] * 4])


def test_one_cause_does_not_use_up_the_patience_for_another(persist):
    _, jobs, _ = persist([(LOST, 0), (LOST, 0), (LOST, 0), (EXPIRED, 0), (EXPIRED, 0), (Resized("more"), 0)])
    assert len(jobs) == 7


def test_memory_halves_until_it_fits_and_says_the_arithmetic(persist):
    def full(size):
        return OutOfMemory("too large", size, 8)

    _, jobs, told = persist([(full(8), 0), (full(4), 0)], micro_batch="auto", workers=2)
    assert [job.micro_batch for job in jobs] == [None, 4, 2]
    assert told[1].endswith("resuming at step 0: 16 samples a step = 2 ranks × 2 at once × 4 in turn")


@pytest.mark.parametrize("error", [Diverged("NaN"), CodeFailed("shapes"), StorageError("no room")])
def test_other_failures_are_raised_at_once(persist, error):
    with pytest.raises(type(error)):
        persist([(error, 0)])


class GreedyTask(TinyTask):
    """Needs more memory than there is for more than two pictures at once."""

    def step(self, micro_batches, *, global_batch, reduce):
        if max(len(batch["x"]) for batch in micro_batches) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().step(micro_batches, global_batch=global_batch, reduce=reduce)


class BrokenGpuTask(TinyTask):
    """Its device fails as one with a broken GPU does."""

    def step(self, micro_batches, *, global_batch, reduce):
        raise RuntimeError("CUDA error: unspecified launch failure\nFor debugging …")


def greedy_run(tmp_path, micro_batch, heard, steps=4, task="GreedyTask"):
    if not (tmp_path / "train").exists():
        noise_datasets.make(tmp_path)
    config = build(
        TinyConfig,
        {
            "name": "t",
            "task": f"test_failure_policy:{task}",
            "data": {"train": "t"},
            "train": {"steps": steps, "global_batch": 12, "micro_batch": micro_batch},
        },
    )
    job = TrainJob(config.model_dump(mode="json"), str(tmp_path / "train"), None, str(tmp_path / "run"))
    return launch.train(job, config.train, progress=heard, distributed=False)


@pytest.fixture
def importable(monkeypatch):
    """Tasks are named by module; this test's own module goes by another name under pytest."""
    import sys

    monkeypatch.setitem(sys.modules, "test_failure_policy", sys.modules[__name__])


def test_a_run_finds_the_micro_batch_that_fits_and_keeps_it_when_it_goes_on(tmp_path, importable):
    heard = Heard()
    assert greedy_run(tmp_path, "auto", heard).step == 4
    assert [sentence.split(" × ")[1] for sentence in heard.sentences] == [
        "6 at once",
        "3 at once",
        "1 at once",
    ]
    later = Heard()
    assert greedy_run(tmp_path, "auto", later, steps=6).step == 6
    assert later.sentences == []


def test_a_fixed_micro_batch_that_does_not_fit_is_answered_with_the_arithmetic(tmp_path, importable):
    words = r"memory ran out in step 1 on rank 0 \(12 samples a step = 1 rank × 4 at once × 3 in turn\)"
    with pytest.raises(OutOfMemory, match=words):
        greedy_run(tmp_path, 4, Heard())
