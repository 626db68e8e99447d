"""Every error of NATS has its kind, and no secret is shown."""

import asyncio
import inspect

import nats.errors
import nats.js.errors
import pytest

from micro.backends.nats._connection import Connection, NatsAddress, translated
from micro.domain import errors

Kind = errors.Kind


def _errors_of(module: object) -> list[type[Exception]]:
    members = inspect.getmembers(module, inspect.isclass)
    return [each for _, each in members if issubclass(each, nats.errors.Error)]


ALL = sorted({*_errors_of(nats.errors), *_errors_of(nats.js.errors)}, key=lambda each: each.__qualname__)


def test_there_are_errors_to_translate() -> None:
    assert len(ALL) > 40


def _made(kind: type[Exception]) -> Exception:
    """One of that kind; what it wants to know is 400, or a text of two lines."""
    if not inspect.isfunction(kind.__init__):
        return kind("first\nsecond")
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    names = [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    return kind(**{name: 400 if "code" in name or "sequence" in name else "first\nsecond" for name in names})


@pytest.mark.parametrize("kind", ALL, ids=lambda each: each.__name__)
def test_every_error_of_nats_becomes_one_of_ours_in_one_line(kind: type[Exception]) -> None:
    ours = translated(_made(kind), "the subject")
    assert ours.message.startswith("the subject: ")
    assert "\n" not in ours.message


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (nats.errors.TimeoutError(), Kind.UNAVAILABLE),
        (TimeoutError(), Kind.UNAVAILABLE),
        (ConnectionRefusedError(111, "refused"), Kind.UNAVAILABLE),
        (nats.errors.NoRespondersError(), Kind.UNAVAILABLE),
        (nats.errors.ConnectionClosedError(), Kind.UNAVAILABLE),
        (nats.js.errors.NoStreamResponseError(), Kind.UNAVAILABLE),
        (nats.errors.MaxPayloadError(), Kind.RESOURCE_EXHAUSTED),
        (nats.errors.BadSubjectError(), Kind.INTERNAL),
        (nats.js.errors.NotFoundError(code=404, err_code=10059, description="stream not found"), Kind.NOT_FOUND),
        (nats.js.errors.BadRequestError(code=400, err_code=10071, description="wrong last sequence"), Kind.ABORTED),
        (nats.js.errors.APIError(code=503, err_code=10023, description="no space"), Kind.RESOURCE_EXHAUSTED),
        (nats.js.errors.APIError(code=503, err_code=10008, description="no leader"), Kind.UNAVAILABLE),
        (nats.js.errors.BadRequestError(code=400, err_code=10003, description="bad request"), Kind.INTERNAL),
        (errors.out_of_range("stays"), Kind.OUT_OF_RANGE),
    ],
)
def test_the_kind_says_whether_trying_again_helps(error: Exception, kind: Kind) -> None:
    assert translated(error, "subject").kind is kind


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("nats://h:4222", NatsAddress("nats://h:4222")),
        ("h:4222", NatsAddress("nats://h:4222")),
        ("tls://me:se%40cret@h:4222", NatsAddress("tls://h:4222", "me", "se@cret")),
        ("nats://[::1]:4222", NatsAddress("nats://[::1]:4222")),
    ],
)
def test_a_url_is_parted_into_what_can_be_shown_and_what_cannot(url: str, address: NatsAddress) -> None:
    parsed = NatsAddress.parse(url)
    assert parsed == address
    if parsed.password:
        assert parsed.password not in repr(parsed)


async def test_what_runs_while_connected_ends_when_the_connection_is_lost() -> None:
    connection = Connection(NatsAddress("nats://127.0.0.1:1"))

    async def ask() -> None:
        async with connection.unbroken():
            asked.set()
            await asyncio.Event().wait()

    asked = asyncio.Event()
    asking = asyncio.create_task(ask())
    await asked.wait()
    await connection._disconnected()
    with pytest.raises(errors.Error, match="lost") as caught:
        await asking
    assert caught.value.kind is Kind.UNAVAILABLE


async def test_a_time_limit_inside_stays_what_it_is() -> None:
    connection = Connection(NatsAddress("nats://127.0.0.1:1"))
    with pytest.raises(TimeoutError):
        async with connection.unbroken(), asyncio.timeout(0):
            await asyncio.Event().wait()


async def test_a_cancellation_that_the_client_library_swallows_is_not_lost() -> None:
    """An answer and a cancellation in the same moment: before Python 3.12 `wait_for` gives the answer only."""
    connection = Connection(NatsAddress("nats://127.0.0.1:1"))
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def ask() -> None:
        async with connection.unbroken():
            try:
                await answer
            except asyncio.CancelledError:
                return_normally.append(True)

    return_normally: list[bool] = []
    asking = asyncio.create_task(ask())
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert return_normally
