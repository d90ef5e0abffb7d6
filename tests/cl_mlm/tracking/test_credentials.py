"""What is shown, kept or sent of an address holds no user name, password or token; all else stays as it is."""

import json

import pytest

from cl_mlm.errors import ConfigError
from cl_mlm.tracking.credentials import cleaned, public_address, without_credentials
from cl_mlm.tracking.mlflow_sender import tracking_uri
from cl_mlm.tracking.mlflow_store import tracking_error


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        # web addresses
        ("http://user:s3cret@host:5000/path", "http://host:5000/path"),
        ("see https://s3cret@host/x.", "see https://host/x."),
        ("http://u:s3@s3cret@host", "http://host"),
        ("http://u:p%40ss%2F@host:5000/x", "http://host:5000/x"),
        ("https://u:pa/ss@host/x", "https://host/x"),
        ("https://u:pa#ss@host", "https://host"),
        ("https://u:pa?ss@host", "https://host"),
        ("http://u:p@[::1]:5000/x", "http://[::1]:5000/x"),
        ("HTTPS://U:P@HOST", "HTTPS://HOST"),
        ("failed: http://u:s3cret@host/api, then http://v:s3cret@other", "failed: http://host/api, then http://other"),
        # databases
        ("postgresql://u:p:q%25#x@host:3306/db", "postgresql://host:3306/db"),
        ("mysql+pymysql://u:p@a/b@host/db", "mysql+pymysql://host/db"),
        ("postgresql://u:12/3@host/db", "postgresql://host/db"),
        ("postgresql://u:p w@host/db", "postgresql://host/db"),
        ("(postgresql://u:p/q@host/db)", "(postgresql://host/db)"),
        ("mssql+pyodbc://u:p@dsn?driver=ODBC+Driver", "mssql+pyodbc://dsn?driver=ODBC+Driver"),
        ("mssql+pyodbc:///?odbc_connect=Driver%3Dx%3BPWD%3Ds3", "mssql+pyodbc:///?odbc_connect=***"),
        ("postgresql://host/db?user=me&password=s3&x=1", "postgresql://host/db?user=***&password=***&x=***"),
        # tokens
        ("http://host/x?token=abc&y=1#z", "http://host/x?token=***&y=***#***"),
        ("http://host/x?sv=1&sig=abc", "http://host/x?sv=***&sig=***"),
        ("https://host/x?X-Amz-Signature=abc&X-Amz-Date=1", "https://host/x?X-Amz-Signature=***&X-Amz-Date=***"),
        ("http://host:5000/a?b=c#token=d e", "http://host:5000/a?b=***#token=*** e"),
        ("http://host/?***&jwt=a'b', and", "http://host/?***&jwt=***', and"),
        ("postgresql://host:5432/db?mail=a@b", "postgresql://host:5432/db?mail=***"),
        # a second login
        ("http://u:p@host/x,http://v:q@other", "http://host/x,http://other"),
        ("http://u:p@host/x,v:q@other", "http://host/x,other"),
        # what drivers and libraries say
        ("no connection: host=h password=s3 user=u", "no connection: host=h password=*** user=u"),
        ("Authorization: Basic dXNlcjpw", "Authorization: Basic ***"),
        # as Python and JSON write them
        ("['http://u:p@host', 'a@b']", "['http://host', 'a@b']"),
        ('{"a":"http://u:p@host","b":"c@d"}', '{"a":"http://host","b":"c@d"}'),
    ],
)
def test_credentials_are_taken_out(text, shown):
    assert without_credentials(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://host:5000/a@b",
        "http://[::1]:5000/a@b",
        "http://host: not reachable, ask me@host.org",
        "http://host:5000, ask me@host.org",
        "postgresql://host/db?sslmode=require&connect_timeout=3",
        "sqlite:////data/me@home/ml flow.db",
        "sqlite:////data/a#b&c;d/x:y@z/ml.db",
        "sqlite:///C:\\data\\a@b.db",
        "file:///C:/a@b",
        "C:\\x\\a@b",
        "databricks://profile",
        "databricks://scope:prefix",
        "models:/name@champion",
        "s3://bucket/a@b",
        "write to me@host.org at 12:30",
        "max_tokens=5 key=4 prompting.max_tokens=5",
        '{"a": "x://b:c", "d": "e@f"}',
        '{"a":"http://b","d":"e@f"}',
        "['http://b','e@f']",
    ],
)
def test_what_holds_no_credentials_stays_as_it_is(text):
    assert without_credentials(text) == text


def test_a_secret_ends_where_its_text_ends_and_not_at_a_quote_or_blank_in_it():
    values = cleaned({"uri": 'http://host/x?token=a"b c', "more": ["postgresql://u:p\"w'/x@host", 3, None]})
    assert values == {"uri": "http://host/x?token=***", "more": ["postgresql://host", 3, None]}
    assert json.loads(json.dumps(values)) == values


@pytest.mark.parametrize(
    ("uri", "rule"),
    [
        ("http://me:s3cret#x@host", "percent-encoded (# is %23)"),
        ("http://me:s3cret/x@host:5000", "percent-encoded (/ is %2F)"),
        ("http://me:s3cret [x@host", "percent-encoded (a blank is %20, [ is %5B)"),
        ("postgresql://me:s3cret@x@host/db", "percent-encoded (@ is %40)"),
        ("http://host:s3cret", "must name a host, and a port as a number"),
        ("postgresql://me:s3cret@host:port/db", "must name a host, and a port as a number"),
        ("http://", "must name a host"),
        ("file://me:s3cret@host/x", "must be a server"),
    ],
)
def test_an_address_that_cannot_be_connected_to_is_refused_at_once(uri, rule):
    with pytest.raises(ConfigError, match=r"^tracking\.uri: ") as caught:
        tracking_uri(uri)
    assert rule in str(caught.value)
    assert "me:" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("me:s3cret@host:5000", "host:5000"),
        ("//me:s3cret@host", "host"),
        ("http:/me:s3cret@host", "host"),
        ("http//me:s3cret@host", "host"),
        ("http:///me:s3cret@host", "http://host"),
        ("file:///me:s3cret@host", "file://host"),
        (" http://me:s3cret@host", "host"),
        ('http://me:s3cret",x@host', "http://host"),
        ("http://me:s3cret'}x@host", "http://host"),
        ("http://me: s3cret x@host", "http://host"),
        ("http://me:\u00a0s3cret\n@host", "http://host"),
        ("me:s3cret@host?auth=s3cret", "host?auth=***"),
        ("http://me:s3cret", "http://me:***"),
    ],
)
@pytest.mark.parametrize("key", ["tracking.uri", "MLFLOW_TRACKING_URI"])
def test_of_a_refused_address_at_most_its_scheme_and_host_are_told(monkeypatch, key, uri, shown):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ConfigError, match=rf"^{key}: ") as caught:
        tracking_uri(uri if key == "tracking.uri" else None)
    assert str(caught.value).endswith(f"got {shown!r}")
    assert without_credentials(str(caught.value)) == str(caught.value)  # as the command line prints it


@pytest.mark.parametrize("value", ["s3cret", "s3'cret", "s3&cret@x", "s3 cret", "s3#cret", "s3,cret"])
@pytest.mark.parametrize("key", ["?auth", "?jwt", "?sas", "?code", "?x#token", "?a=b&password"])
@pytest.mark.parametrize("place", ["http://host", "postgresql://host/db", "sqlite:////tmp/x.db"])
def test_no_value_of_query_and_fragment_of_an_accepted_address_is_shown(place, key, value):
    shown = public_address(tracking_uri(f"{place}{key}={value}"))
    assert shown.startswith(f"{place}{key[:1]}")
    assert f"{key[-4:]}=***" in shown
    assert "s3" not in shown
    assert "cret" not in shown


@pytest.mark.parametrize(
    "uri",
    [
        "http://me:s3%2Fcret@[::1]:5000/x",
        "https://host/x?token=abc",
        "postgresql://me:s3/cret:#%25@host:5432/db",
        "mssql+pyodbc://me:s3@dsn?driver=x",
        "mssql+pyodbc:///?odbc_connect=x",
        "databricks",
        "databricks://scope:prefix",
    ],
)
def test_an_address_that_can_be_connected_to_is_taken(uri):
    assert tracking_uri(uri) == uri


def test_an_error_of_a_store_holds_no_form_of_the_password():
    told = "cannot reach 's3/cret' (s3%2Fcret, http://me:s3%2Fcret@host)"
    shown = str(tracking_error("http://me:s3%2Fcret@host", ValueError(told)))
    assert shown == "tracking server http://host refused: cannot reach '***' (***, http://host)"
