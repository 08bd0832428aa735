"""What a secret looks like, so that none is written down: known forms of keys, in one list.

The forms are those of gitleaks (config/gitleaks.toml), detect-secrets (its plugins) and the
providers' pages. A secret of another form passes, so never put one into a setting.
"""

from __future__ import annotations

import base64
import binascii
import re

HIDDEN = "***"
KEPT_APART = (
    "Put the key into an environment variable such as OPENAI_API_KEY, and only the variable's name "
    "into endpoint.key_variable"
)
# What a key begins with, and how it goes on; by provider.
KEYS = {
    "OpenAI, Anthropic, OpenRouter, DeepSeek, Langfuse": r"sk-[A-Za-z0-9_-]{16,}",
    "Groq": r"gsk_[A-Za-z0-9]{16,}",
    "Google": r"AIza[A-Za-z0-9_-]{30,}|ya29\.[A-Za-z0-9_-]{20,}|GOCSPX-[A-Za-z0-9_-]{20,}",
    "Hugging Face": r"(?:hf|api_org)_[A-Za-z0-9]{20,}",
    "GitHub": r"gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}",
    "GitLab": r"gl(?:pat|dt|ft|rt|cbt|ptt|oas|soat|agent|imt)-[A-Za-z0-9_-]{16,}",
    "Slack": r"xox[a-z]-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{10,}",
    "AWS": r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}|bedrock-api-key-[A-Za-z0-9+/=]{16,}",
    "NVIDIA": r"nvapi-[A-Za-z0-9_-]{20,}",
    "Replicate": r"r8_[A-Za-z0-9]{20,}",
    "Together": r"tgp_v1_[A-Za-z0-9_-]{20,}",
    "Perplexity, xAI, Cerebras": r"(?:pplx|xai|csk)-[A-Za-z0-9]{20,}",
    "Fireworks": r"fw_[A-Za-z0-9]{20,}",
    "Stripe": r"[rs]k_(?:live|test)_[A-Za-z0-9]{10,}",
    "LangSmith": r"lsv2_(?:pt|sk)_[A-Za-z0-9_]{20,}",
    "Weights & Biases": r"wandb_v1_[A-Za-z0-9_]{20,}",
    "Databricks": r"dapi[a-f0-9]{32}",
    "Tavily, Jina, Pinecone, E2B": r"tvly-[A-Za-z0-9_-]{16,}|(?:jina|pcsk|e2b)_[A-Za-z0-9_]{30,}",
    "npm, PyPI": r"npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{30,}",
    "SendGrid": r"SG\.[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{16,}",
    "Telegram": r"[0-9]{8,10}:AA[A-Za-z0-9_-]{32,}",
    "HashiCorp Vault, Grafana": r"hvs\.[A-Za-z0-9_-]{20,}|glsa_[A-Za-z0-9_]{30,}",
}
_NAMED = (
    r"[a-z0-9_-]{0,40}(?:api[-_ ]?key|subscription-key|access[-_]?token|auth[-_]?token"
    r"|refresh[-_]?token|id[-_]token|session[-_]?token|secret[-_]?(?:access[-_]?)?key"
    r"|client[-_]?secret|private[-_]key|password|passwd|secret)"
)
_QUERY = (
    r"(?:[a-z0-9_-]{0,20}key|[a-z0-9_-]{0,20}token|password|secret|sig|signature"
    r"|x-amz-(?:signature|credential))"
)
_QUOTE = r"\\?[\"']"
# Each with what stays, as group 1; the rest is hidden.
_FORMS = (
    re.compile(
        r"(-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY-----).*?"
        r"(?:(?=-----END [A-Z0-9 ]{0,30}PRIVATE KEY)|\Z)",
        re.S,
    ),
    re.compile(r"(://)[^/\s\"'<>\\]*(?=@)"),
    re.compile(rf"((?<![A-Za-z0-9]))(?:{'|'.join(KEYS.values())})"),
    re.compile(
        r"((?<![A-Za-z0-9_-]))eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?"
    ),  # JSON web token
    re.compile(r"(?i)(\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}"),
    re.compile(
        rf"(?i)(\bauthorization(?:{_QUOTE})?\s*[=:]\s*(?:{_QUOTE})?(?:[a-z-]+\s+)?)"
        r"[^\s\"',;\\]{6,}"
    ),
    re.compile(rf"(?i)([?&#]{_QUERY}=)[^\s&#\"'<>\\]+"),
    re.compile(
        rf"(?i)((?<![a-z0-9_-]){_NAMED}(?:{_QUOTE})?(?:\s*[=:]\s*)(?:{_QUOTE})?)[^\s\"',;&\\]{{6,}}"
    ),
)
_LONG_WORD = 20  # letters from which a name without underscores is a key
# Of a language, not drawn at random.
_WORDS = re.compile(r"[A-Za-z]*[a-z][.!?:)]*|[a-z]+(?:[-_.][a-z]+)+")
_CALL = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+[(\[].*")  # of a program: api_key = settings.get(
_ASSIGNED = re.compile(r"=|[\"']\Z")  # what is told to be a value, even where it is a word


def redact(text: str) -> str:
    """Return a text with ``***`` for what looks like a key, a password or a token.

    Hidden are the forms of ``KEYS``, credentials in addresses, JSON web tokens, ``Bearer ..`` and
    ``Basic ..``, PEM private keys, and values of ``api_key=..``, ``"password": ".."``,
    ``?token=..`` and the like. Redacting twice changes nothing.
    """
    while True:
        hidden = text
        for form in _FORMS:
            hidden = form.sub(_hide, hidden)
        if hidden == text:
            return text
        text = hidden


def check_no_secret(name: str, value: str, advice: str = "") -> None:
    """Check that a text which will be written down holds nothing that looks like a secret.

    Raises
    ------
    ValueError
        If it does; the text names the place, and shows nothing of the value.
    """
    if redact(value) != value:
        raise ValueError(
            f"{name} holds what looks like a key or a password, and would be written down with the "
            f"results. {advice or KEPT_APART}, and make a new key if this one was shown to anybody"
        )


def check_address(name: str, url: str) -> None:
    """Check that an address holds no user and no password, also one that is not written well.

    Raises
    ------
    ValueError
        If it does; the text does not show it.
    """
    place = url.partition("?")[0].partition("://")[2] or url
    if re.search(r"[^/]@", place):
        raise ValueError(
            f"{name} holds a user or a password before an @; give the address alone. {KEPT_APART}"
        )


def check_variable(name: str, variable: str) -> None:
    """Check that a text is the name of an environment variable, and not the key itself.

    Raises
    ------
    ValueError
        If it is no name, or looks like a key: a known form, or many letters and digits with no
        underscore. The text does not show it.
    """
    drawn = len(variable) >= _LONG_WORD and "_" not in variable
    if variable and (drawn or redact(variable) != variable or not variable.isidentifier()):
        raise ValueError(
            f"{name} is the name of an environment variable, not the key itself: put the key into "
            "OPENAI_API_KEY, leave the setting, and make a new key if this one was shown to anybody"
        )


def _hide(match: re.Match) -> str:
    before = match[1]
    secret = match[0][len(match[1]) :]
    kept = not secret or secret == HIDDEN or _is_harmless(before, secret)
    return match[0] if kept else before + HIDDEN


def _is_harmless(before: str, secret: str) -> bool:
    """Whether words only look like a key: "basic understanding", "sk-learn-estimators"."""
    name = before.strip().lower()
    if name.endswith("basic") and "authorization" not in name:
        return not _is_login(secret)
    if name.endswith("://") or _ASSIGNED.search(before) or "-----" in name:
        return _CALL.fullmatch(secret) is not None
    return _WORDS.fullmatch(secret.removeprefix("sk-") if "-" in secret[3:] else secret) is not None


def _is_login(text: str) -> bool:
    try:
        return b":" in base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
