"""Errors of torch, NCCL, Gloo and CUDA are told apart by their text, and give one sentence for all ranks."""

import pickle

import pytest
import torch

from trainplane.train.errors import CodeFailed, Misconfigured, NodeFailed, WorkerLost
from trainplane.train.launch.error_kinds import ErrorKind, first_line, kind_of
from trainplane.train.launch.rank_failures import RankFailure, error_of

HARDWARE, SETUP, DISCONNECT, CODE = ErrorKind.HARDWARE, ErrorKind.SETUP, ErrorKind.DISCONNECT, ErrorKind.CODE
HELP = "\nCUDA kernel errors might be asynchronously reported at some other API call.\n"
NCCL = "NCCL error in: ../torch/csrc/distributed/c10d/NCCLUtils.hpp:268, "


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"CUDA error: uncorrectable ECC error encountered{HELP}", HARDWARE),
        (f"CUDA error: an illegal memory access was encountered{HELP}", HARDWARE),
        ("CUDA error: misaligned address", HARDWARE),
        ("CUDA error: unspecified launch failure", HARDWARE),
        ("CUDA error: an illegal instruction was encountered", HARDWARE),
        ("CUDA error: unknown error", HARDWARE),
        ("CUDA error: the launch timed out and was terminated", HARDWARE),
        ("CUDA error: all CUDA-capable devices are busy or unavailable", HARDWARE),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", HARDWARE),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR", HARDWARE),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb, m, n, k)`", HARDWARE),
        ("cusolver error: CUSOLVER_STATUS_EXECUTION_FAILED", HARDWARE),
        ("NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus.", HARDWARE),
        # NCCL passes a CUDA error on.
        (f"{NCCL}unhandled cuda error: 'uncorrectable ECC error encountered'", HARDWARE),
        (f"{NCCL}invalid usage (run with NCCL_DEBUG=WARN for details)\nncclInvalidUsage: duplicate", SETUP),
        ("ncclInvalidUsage: Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1000", SETUP),
        ("ncclInternalError: Bootstrap : no socket interface found", SETUP),
        (
            "[enforce fail at gloo/transport/tcp/device.cc:83] ifa != nullptr. Unable to find interface for: [eth7]",
            SETUP,
        ),
        ("[enforce fail at device.cc] rp != nullptr. Unable to find address for: eth7", SETUP),
        ("Distributed package doesn't have NCCL built in", SETUP),
        ("CUDA error: no kernel image is available for execution on the device", SETUP),
        ("CUDA driver version is insufficient for CUDA runtime version", SETUP),
        ("CUDA error: invalid device ordinal", SETUP),
        ("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4711", DISCONNECT),
        ("[unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation to complete", DISCONNECT),
        (f"{NCCL}remote process exited or there was a network error\nncclRemoteError", DISCONNECT),
        ("[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE)", DISCONNECT),
        ("Socket Timeout", DISCONNECT),
        ("DistNetworkError: failed to recv, got 0 bytes. Connection was likely closed", DISCONNECT),
        ("CUDA error: device-side assert triggered", CODE),
        ("mat1 and mat2 shapes cannot be multiplied (4x8 and 9x1)", CODE),
        ("Trying to backward through the graph a second time", CODE),
    ],
)
def test_errors_from_below_are_told_apart_by_their_text(text, kind):
    assert kind_of(RuntimeError(text)) is kind
    assert kind_of(torch.distributed.DistBackendError(text)) is kind
    # A task that speaks of such things is no such thing.
    assert kind_of(ValueError(text)) is CODE


def test_a_closed_socket_of_python_is_a_lost_connection():
    assert kind_of(ConnectionResetError(104, "Connection reset by peer")) is DISCONNECT


def test_the_first_line_is_the_first_that_says_something():
    assert first_line(RuntimeError("\n  broken  \nmore")) == "broken"
    assert first_line(ValueError()) == "ValueError"


def failed(rank, kind, line="it broke", *, node="n", step=7):
    return RankFailure(rank, f"host-{rank}", node, step, kind, line, f"Traceback …\nRuntimeError: {line}")


def test_one_broken_gpu_is_the_cause_and_the_others_only_noticed():
    failures = [failed(1, DISCONNECT, "closed by peer"), failed(0, HARDWARE, "uncorrectable ECC error", node="bad")]
    error = error_of(failures)
    assert isinstance(error, NodeFailed)
    assert (error.node, error.host, error.step) == ("bad", "host-0", 7)
    assert str(error) == "a GPU or its driver failed (rank 0 on host-0: uncorrectable ECC error)"
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.node, again.host, again.step) == (str(error), "bad", "host-0", 7)


def test_a_wrong_setting_is_named_and_an_error_of_the_code_keeps_its_traceback():
    assert isinstance(error_of([failed(0, DISCONNECT), failed(1, SETUP, "Duplicate GPU detected")]), Misconfigured)
    code = error_of([failed(0, DISCONNECT), failed(1, CODE, "shapes differ")])
    assert isinstance(code, CodeFailed)
    assert "failed on rank 1" in str(code)
    assert str(code).endswith("RuntimeError: shapes differ")


def test_the_first_line_of_each_rank_is_in_the_sentence():
    error = error_of([failed(2, DISCONNECT, "reset"), failed(0, DISCONNECT, "closed")], num_dead=1, ranks=3)
    assert isinstance(error, WorkerLost)
    assert str(error) == "1 of 3 workers died; rank 0 on host-0: closed; rank 2 on host-2: reset"
    many = error_of([failed(rank, DISCONNECT, "closed") for rank in range(6)])
    assert str(many).startswith("the connections between the workers broke; rank 0 on host-0: closed; ")
    assert str(many).endswith("; and 2 more ranks")
    assert error_of([]) is None
