"""Reading an execute request: every value keeps the text that it was written in."""

from __future__ import annotations

import json

import pytest
from exec_svc.json_fields import top_level_fields
from exec_svc.rest import parse
from sandbox_rpc.errors import InvalidParameter


@pytest.mark.parametrize(
    "event",
    [
        "{}",
        '{"z":1,"a":2}',
        '{ "n" : 9007199254740993 }',
        '{"n": ' + "7" * 6000 + "}",
        '{"f": 1E400, "g": 1.0, "h": -0.0}',
        '{"s": "é\\u00e9\\ud83d\\ude00", "t": "\\""}',
        '{"d": {"d": [[[{}]]]}, "l": [1, null, true]}',
    ],
)
@pytest.mark.parametrize("around", ['{{"event":{}}}', ' {{ "code":"x" ,\n "event" : {} }} '])
def test_the_text_of_a_value_is_kept(event: str, around: str) -> None:
    assert top_level_fields(around.format(event).encode())["event"][1] == event


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"code": 1', "not valid JSON"),
        (b'{"code" 1}', "not valid JSON"),
        (b'{"a":1 "b":2}', "not valid JSON"),
        (b'{"a":1,}', "not valid JSON"),
        (b"{'a':1}", "not valid JSON"),
        (b'{"a":1} x', "not valid JSON"),
        (b'{"a":NaN}', "NaN is not JSON"),
        (b'{"a":Infinity}', "Infinity is not JSON"),
        (b'{"a":"\xff"}', "not valid JSON"),
        (b'{"a":1,"a":2}', "'a' appears twice"),
        (b'{"a":' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_broken_json_is_refused_with_a_reason(body: bytes, words: str) -> None:
    with pytest.raises(InvalidParameter, match=words):
        top_level_fields(body)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"code": None}, "'code' is required"),
        ({"code": 1}, "'code' must be a string"),
        ({"code": ""}, "'code' must have 1 to 102400 bytes"),
        ({"code": "é" * 51_201}, "'code' must have 1 to 102400 bytes"),
        ({"code": "a\0b"}, "NUL"),
        ({"code": "\ud800"}, "'code' must be valid Unicode"),
        ({"language": None}, "'language' is required"),
        ({"language": "ruby"}, "'language' must be one of python, javascript, shell"),
        ({"timeout": 0}, "'timeout' must be between 1 and 3600"),
        ({"timeout": 3601}, "'timeout' must be between 1 and 3600"),
        ({"timeout": 1.5}, "'timeout' must be an integer"),
        ({"timeout": True}, "'timeout' must be an integer"),
        ({"timeout": 10**30}, "'timeout' must be an integer"),
        ({"event": []}, "'event' must be a JSON object"),
        ({"event": {"a": "x" * 1024 * 1024}}, "'event' must have at most 1048576 bytes"),
        ({"env_vars": {"A": 1}}, "'env_vars' must be an object of strings"),
        ({"env_vars": {"A=B": "1"}}, "'env_vars': the name"),
        ({"env_vars": {"A": "\0"}}, "NUL"),
        ({"env_vars": {"A": "x" * 65_536}}, "'env_vars' must have at most 65536 bytes"),
        ({"stdin": "x" * (1024 * 1024 + 1)}, "'stdin' must have at most 1048576 bytes"),
    ],
)
def test_a_field_out_of_range_is_named_with_its_limit(
    change: dict[str, object], words: str
) -> None:
    body = {"code": "print(1)", "language": "python"} | change
    with pytest.raises(InvalidParameter, match=words):
        parse("sess_x", json.dumps(body).encode())


def test_what_is_absent_takes_its_default_and_what_is_unknown_is_ignored() -> None:
    new = parse("sess_x", b'{"code":"x","language":"shell","timeout":null,"colour":"red"}')
    assert (new.timeout, new.event_json, new.env_vars, new.stdin) == (30, b"{}", {}, None)


def test_equal_requests_have_one_digest_and_others_another() -> None:
    base = b'{"code":"x","language":"shell"%s}'
    same = [parse("s", base % b""), parse("s", base % b',"timeout":30')]
    others = [
        parse("t", base % b""),
        parse("s", base % b',"timeout":31'),
        parse("s", base % b',"event":{"a":1}'),
        parse("s", base % b',"stdin":""'),
        parse("s", base % b',"env_vars":{"A":"1"}'),
    ]
    assert len({new.digest for new in same}) == 1
    assert len({new.digest for new in [same[0], *others]}) == 6
