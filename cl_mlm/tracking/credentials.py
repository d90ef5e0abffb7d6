"""Takes user names, passwords and tokens out of texts that are shown, kept or sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, quote_plus, unquote, urlsplit

# An address as it stands in a text: to the next white space, or to the quote that ends it in JSON or a list.
_ADDRESS: Final = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*)://(?P<rest>(?:(?![\"'][,:}\])])\S)*)")
_PORT: Final = r"\d*(?:[/?#,;.)\]}\"'\s]|$)"
# A name, a colon and what is no port: a password, whatever it holds.
_PASSWORD: Final = re.compile(rf"[^\s/:@\"'?#\[]*:(?!{_PORT})")
DATABASES: Final = ("postgresql", "postgres", "mysql", "mssql")
_FOREIGN_TO_WEB: Final = re.compile(r"[^\w.~!$&'()*+,;=:%-]", re.ASCII)
_FOREIGN_TO_DATABASE: Final = re.compile(r"@")
# A database takes a password with blanks as it stands.
_BLANKS: Final = re.compile(rf"(?P<scheme>[A-Za-z][\w+.-]*)://[^\s/:@\"'?#\[]+:(?!{_PORT})\S[^@\n\"']*[ \t][^@\n\"']*@")
_SECRET: Final = r"pass(?:word|wd|phrase)?|pwd|token|secret|key|credentials?|odbc_connect|signature|(?<![a-z])sig"
_QUERY: Final = re.compile(rf"(?i)([?&;](?:[^=&;\s]*(?:{_SECRET})[^=&;\s]*|user|uid)=)[^&;\s'\"]*")
# As drivers write what they connect to.
_SETTING: Final = re.compile(r"(?i)(?<![\w.])((?:password|passwd|pwd|access_token|auth_token)\s?=\s?)[^\s,;'\"&)]+")
_HEADER: Final = re.compile(r"(?i)(\bauthorization\W+(?:basic|bearer)\s+)[^\s'\"]+")


def without_credentials(text: str) -> str:
    """Returns `text` without the user names, passwords and secret query arguments of the addresses in it.

    A colon, digits and a slash are read as a web server's port, whatever follows.
    """
    text = _BLANKS.sub(r"\g<scheme>://", text)
    text = _ADDRESS.sub(lambda found: f"{found['scheme']}://{found['rest'][login_end(**found.groupdict()) :]}", text)
    text = _QUERY.sub(r"\1***", text)
    text = _SETTING.sub(r"\1***", text)
    return _HEADER.sub(r"\1***", text)


def cleaned(value: Any) -> Any:
    """Returns nested plain values with `without_credentials` done to every text in them, keys left alone.

    Text by text: within JSON or YAML, the end of a secret could not be told from a quote in it.
    """
    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, Mapping):
        return {key: cleaned(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [cleaned(item) for item in value]
    return value


def secrets_of(address: str) -> set[str]:
    """Returns the password of an address in every form in which an error may hold it; empty: it has none."""
    scheme, _, rest = address.partition("://")
    password = rest[: max(login_end(scheme, rest) - 1, 0)].partition(":")[2]
    plain = unquote(password)
    return {password, plain, quote(plain, safe=""), quote_plus(plain)} - {""}


def address_fault(address: str) -> str | None:
    """Returns why nothing can be connected to at an address; None: nothing speaks against it.

    Libraries refuse such an address with a part of the password in their messages.
    """
    scheme, _, rest = address.partition("://")
    end, is_web = login_end(scheme, rest), scheme.lower() in ("http", "https")
    foreign = _FOREIGN_TO_WEB if is_web else _FOREIGN_TO_DATABASE
    if found := sorted({*foreign.findall(rest[: max(end - 1, 0)])}):
        codes = ", ".join(f"{'a blank' if one.isspace() else one} is {quote(one, safe='')}" for one in found)
        return f"user name and password must be percent-encoded ({codes})"
    try:
        parts = urlsplit(f"//{re.split('[/?#]', rest[end:])[0]}")
        is_reachable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_reachable = False
    has_host = is_web or (scheme.partition("+")[0] in DATABASES and not rest.startswith(("/", "?")))
    return "must name a host, and a port as a number" if has_host and not is_reachable else None


def login_end(scheme: str, rest: str) -> int:
    """Returns where in an address, behind its `://`, user name and password end; 0: it has none."""
    before_path, before_query = rest.partition("/")[0], rest.partition("?")[0]
    # A slash ends the host of a web address; a database takes one in a password, be its beginning digits or not.
    is_database = not scheme.lower().startswith("http") and not rest.startswith("[") and ":" in before_path
    if is_database and "@" in before_query:
        return before_query.rfind("@") + 1
    has_password = _PASSWORD.match(rest) is not None
    if "@" in before_path and (has_password or "@" in re.split("[?#]", before_path)[0]):
        return before_path.rfind("@") + 1
    return rest.rfind("@") + 1 if has_password else 0
