"""How often a model has called tools in one turn, read from what it was asked and what it called."""

import copy
import json

import pytest

from pipecat_circuit_breaker._core.tool_rounds import ToolRounds, is_failure

RAISED = "The function `book` failed and returned no result."


def user(text="hello"):
    return {"role": "user", "content": text}


def assistant(text="hello"):
    return {"role": "assistant", "content": text}


def developer(text="go on"):
    return {"role": "developer", "content": text}


def call(id):
    function = {"name": "book", "arguments": "{}"}
    return {
        "role": "assistant",
        "tool_calls": [{"id": id, "type": "function", "function": function}],
    }


def result(id, content):
    return {"role": "tool", "tool_call_id": id, "content": content}


def runs_on(id):
    said = {"type": "async_tool", "status": "running", "tool_call_id": id}
    return {"role": "tool", "tool_call_id": id, "content": json.dumps(said)}


def has_run(id, said):
    payload = {
        "type": "async_tool",
        "status": "finished",
        "tool_call_id": id,
        "result": json.dumps(said),
    }
    return developer(json.dumps(payload))


GOOD, BAD = json.dumps({"seats": 4}), json.dumps({"error": "no route"})


class Conversation:
    """A user, a model and its tools."""

    def __init__(self, max_rounds=None, max_failed=None):
        self.rounds = ToolRounds(max_rounds, max_failed)
        self.messages = [user()]
        self.ask(by_user=True)

    def ask(self, *, by_user=False):
        self.rounds.asked(self.messages, by_user=by_user)
        return self.rounds

    def round(self, *results, asks=True):
        """The model calls as many tools at once, and is asked again."""
        ids = [f"call-{len(self.messages)}-{n}" for n in range(len(results))]
        self.rounds.called(dict.fromkeys(ids, (RAISED,)), ["book"] * len(ids))
        for id, content in zip(ids, results, strict=True):
            self.messages += [call(id), result(id, content)]
        if asks:
            self.ask()
        return ids

    @property
    def counts(self):
        return self.rounds.rounds, self.rounds.failed_rounds


def test__rounds__limit__is_reached_at_it_and_not_before():
    talk = Conversation(max_rounds=3)

    talk.round(GOOD)
    talk.round(GOOD)
    assert not talk.rounds.are_spent

    talk.round(GOOD)
    assert talk.rounds.are_spent


def test__failed_rounds__limit__is_reached_at_it_and_not_before():
    talk = Conversation(max_failed=2)

    talk.round(GOOD)
    talk.round(BAD)
    talk.round(GOOD)
    assert not talk.rounds.are_spent

    talk.round(BAD)
    assert talk.rounds.are_spent


def test__no_limits__hundred_rounds__never_spent():
    talk = Conversation()
    for _ in range(100):
        talk.round(BAD)

    assert talk.counts == (100, 100)
    assert not talk.rounds.are_spent


def test__several_calls_in_one_answer__are_one_round():
    talk = Conversation()

    talk.round(GOOD, GOOD, GOOD)

    assert talk.counts == (1, 0)


@pytest.mark.parametrize(
    ("results", "failed"), [((BAD, BAD), 1), ((BAD, GOOD), 0), ((GOOD, BAD), 0)]
)
def test__several_calls__failed__only_where_all_have(results, failed):
    talk = Conversation()

    talk.round(*results)

    assert talk.counts == (1, failed)


def test__several_calls__asked_while_one_still_runs__judged_once_it_is_over():
    talk = Conversation()

    talk.round(BAD, "IN_PROGRESS")
    assert talk.counts == (1, 0)

    talk.messages[-1]["content"] = BAD
    talk.ask()
    talk.ask()
    assert talk.counts == (1, 1)


def test__asked_again_without_a_call__counts_nothing():
    talk = Conversation()
    talk.round(BAD)

    talk.messages += [assistant(), developer()]
    talk.ask(by_user=True)

    assert talk.counts == (1, 1)


def test__user_speaks__count_starts_anew():
    talk = Conversation(max_rounds=1, max_failed=1)
    talk.round(BAD)
    talk.rounds.is_warned = talk.rounds.is_told = True

    talk.messages += [assistant("sorry"), user("try again")]
    talk.ask(by_user=True)

    assert talk.counts == (0, 0)
    assert not talk.rounds.are_spent
    assert not talk.rounds.is_warned
    assert not talk.rounds.is_told
    assert talk.rounds.tools == ()


def test__user_speaks_while_a_tool_runs__its_result_is_of_the_turn_before():
    talk = Conversation()
    talk.round("IN_PROGRESS", asks=False)
    running = talk.messages[-1]

    talk.messages.append(user("hello?"))
    talk.ask(by_user=True)
    running["content"] = BAD
    talk.ask()

    assert talk.counts == (0, 0)


def test__user_speaks__tool_of_before_returns_before_the_model_is_asked__count_starts_anew():
    talk = Conversation()
    for _ in range(3):
        talk.round(BAD)

    talk.messages.append(user("never mind"))
    talk.round(BAD, asks=False)
    talk.ask(by_user=True)

    assert talk.counts == (0, 0)


def test__same_message_is_appended_again__is_a_turn_each_time():
    talk = Conversation()
    again = talk.messages[0]
    for _ in range(3):
        talk.round(BAD)
        talk.messages += [again]
        talk.ask(by_user=True)

    assert talk.counts == (0, 0)


def test__same_words_where_the_latest_message_only_is_kept__are_a_turn_each_time():
    talk = Conversation()
    for _ in range(3):
        talk.round(BAD)
        talk.messages = [user()]
        talk.ask(by_user=True)

    assert talk.counts == (0, 0)


def test__conversation_is_copied__is_no_turn_of_the_user():
    talk = Conversation()
    for _ in range(3):
        talk.round(BAD, asks=False)
        talk.messages = copy.deepcopy(talk.messages)
        talk.ask(by_user=True)

    assert talk.counts == (3, 3)


def test__application_asks_by_itself_in_between__is_no_turn_of_the_user():
    talk = Conversation()
    for _ in range(3):
        talk.round(BAD)
        talk.messages.append(developer("the user is quiet"))
        talk.ask(by_user=True)

    assert talk.counts == (3, 3)


def test__messages_are_shortened_to_the_latest__rounds_are_still_counted():
    talk = Conversation(max_rounds=10)

    for _ in range(10):
        talk.round(GOOD, asks=False)
        del talk.messages[:-2]
        talk.ask()

    assert talk.rounds.are_spent


def test__messages_are_summed_up_as_if_by_the_user__rounds_are_still_counted():
    talk = Conversation(max_rounds=10)

    for _ in range(10):
        talk.round(GOOD, asks=False)
        talk.messages = [user("Conversation summary: they talk"), *talk.messages[-2:]]
        talk.ask()

    assert talk.rounds.are_spent


def test__messages_are_replaced__rounds_are_still_counted():
    talk = Conversation()

    for _ in range(3):
        talk.round(BAD, asks=False)
        talk.messages = [developer("you are at the next step")]
        talk.ask(by_user=True)

    assert talk.counts == (3, 0)


def picture():
    url = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    return user([{"type": "text", "text": "what do you see?"}, url])


def test__picture_that_a_tool_took__is_no_turn_of_the_user():
    talk = Conversation()

    for _ in range(3):
        talk.round(GOOD, asks=False)
        talk.messages.append(picture())
        talk.ask()

    assert talk.counts == (3, 0)


def test__picture_that_the_user_sent__is_a_turn_of_the_user():
    talk = Conversation()
    talk.round(GOOD)

    talk.messages += [assistant(), picture()]
    talk.ask(by_user=True)

    assert talk.counts == (0, 0)


def test__tool_that_runs_on__fails_later__is_a_failed_round():
    talk = Conversation()
    talk.rounds.called({"slow": ()}, ["book"])
    talk.messages += [call("slow"), runs_on("slow")]
    talk.ask()
    assert talk.counts == (1, 0)

    talk.messages += [assistant("one moment"), has_run("slow", {"error": "no route"})]
    talk.ask()

    assert talk.counts == (1, 1)


def test__tool_that_runs_on__succeeds_later__is_no_failed_round():
    talk = Conversation()
    talk.rounds.called({"slow": ()}, ["book"])
    talk.messages += [call("slow"), runs_on("slow"), has_run("slow", {"seats": 4})]

    talk.ask()

    assert talk.counts == (1, 0)


def test__messages_of_other_kinds__decide_nothing():
    talk = Conversation()

    talk.round(BAD, asks=False)
    talk.messages += [object(), {"role": "tool", "content": [1]}, {}]
    talk.ask()

    assert talk.counts == (1, 1)


def test__names__each_once_and_bounded():
    rounds = ToolRounds(None, None)

    rounds.called({"a": ()}, ["book", "book", "x" * 1000])
    rounds.names(f"tool-{n}" for n in range(100))

    assert rounds.tools[0] == "book"
    assert len(rounds.tools) == 16
    assert max(len(name) for name in rounds.tools) <= 64


def test__rounds_that_are_never_over__memory_is_bounded():
    talk = Conversation()

    for _ in range(100):
        talk.round("IN_PROGRESS")

    assert talk.counts == (100, 0)
    assert len(talk.rounds._awaited) <= 16


FAILURES = [
    {"error": "no route"},
    {"error": True},
    {"error": {"code": 500}},
    {"status": "error", "message": "no route"},
    {"status": "Failed"},
    {"success": False},
    {"ok": False, "reason": "closed"},
    {"isError": True, "content": []},
    "Error: no route",
    "error: no route",
    RAISED,
    json.dumps({"error": "no route"}),
]

RESULTS = [
    {"error": None},
    {"error": ""},
    {"error": False},
    {"error": [], "seats": 4},
    {"errors": ["one of the seats"], "seats": 4},
    {"status": "ok"},
    {"status": 500},
    {"success": True},
    {"success": None},
    {"ok": True},
    {"isError": False},
    {"available": False},
    {"text": "an error occurred", "nested": {"error": "in the data"}},
    "Errors went down by 3 % last year",
    "The function `other` failed and returned no result.",
    [{"error": "no route"}],
    "no route",
    404,
    False,
]


@pytest.mark.parametrize("said", FAILURES, ids=repr)
def test__result__says_that_it_failed__is_a_failure(said):
    assert is_failure(json.dumps(said), (RAISED,))


@pytest.mark.parametrize("said", RESULTS, ids=repr)
def test__result__says_anything_else__is_none(said):
    assert not is_failure(json.dumps(said), (RAISED,))


@pytest.mark.parametrize("said", ["COMPLETED", "CANCELLED", "IN_PROGRESS", "", "{", "[" * 50_000])
def test__no_json__is_no_failure(said):
    assert not is_failure(said)


def test__error_that_is_longer_than_any_error_message__is_no_failure():
    assert not is_failure(json.dumps({"error": "x" * 100_000}))


def test__cancelled_by_an_interruption__blames_nobody():
    talk = Conversation(max_failed=1)

    talk.round("CANCELLED")

    assert talk.counts == (1, 0)


@pytest.mark.parametrize(
    ("messages", "begins"),
    [
        ([{"role": "user", "content": "hi"}], True),
        ([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "so"}], True),
        ([{"role": "user", "content": "hi"}, {"role": "tool", "content": "done"}], False),
        ([{"role": "user", "content": [{"type": "image_url"}]}], False),
        ([{"role": "user", "content": [{"type": "text"}]}], True),
        ([], False),
    ],
)
def test__asked__not_known_by_whom__what_stands_last_says_whether_a_turn_begins(messages, begins):
    rounds = ToolRounds(10, None)
    rounds.called({"a": ()}, ["book"])
    rounds.asked(messages, by_user=False)
    assert rounds.rounds == (0 if begins else 1)
