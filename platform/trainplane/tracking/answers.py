"""Checks that MLflow's answers are MLflow's.

A server of another version, a gateway or a login page also answers with JSON. What does not parse, or lacks the id of
a run, is then an error of the server, which every reader handles, and not of the program.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

from trainplane.errors import RunFailed, UserError, error_line

logger = logging.getLogger(__name__)

# Words by which MLflow's client and ours say that an answer is none of MLflow's.
NOT_MLFLOW = "not in a valid JSON format"
# Pages of one search without results in a row; a real server has none.
_MAX_EMPTY_PAGES = 100
# What each entity needs to be one.
_IS_WHOLE: Mapping[str, Callable[[Any], bool]] = {
    "Run": lambda run: bool(run.info.run_id and run.info.experiment_id),
    "Experiment": lambda experiment: bool(experiment.experiment_id and experiment.name),
    "RegisteredModel": lambda model: bool(model.name),
    "ModelVersion": lambda version: bool(version.name) and str(version.version).isdecimal(),
}


class CheckedClient:
    """MLflow's client of a server; odd answers raise `MlflowException`."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._client, name)
        return _checked(value) if callable(value) and not name.startswith("_") else value


def _checked(method: Callable[..., Any]) -> Callable[..., Any]:
    from mlflow.exceptions import MlflowException

    @functools.wraps(method)
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            result = method(*arguments, **named)
            for entity in result if isinstance(result, list) else [result]:
                if (is_whole := _IS_WHOLE.get(type(entity).__name__)) and not is_whole(entity):
                    raise ValueError(f"{type(entity).__name__} without its id")
            return result
        except (MlflowException, OSError, UserError, RunFailed):
            raise
        # Errors of parsing have no common type: protobuf's, KeyError, ValueError, AttributeError, a bare Exception.
        except Exception as error:
            logger.debug("an answer of MLflow cannot be read", exc_info=True)
            raise MlflowException(
                f"its answer is {NOT_MLFLOW} of MLflow: {type(error).__name__}, {error_line(error)}"
            ) from error

    return call


class SearchPages:
    """Follows the pages of one search to its end."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._empty_pages = 0

    def check(self, page: Any) -> None:
        """Raises `MlflowException` where the pages do not go on."""
        from mlflow.exceptions import MlflowException

        self._empty_pages = 0 if page else self._empty_pages + 1
        marks = {f"token {page.token}"} if page.token else set()
        if page:
            marks.add(f"first {_identity(page[0])}")
        if marks & self._seen or self._empty_pages > _MAX_EMPTY_PAGES:
            raise MlflowException("the server's pages of one search repeat, without an end")
        self._seen |= marks


def _identity(entity: Any) -> str:
    """Name of an entity, unique in its search."""
    if hasattr(entity, "info"):
        return str(getattr(entity.info, "run_id", None) or entity.info.trace_id)
    if hasattr(entity, "experiment_id"):
        return str(entity.experiment_id)
    return f"{getattr(entity, 'name', '')}/{getattr(entity, 'version', '')}".strip("/")
