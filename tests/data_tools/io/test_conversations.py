"""Conversations in the forms of published sets become the messages that chat templates know."""

import json

import pytest

from data_tools.io.conversations import talks_of
from jaxpt.errors import JaxptError

CALL = {"name": "weather", "arguments": {"city": "Zürich", "days": 2}}
CALLED = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": CALL}]}
SIGNATURE = {"name": "weather", "description": "of a city", "parameters": {"type": "object"}}
TOOLS = [{"type": "function", "function": SIGNATURE}]
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Rain?"},
    CALLED,
    {"role": "tool", "content": '{"rain": true}'},
    {"role": "assistant", "content": "Yes."},
]
SHAREGPT = [
    {"from": "human", "value": "Rain?"},
    {"from": "function_call", "value": json.dumps(CALL)},
    {"from": "observation", "value": '{"rain": true}'},
    {"from": "gpt", "value": "Yes."},
]
PARTS = [
    {"role": "system", "content": [{"type": "text", "value": "Be brief."}]},
    {"role": "user", "content": [{"type": "text", "text": "Ra"}, {"type": "text", "text": "in?"}]},
    {"role": "assistant", "content": [{"type": "tool_call", "value": json.dumps(CALL)}]},
    {"role": "tool", "content": [{"type": "text", "value": '{"rain": true}'}]},
    {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": MESSAGES, "tools": TOOLS},
        {"messages": json.dumps(MESSAGES), "tools": json.dumps(TOOLS)},
        {"messages": PARTS, "tools": [SIGNATURE], "conversations": None},
        {"conversations": SHAREGPT, "system": "Be brief.", "tools": json.dumps([SIGNATURE])},
        {"messages": None, "conversations": [{"role": "system", "content": "Be brief."}, *SHAREGPT], "tools": TOOLS},
    ],
    ids=["messages", "json text", "parts", "sharegpt", "mixed keys"],
)
def test_every_form_of_one_conversation_gives_the_same_messages(record):
    assert talks_of(record) == [{"messages": MESSAGES, "tools": TOOLS}]


def test_an_instruction_with_input_and_history_is_a_conversation_of_several_turns():
    record = {"instruction": "Add.", "input": "1 2", "output": "3", "history": [["Hi", "Hello"]], "system": "Be brief."}
    roles = ["system", "user", "assistant", "user", "assistant"]
    texts = ["Be brief.", "Hi", "Hello", "Add.\n1 2", "3"]
    want = [{"role": role, "content": text} for role, text in zip(roles, texts)]
    assert talks_of(record) == [{"messages": want}]
    assert talks_of({"instruction": "Add.", "input": "", "output": "3"})[0]["messages"][0]["content"] == "Add."


def test_each_instance_of_a_task_is_a_conversation():
    instances = [{"input": "a", "output": "b"}, {"input": "c", "output": "d"}]
    made = talks_of({"instruction": "Next.", "instances": instances})
    assert [t["messages"][0]["content"] for t in made] == ["Next.\na", "Next.\nc"]


def test_calls_side_by_side_are_one_turn_and_reasoning_is_kept_beside_the_text():
    turns = [{"from": "human", "value": "?"}, {"from": "function_call", "value": json.dumps([CALL, CALL])}]
    assert len(talks_of({"conversations": turns})[0]["messages"][1]["tool_calls"]) == 2
    parts = [{"type": "reasoning", "value": "hm"}, {"type": "text", "value": "yes"}]
    talk = talks_of({"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": parts}]})[0]
    assert talk["messages"][1] == {"role": "assistant", "content": "yes", "reasoning_content": "hm"}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "a"}, "is no conversation: it has text, not messages"),
        ({"conversations": [{"from": "human", "value": "?"}]}, "the assistant says nothing"),
        ({"conversations": [{"from": "narrator", "value": "?"}]}, "has the role 'narrator'; known are user"),
        ({"conversations": [{"from": "function_call", "value": "{no"}]}, "a function call is text that is not JSON"),
        ({"conversations": [{"from": "function_call", "value": "{}"}]}, "a tool call must be an object with"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "a part of kind image"),
        ({"messages": MESSAGES, "tools": "[no"}, "tools is text that is not JSON"),
        ({"messages": MESSAGES, "tools": ["weather"]}, "tools hold str, not function signatures"),
        ({"messages": ["hello"]}, "a turn is str, not an object"),
        ({"instruction": "a", "output": None}, "is no conversation"),
    ],
)
def test_what_is_no_conversation_is_named(record, message):
    with pytest.raises(JaxptError, match=message.replace("{", r"\{")):
        talks_of(record)
