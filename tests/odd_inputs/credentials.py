"""Addresses of tracking stores that hold a password or a token."""

from tests.odd_inputs.case import Case, data

TO_NOBODY = ("check", "config.yaml")
CASES = [
    Case(
        given="a web address whose password holds `/`",
        says="tracking.uri: user name and password must be percent-encoded (/ is %2F), got 'http://host:5000'",
        command=(*TO_NOBODY, "tracking.uri=http://me:s3/cret@host:5000"),
        files=data(),
    ),
    Case(
        given="a web address whose password holds `#`",
        says="tracking.uri: user name and password must be percent-encoded (# is %23), got 'http://host'",
        command=(*TO_NOBODY, "tracking.uri='http://me:s3#cret@host'"),
        files=data(),
    ),
    Case(
        given="a database whose password holds `@`",
        says="tracking.uri: user name and password must be percent-encoded (@ is %40), got 'postgresql://host/db'",
        command=(*TO_NOBODY, "tracking.uri=postgresql://me:s3@cret@host/db"),
        files=data(),
    ),
    Case(
        given="a tracking address with a password and no scheme",
        says="postgresql://...), not a folder, got 'host:5000'",
        command=(*TO_NOBODY, "tracking.uri='me:s3cret@host:5000'"),
        files=data(),
    ),
    Case(
        given="a tracking address without a host",
        says="tracking.uri: must name a host, and a port as a number, got 'http://'",
        command=(*TO_NOBODY, "tracking.uri=http://"),
        files=data(),
    ),
    Case(
        given="a folder as `tracking.uri`",
        says="tracking.uri: must be a server (http://host:5000) or a database",
        command=(*TO_NOBODY, "tracking.uri=file:///x"),
        files=data(),
    ),
    Case(
        given="`cl-mlm ui` on a server that is away, with a token in its address",
        says="tracking server http://127.0.0.1:9/?token=*** not reachable: ",
        command=("ui", "--uri", "http://127.0.0.1:9/?token=s3cret"),
    ),
]
