"""Takes user names, passwords and tokens out of texts that are shown, kept or sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, quote_plus, unquote, urlsplit

_SCHEME: Final = r"[A-Za-z][\w+.-]*"
# An address as it stands in a text: to the next white space or address, or to the quote that ends it.
_ADDRESS: Final = re.compile(rf"(?P<scheme>{_SCHEME})://(?P<rest>(?:(?![\"'](?:[,:;.}}\])\s]|$)|[,;]{_SCHEME}://)\S)*)")
ADDRESS_START: Final = re.compile(rf"{_SCHEME}://")
_PORT: Final = r"\d*(?:[/?#,;.)\]}\"'\s]|:\s|$)"
# A name, a colon and what is no port: a password, whatever it holds.
_PASSWORD: Final = re.compile(rf"[^\s/:@\"'?#\[]*:(?!{_PORT})")
DATABASES: Final = ("postgresql", "postgres", "mysql", "mssql")
_FOREIGN_TO_WEB: Final = re.compile(r"[^\w.~!$&'()*+,;=:%-]", re.ASCII)
_FOREIGN_TO_DATABASE: Final = re.compile(r"@")
# A database takes a password with blanks as it stands.
_BLANKS: Final = re.compile(rf"(?P<scheme>{_SCHEME})://[^\s/:@\"'?#\[]+:(?!{_PORT})\S[^@\n\"']*[^\S\n][^@\n\"']*@")
# A further login within an address, such as that of a second host.
_INNER_LOGIN: Final = re.compile(rf"(?<=[/,;])[^\s/:@,;]+:(?![/\\]|{_PORT})[^/@]*@")
_ARGUMENT: Final = re.compile(r"(?P<before>[?&;#])(?P<key>[^=&;#]*=)?(?P<value>[^&;#]*)")
# These say how to connect, which a store must be told again; a value under any other name may be a secret.
_OPEN: Final = re.compile(r"(?i)(?:driver|charset|sslmode|timeout|connect_timeout|encrypt|trustservercertificate)=")
_FILES: Final = ("sqlite", "file")  # in whose paths `#` and `;` are ordinary characters
_LONG: Final = 4  # characters of what is taken for a secret wherever it stands
_SECRET: Final = r"pass(?:word|wd|phrase)?|pwd|token|secret|key|credentials?|odbc_connect|signature|(?<![a-z])sig"
_QUERY: Final = re.compile(rf"(?i)([?&;](?:[^=&;\s]*(?:{_SECRET})[^=&;\s]*|user|uid)=)[^&;\s'\"]*")
# As drivers write what they connect to.
_SETTING: Final = re.compile(r"(?i)(?<![\w.])((?:password|passwd|pwd|access_token|auth_token)\s?=\s?)[^\s,;'\"&)]+")
_HEADER: Final = re.compile(r"(?i)(\bauthorization\W+(?:basic|bearer)\s+)[^\s'\"]+")


def without_credentials(text: str) -> str:
    """Returns `text` without the user names, passwords and values of queries and fragments of the addresses in it.

    Where all of a text is an address, `public_address` knows better where it ends. A colon, digits and a slash are read
    as a web server's port, whatever follows.
    """
    text = _BLANKS.sub(r"\g<scheme>://", text)
    text = _ADDRESS.sub(lambda found: public_address(found[0]), text)
    text = _QUERY.sub(r"\1***", text)
    text = _SETTING.sub(r"\1***", text)
    return _HEADER.sub(r"\1***", text)


def public_address(address: str) -> str:
    """Returns an address without its user name and password, and with the values of query and fragment hidden."""
    scheme, sign, rest = address.partition("://")
    rest = rest[login_end(scheme, rest) :]
    start = _query_start(scheme, rest)
    place = rest[:start] if scheme in _FILES else _INNER_LOGIN.sub("", rest[:start])
    return f"{scheme}{sign}{place}{_with_hidden_values(rest[start:])}"


def refused_address(address: str) -> str:
    """Returns what may be shown of an address that nobody can read: at most its scheme and what follows its last `@`.

    Where no `@` says that a host follows, what stands in the place of a port is hidden.
    """
    scheme, sign, rest = address.partition("://")
    is_read = bool(sign) and re.fullmatch(_SCHEME, scheme) is not None
    _, at, host = (rest if is_read else address).rpartition("@")
    shown = host if at else re.sub(rf"(?<=:)(?!{_PORT}).*", "***", host, flags=re.DOTALL) if is_read else host
    start = _query_start(scheme, shown)
    return f"{scheme + sign if is_read else ''}{shown[:start]}{_with_hidden_values(shown[start:])}"


def _query_start(scheme: str, rest: str) -> int:
    """Returns where query or fragment begin in what stands behind the `://` of an address, else its length."""
    found = re.search(r"\?" if scheme in _FILES else "[?#;]", rest)
    return len(rest) if found is None else found.start()


def _with_hidden_values(query: str) -> str:
    """Returns query and fragment of an address with their values hidden."""

    def hidden(found: re.Match[str]) -> str:
        key, value = found["key"] or "", found["value"]
        return f"{found['before']}{key}{value if not value or _OPEN.fullmatch(key) else '***'}"

    return _ARGUMENT.sub(hidden, query)


def cleaned(value: Any) -> Any:
    """Returns nested plain values with `without_credentials` done to every text in them, keys left alone.

    Text by text: within JSON or YAML, the end of a secret could not be told from a quote in it.
    """
    if isinstance(value, str):
        return without_credentials(public_address(value) if ADDRESS_START.match(value) else value)
    if isinstance(value, Mapping):
        return {key: cleaned(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [cleaned(item) for item in value]
    return value


def secrets_of(address: str) -> set[str]:
    """Returns the secrets of an address in every form in which an error may hold them; empty: it has none."""
    scheme, _, rest = address.partition("://")
    password = rest[: max(login_end(scheme, rest) - 1, 0)].partition(":")[2]
    plain = unquote(password)
    query = rest[_query_start(scheme, rest) :]
    values = {found["value"] for found in _ARGUMENT.finditer(query) if not _OPEN.fullmatch(found["key"] or "")}
    long = {form for value in values for form in (value, unquote(value)) if len(form) >= _LONG}
    return ({password, plain, quote(plain, safe=""), quote_plus(plain)} - {""}) | long


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
