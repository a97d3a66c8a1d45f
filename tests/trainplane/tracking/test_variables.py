"""Variables that MLflow would stumble over later, or show."""

from __future__ import annotations

import pytest

from trainplane.errors import UserError
from trainplane.tracking.client import reason
from trainplane.tracking.variables import check_variables


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MLFLOW_LOGGING_LEVEL", "silly"),
        ("MLFLOW_LOGGING_LEVEL", ""),
        ("MLFLOW_SQLALCHEMYSTORE_POOL_SIZE", "x"),
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", "30s"),
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1.5"),
        ("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "much"),
        ("MLFLOW_ENABLE_ASYNC_LOGGING", "yes"),
        ("MLFLOW_TRACKING_INSECURE_TLS", "on"),
        ("MLFLOW_DISABLE_TELEMETRY", ""),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_its_variable(name: str, value: str) -> None:
    with pytest.raises(UserError, match=f"{name} is {value!r}; need"):
        check_variables({name: value})


def test_usable_values_are_taken() -> None:
    check_variables(
        {
            "MLFLOW_LOGGING_LEVEL": "debug",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
            "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0.5",
            "MLFLOW_ENABLE_ASYNC_LOGGING": "True",
            "MLFLOW_TRACKING_TOKEN": "ey.J-_=+/",
            "MLFLOW_TRACKING_PASSWORD": "two words, ü",
            "MLFLOW_OF_TOMORROW": "anything",
            "HOME": "x\n",
        }
    )


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "RAY_AUTH_TOKEN"])
@pytest.mark.parametrize("value", ["hush-hush\n", " hush-hush", "hush-hush\r\n", "hush\nhush"])
def test_a_secret_with_a_line_end_is_refused_and_not_shown(name: str, value: str) -> None:
    with pytest.raises(UserError, match=name) as refusal:
        check_variables({name: value})
    assert "hush" not in str(refusal.value)


@pytest.mark.parametrize("value", ["hush hush", "hush-ü"])
def test_a_token_is_text_that_a_header_takes(value: str) -> None:
    with pytest.raises(UserError) as refusal:
        check_variables({"MLFLOW_TRACKING_TOKEN": value})
    assert "hush" not in str(refusal.value)


def test_the_reason_of_an_error_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hush-hush")
    assert reason(ValueError("Invalid header value: 'Bearer hush-hush'")) == "Invalid header value: 'Bearer …'"
