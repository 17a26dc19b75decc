"""Exhaustion of file descriptors is reported once, in words, without a traceback."""

from __future__ import annotations

import errno
import io
import logging
from collections.abc import Iterator

import pytest

from orlop_api_docker.errors import answer_error
from orlop_kernel import descriptors
from orlop_kernel.boot.logs import Throttle
from orlop_kernel.failures import as_orlop_error
from orlop_kernel.http.messages import BodyError, Request
from orlop_sdk import DriverError, Unavailable

EMFILE = OSError(errno.EMFILE, "Too many open files")


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (EMFILE, True),
        (OSError(errno.ENFILE, "too many in the system"), True),
        (ExceptionGroup("", [ValueError(), ExceptionGroup("", [EMFILE])]), True),
        (caused(DriverError("cannot run runc"), EMFILE), True),
        (OSError(errno.ENOENT, "no"), False),
        (DriverError("x"), False),
        (None, False),
    ],
)
def test_exhaustion_of_descriptors_is_recognized_in_nested_errors(error: BaseException | None, found: bool) -> None:
    assert descriptors.is_exhaustion(error) is found


@pytest.mark.parametrize("error", [EMFILE, caused(DriverError("cannot run runc"), EMFILE), ExceptionGroup("", [EMFILE])])
def test_exhaustion_of_descriptors_is_answered_with_503_and_advice(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    request = Request("GET", "/x", "/x", {}, {}, None, None)  # type: ignore[arg-type]
    for each in (error, as_orlop_error(error, "cannot start it")):
        answer = answer_error(request, each)
        assert answer.status == 503
    assert b"LimitNOFILE" in answer_error(request, as_orlop_error(EMFILE, "cannot start it")).body
    assert isinstance(as_orlop_error(EMFILE, "cannot start it"), Unavailable)
    assert all(not record.exc_info for record in caplog.records)


def test_log_records_of_refused_requests_contain_the_kind_of_refusal(caplog: pytest.LogCaptureFixture) -> None:
    request = Request("GET", "/x", "/x", {}, {}, None, None)  # type: ignore[arg-type]
    for error in (BodyError(503, "too many"), EMFILE, DriverError("of a driver")):
        answer_error(request, error)
    assert [record.__dict__["throttle"] for record in caplog.records] == ["too many", "too many open files", ""]


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, io.StringIO, list[float]]]:
    now, text = [0.0], io.StringIO()
    handler = logging.StreamHandler(text)
    handler.addFilter(Throttle(lambda: now[0]))
    logger = logging.getLogger("throttled")
    logger.propagate = False
    logger.handlers[:] = [handler]
    yield logger, text, now


def test_repeated_errors_about_exhausted_descriptors_are_logged_as_one_line_with_a_count(
    log: tuple[logging.Logger, io.StringIO, list[float]],
) -> None:
    logger, text, now = log
    for number in range(1000):
        try:
            raise EMFILE
        except OSError:
            logger.exception("cannot do %d", number)
    logger.error("another failure")
    now[0] += 11
    logger.error("and again", exc_info=EMFILE)
    lines = text.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("cannot do 0: too many open files: the daemon may have ")
    assert lines[1] == "another failure"
    assert lines[2].startswith("and again: too many open files") and lines[2].endswith(
        "(999 similar messages were suppressed before it)"
    )


def test_log_suppresses_repeated_messages_of_a_kind_and_keeps_tracebacks_of_other_errors(
    log: tuple[logging.Logger, io.StringIO, list[float]],
) -> None:
    logger, text, _ = log
    for kind in ("a", "b", "a", "b"):
        logger.warning("of %s", kind, extra={"throttle": kind})
    try:
        raise OSError(errno.ENOENT, "gone")
    except OSError:
        logger.exception("one of ours")
    lines = text.getvalue().splitlines()
    assert lines[:3] == ["of a", "of b", "one of ours"] and "Traceback" in lines[3]
