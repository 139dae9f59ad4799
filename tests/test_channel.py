"""What a channel is suspected of."""

from pipecat_circuit_breaker.channel import Channel


def test__one_kind_fails__others_are_not_suspected():
    channel = Channel()
    for _ in range(10):
        channel.failed("bad")
    assert channel.is_suspect("bad")
    assert not channel.is_suspect("good")


def test__two_kinds_fail_with_no_success_between__all_are_suspected():
    channel = Channel()
    channel.failed("app")
    channel.failed("error")
    assert channel.is_suspect("other")


def test__two_kinds_fail_with_a_success_between__others_are_not_suspected():
    channel = Channel()
    channel.failed("app")
    channel.succeeded("other")
    channel.failed("error")
    assert not channel.is_suspect("other")
    assert channel.is_suspect("app")
    assert channel.is_suspect("error")


def test__success_of_the_kind__clears_it():
    channel = Channel()
    channel.failed("app")
    channel.succeeded("app")
    assert not channel.is_suspect("app")


def test__kinds_without_end__are_bounded():
    channel = Channel()
    for n in range(10_000):
        channel.succeeded("good")
        channel.failed(str(n))
    assert channel.is_suspect("9999")
    assert not channel.is_suspect("0")
