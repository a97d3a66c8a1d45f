"""Tells kinds of a rank's errors apart, by their text.

torch, NCCL and Gloo raise `RuntimeError` for nearly everything, so only the text tells a broken GPU, a lost connection,
a wrong setting of the cluster and a fault of the code apart. Pure: no I/O.
"""

from __future__ import annotations

import re
from enum import Enum


class ErrorKind(Enum):
    """Kind of an error; the most specific one decides."""

    HARDWARE = "a GPU or its driver failed"
    SETUP = "the cluster is set up wrongly"
    DISCONNECT = "the connection to another rank broke"
    CODE = "the task's code failed"


# Sticky errors of the device: the context is lost, and mostly the GPU or its link is to blame. An illegal access can be
# a fault of the code, too; then another node meets it at the same step (`NodeBlame`).
_HARDWARE = (
    r"\bECC\b",
    r"\bXid\b",
    r"illegal memory access",
    r"illegal instruction was encountered",
    r"misaligned address",
    r"unspecified launch failure",
    r"hardware stack error",
    r"launch timed out and was terminated",
    r"CUDNN_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR)",
    r"CU(BLAS|SOLVER|SPARSE|FFT)_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR)",
    r"fallen off the bus",
    r"GPU is lost",
    r"GPU requires reset",
    r"\bNVLINK\b.*error|uncorrectable NVLINK",
    r"CUDA error: unknown error",
    r"device\(s\) is/are busy or unavailable",
    r"(all CUDA-capable devices|no CUDA-capable device)",
    r"system not yet initialized",
    r"CUDA driver initialization failed",
)
# What another attempt meets again, because a setting or an installation must change.
_SETUP = (
    r"ncclInvalid(Usage|Argument)|\binvalid (usage|argument) \(run with NCCL_DEBUG",
    r"Duplicate GPU detected",
    r"(no socket interface found|No interface found|no NET interface)",
    r"Unable to find (address|interface) for",
    r"unable to (resolve|find) (hostname|interface)",
    r"NCCL.*version mismatch|Mismatched NCCL version",
    r"doesn't have (NCCL|Gloo) built in|Unknown backend|is not built with (NCCL|Gloo)",
    r"driver version is insufficient|NVIDIA driver on your system is too old",
    r"no kernel image is available",
    r"invalid device ordinal",
)
_DISCONNECT = (
    r"Connection (closed by peer|reset by peer|refused|timed out)",
    r"Broken pipe",
    r"\bNCCL\b|nccl[A-Z]\w*Error",
    r"\[?gloo\b|\bGloo\b",
    r"Socket (Timeout|closed)",
    r"collective operation timeout",
    r"(recvValue|sendBytes|recvBytes) failed|failed to recv",
    r"Timed out waiting \d+ms",
    r"TCPStore|client socket has timed out|wait timeout after",
)
# Asserts of kernels are faults of the code, such as an index out of range, though the device is lost with them.
_CODE = (r"device-side assert",)
# In this order: NCCL's text of a wrong setting contains "NCCL", and that of a broken GPU "CUDA error".
_TABLE = (
    (ErrorKind.CODE, re.compile("|".join(_CODE))),
    (ErrorKind.SETUP, re.compile("|".join(_SETUP), re.IGNORECASE)),
    (ErrorKind.HARDWARE, re.compile("|".join(_HARDWARE), re.IGNORECASE)),
    (ErrorKind.DISCONNECT, re.compile("|".join(_DISCONNECT))),
)
# Classes whose text comes from torch and the libraries behind it. A `ValueError` of a task that mentions NCCL is none.
_FROM_BELOW = (RuntimeError, OSError)


def kind_of(error: BaseException) -> ErrorKind:
    """Returns the kind of an error."""
    return kind_of_text(str(error)) if isinstance(error, _FROM_BELOW) else ErrorKind.CODE


def kind_of_text(text: str) -> ErrorKind:
    """Returns the kind of a library's error with this text."""
    return next((kind for kind, pattern in _TABLE if pattern.search(text)), ErrorKind.CODE)


def first_line(error: BaseException) -> str:
    """First line of an error's text that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
