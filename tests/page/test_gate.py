"""Answers of the page that end in an error after they have begun."""

import asyncio

import pytest

from captioning.page.gate import Gate


def messages(kind, bodies):
    """Return what is sent of an answer whose application fails behind its last body: (body, more is to come) pairs."""
    sent = []

    async def page(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        for body, more in bodies:
            await send({"type": "http.response.body", "body": body, "more_body": more})
        raise KeyError("defect")

    async def send(message):
        sent.append(message)

    gate = Gate(page, uploads=None, max_upload=1, hosts=[], check=None)
    scope = {"type": "http", "method": "GET", "path": "/config", "headers": [(b"host", b"localhost")]}
    asyncio.run(gate(scope, None, send))
    return [(message["body"], message.get("more_body", False)) for message in sent[1:]]


@pytest.mark.parametrize(
    ("kind", "bodies", "expected"),
    [
        (b"text/csv", [(b"half", True)], [(b"half", True)]),  # it is not ended, or it would look whole
        (b"text/csv", [(b"all", False)], [(b"all", False)]),  # nothing may follow the end
        (b"text/event-stream", [(b"data: 1", True)], [(b"data: 1", True), (b"", False)]),
        (b"text/event-stream; charset=utf-8", [(b"data: 1", False)], [(b"data: 1", False)]),
    ],
)
def test_an_answer_that_fails_ends_if_it_is_a_stream_that_has_not_ended(kind, bodies, expected, capsys):
    assert messages(kind, bodies) == expected
    assert "KeyError" in capsys.readouterr().err
