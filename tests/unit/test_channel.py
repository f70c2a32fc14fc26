"""Framed messages, whole and in pieces, and what is no message."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.errors import TooLarge
from tidemill.executors.channel import MAX_BYTES, Channel, ChannelBroken, ChannelClosed, Decoder, Link, encode

Pair = tuple[Link, Channel]

texts = st.text(st.characters())
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
messages = st.dictionaries(texts, values, max_size=4)


@pytest.fixture
def pair() -> Any:
    ours, theirs = socket.socketpair()
    link, channel = Link(ours), Channel(theirs)
    yield link, channel
    link.close()
    channel.close()


def frame(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


@given(st.lists(messages, max_size=5), st.integers(3, 60))
def test_messages_survive_any_cut(sent: list[dict[str, Any]], step: int) -> None:
    data = b"".join(encode(message) for message in sent)
    decoder = Decoder()
    for start in range(0, len(data), step):
        decoder.feed(data[start : start + step])
    assert list(decoder.messages) == sent


@given(st.binary(max_size=200))
def test_any_bytes_are_messages_or_broken(data: bytes) -> None:
    decoder = Decoder()
    try:
        decoder.feed(data)
    except ChannelBroken:
        pass
    assert all(isinstance(message, dict) for message in decoder.messages)


@pytest.mark.parametrize(
    "garbage, words",
    [
        (struct.pack(">I", MAX_BYTES + 1), "a frame of 16,777,217 bytes"),
        (frame(b"[1]"), "not a JSON object"),
        (frame(b"{x"), "not JSON"),
        (frame(b"\xff\xfe\xfd"), "not JSON"),
        (frame(b"[" * 100_000), "not JSON"),
    ],
)
def test_what_is_no_message_breaks_but_keeps_what_came_before(pair: Pair, garbage: bytes, words: str) -> None:
    link, channel = pair
    decoder = Decoder()
    with pytest.raises(ChannelBroken, match=words):
        decoder.feed(encode({"good": 1}) + garbage)
    assert list(decoder.messages) == [{"good": 1}]
    channel._sock.sendall(encode({"good": 1}) + garbage + encode({"late": 1}))
    assert link.receive() == [{"good": 1}]
    assert link.closed
    assert words in (link.broken or "")


def test_too_large_messages_are_refused_before_they_are_sent(pair: Pair) -> None:
    link, channel = pair
    with pytest.raises(TooLarge, match="at most 16,777,216"):
        channel.send({"x": "a" * MAX_BYTES})
    with pytest.raises(TooLarge):
        link.post({"x": "a" * MAX_BYTES})
    assert link.receive() == []
    assert not link.closed


def test_largest_message_passes_without_the_link_ever_waiting(pair: Pair) -> None:
    link, channel = pair
    message = {"x": "a" * (MAX_BYTES - len(json.dumps({"x": ""}, separators=(",", ":"))))}
    link.post(message)
    link.flush()
    assert link.pending
    got: list[Any] = []
    reader = threading.Thread(target=lambda: got.append(channel.receive()))
    reader.start()
    while link.pending:
        link.flush()
    reader.join()
    assert got == [message]


def test_threads_do_not_mix_their_messages(pair: Pair) -> None:
    link, channel = pair

    def speak(name: int) -> None:
        for number in range(50):
            channel.send({"name": name, "number": number, "fill": "x" * 5_000})

    threads = [threading.Thread(target=speak, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    seen: list[dict[str, Any]] = []
    while len(seen) < 200:
        seen += link.receive()
    for thread in threads:
        thread.join()
    for name in range(4):
        assert [message["number"] for message in seen if message["name"] == name] == list(range(50))


def test_one_call_is_bounded_and_none_reads_to_the_end(pair: Pair) -> None:
    link, channel = pair
    writer = threading.Thread(target=lambda: [channel.send({"fill": "x" * 100_000}) for _ in range(60)])
    writer.start()
    seen = 0
    while seen < 30:
        got = len(link.receive(200_000))
        assert got <= 4
        seen += got
    while seen < 60:
        seen += len(link.receive(None))
    writer.join()
    assert (seen, link.closed) == (60, False)


def test_end_is_seen_on_both_sides(pair: Pair) -> None:
    link, channel = pair
    channel.send({"last": True})
    channel.close()
    assert (link.receive(), link.closed, link.broken) == ([{"last": True}], True, None)
    link.post({"nobody": "hears"})
    link.flush()
    assert (link.pending, link.mute) == (False, True)


def test_child_sees_the_end_of_the_worker(pair: Pair) -> None:
    link, channel = pair
    link.post({"last": True})
    link.flush()
    link.close()
    assert channel.receive() == {"last": True}
    assert channel.receive() is None
    with pytest.raises(ChannelClosed):
        channel.send({"nobody": "hears"})


def test_a_peer_that_left_things_unread_is_an_end_not_an_error(pair: Pair) -> None:
    link, channel = pair
    channel.send({"said": 1})
    link.post({"unread": 1})
    link.flush()
    channel.close()
    assert (link.receive(), link.closed) == ([{"said": 1}], True)


def test_descriptors_arrive_in_order_and_are_not_passed_on_to_programs() -> None:
    ours, theirs = socket.socketpair()
    sender, receiver = Link(ours), Link(theirs)
    pipes = [os.pipe() for _ in range(3)]
    for number, (_, write) in enumerate(pipes):
        sender.post({"number": number}, [write])
    sender.post({"number": 3})
    sender.flush()
    assert [message["number"] for message in receiver.receive()] == [0, 1, 2, 3]
    assert len(receiver.fds) == 3
    for number, fd in enumerate(receiver.fds):
        assert not os.get_inheritable(fd)
        os.write(fd, bytes([number]))
    assert [os.read(read, 1) for read, _ in pipes] == [b"\0", b"\1", b"\2"]
    adopted = list(receiver.fds)
    receiver.close()
    for fd in adopted:
        with pytest.raises(OSError):
            os.fstat(fd)
    sender.close()
    for ends in pipes:
        for fd in ends:
            os.close(fd)
