"""Secrets: known forms are hidden, ordinary text is not, and none is written down in the first
place.
"""

import base64
import json
import re

import nbformat
import pytest
from conftest import real_data
from hypothesis import given, settings
from hypothesis import strategies as st

from negfail_nb.__main__ import main
from negfail_nb.notebooks import with_parameters
from negfail_nb.secrets import KEYS, redact
from negfail_nb.settings import EndpointSettings, get_profile

DRAWN = "aB3dE5fG7hJ9kL1mN3pQ5rS7tU9vW1xY3z"  # 34 letters and digits
BEGINNINGS = (
    *(
        "sk-",
        "sk-proj-",
        "sk-ant-api03-",
        "sk-or-v1-",
        "gsk_",
        "hf_",
        "ghp_",
        "gho_",
        "github_pat_",
        "glpat-",
    ),
    *(
        "nvapi-",
        "r8_",
        "pplx-",
        "xai-",
        "csk-",
        "fw_",
        "tgp_v1_",
        "sk_live_",
        "lsv2_pt_",
        "npm_",
        "tvly-",
        "hvs.",
    ),
)
KNOWN = {
    **{
        f"{begin}{DRAWN}": "***"
        for begin in ("sk-", "sk-proj-", "sk-ant-api03-", "sk-or-v1-", "gsk_", "hf_", "ghp_")
    },
    **{
        f"{begin}{DRAWN}": "***"
        for begin in ("gho_", "github_pat_", "glpat-", "nvapi-", "r8_", "pplx-", "xai-", "csk-")
    },
    **{
        f"{begin}{DRAWN}": "***"
        for begin in ("fw_", "tgp_v1_", "sk_live_", "lsv2_pt_", "npm_", "tvly-", "hvs.")
    },
    f"AIza{DRAWN}x": "***",
    "AKIAIOSFODNN7EXAMPLE": "***",
    "xoxb-123456789012-abcdef": "***",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmVk": "***",
    "http://token@host/v1": "http://***@host/v1",
    "http://user:pw@host/v1": "http://***@host/v1",
    "redis://:p@ss@host:6379/0": "redis://***@host:6379/0",
    f"Authorization: Bearer {DRAWN}": "Authorization: Bearer ***",
    "Authorization: Basic dXNlcjpwYXNzd29yZA==": "Authorization: Basic ***",
    f"Basic {base64.b64encode(b'me:my word').decode()}": "Basic ***",
    "api_key=hunter22": "api_key=***",
    "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCY": "AWS_SECRET_ACCESS_KEY=***",
    '{"api-key": "0123456789abcdef"}': '{"api-key": "***"}',
    r"{\"password\": \"letmein\"}": r"{\"password\": \"***\"}",
    "x-api-key: 0123456789abcdef": "x-api-key: ***",
    "https://host/a?b=1&key=abc&c=2": "https://host/a?b=1&key=***&c=2",
    "https://host/a?token=abc": "https://host/a?token=***",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----": (
        "-----BEGIN RSA PRIVATE KEY-----***-----END RSA PRIVATE KEY-----"
    ),
    r"-----BEGIN PRIVATE KEY-----\nMIIE": "-----BEGIN PRIVATE KEY-----***",
}
ORDINARY = (
    "a basic understanding of bearer certificates",
    "Password: required. The secret: everything. token: 12345",
    "sk-learn-compatible-estimators, task-sk-ipped, hf-internal-testing/tiny, hf_agent_logs",
    "https://medium.com/@user/post and mail to x@y.z; https://host/@cf/meta/llama",
    "api_key = requestor.request(url)",
    "pad_token: <|finetune_right_pad|>",
)


@pytest.mark.parametrize("text", KNOWN)
def test_a_known_form_is_hidden_wherever_it_stands(text):
    assert redact(text) == KNOWN[text]
    around = redact(f"it said <{text}>\nand went on")
    assert around.startswith("it said <") and (text not in around)


def test_there_is_an_example_of_most_of_the_list():
    found = [re.search(pattern, text) for pattern in KEYS.values() for text in KNOWN]
    assert sum(map(bool, found)) >= 16


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays(text):
    assert redact(text) == text


def test_in_public_logs_only_what_has_the_form_of_a_key_is_hidden():
    """Models make up Google keys in two of them; nothing else is touched."""
    for path in sorted(real_data("trajectories").rglob("*.json*"))[:12]:
        text = path.read_text(encoding="utf-8", errors="replace")[:200_000]
        assert redact(text) == re.sub(KEYS["Google"], "***", text), path.name


PIECES = st.sampled_from(
    [
        *KNOWN,
        *ORDINARY,
        "http://",
        "@",
        "/",
        "key=",
        "password=",
        "***",
        "Bearer ",
        "-----BEGIN ",
        "?",
    ]
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=12).map("".join))
def test_twice_is_as_once_and_nothing_raises(text):
    once = redact(text)
    assert redact(once) == once


HARD = [
    "sk-",
    "://",
    "://a@",
    "eyJabcdefgh-",
    "password ",
    "authorization: ",
    "?key=",
    "-----BEGIN PRIVATE KEY-----",
]


@pytest.mark.parametrize("piece", HARD)
def test_a_megabyte_of_beginnings_ends(piece):
    """Were the work quadratic, this would take hours."""
    once = redact(piece * (500_000 // len(piece)))
    assert redact(once) == once


SECRET = "gsk_" + DRAWN
REFUSED = [
    {"base_url": "http://user:pw-canary@host/v1"},
    {"base_url": "user:pw-canary@host/v1"},
    {"base_url": "http://pw-canary@host"},
    {"base_url": "http://a:b/pw-canary@host"},
    {"base_url": "http://host/v1?key=pw-canary"},
    {"key_variable": "gsk_canary" + DRAWN},
    {"key_variable": "canary" + DRAWN},
    {"key_variable": "canary-5"},
    {"model": "sk-canary" + DRAWN},
]


@pytest.mark.parametrize("values", REFUSED, ids=lambda values: next(iter(values.values()))[:12])
def test_a_secret_in_a_setting_is_refused_before_anything_is_written_and_never_shown(
    values, tmp_path, capsys, caplog
):
    with pytest.raises(ValueError, match="variable") as raised:
        EndpointSettings(**values)
    assert "canary" not in str(raised.value)
    ((name, value),) = values.items()
    for command in ("run", "settings", "collect", "experiment"):
        assert main([command, "--home", str(tmp_path), "--set", f"endpoint.{name}={value}"]) == 1
    said = capsys.readouterr()
    assert "canary" not in said.out + said.err + caplog.text and "variable" in said.err
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize(
    "given", [f"endpoint.api_key={SECRET}", f"endpoint={SECRET}", SECRET, f"live.seed={SECRET}"]
)
def test_no_error_of_the_command_line_repeats_a_key(given, tmp_path, capsys):
    assert main(["settings", "--home", str(tmp_path), "--set", given]) == 1
    assert DRAWN not in "".join(capsys.readouterr())


def test_addresses_and_names_of_variables_stay_free():
    EndpointSettings(
        base_url="https://api.host/accounts/1/ai/@cf/v1",
        key_variable="MY_VERY_OWN_OPENAI_API_KEY_2",
    )
    assert (
        get_profile("pocket")
        .change(endpoint={"base_url": "http://10.0.0.1:8000/v1"})
        .endpoint.key_variable
    )


def test_a_notebooks_parameters_hold_no_secret():
    cell = nbformat.v4.new_code_cell("home = '.'", metadata={"tags": ["parameters"]})
    with pytest.raises(
        ValueError, match="a parameter of the notebook holds what looks like a key"
    ) as raised:
        with_parameters(
            nbformat.v4.new_notebook(cells=[cell]), {"home": f"https://me:{DRAWN}@host"}
        )
    assert DRAWN not in json.dumps(str(raised.value))
