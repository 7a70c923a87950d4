//! The types of checks, and the keys of each.

use Kind::{Agent, Dns, Exec, Grpc, Http, Https, Ping, Tcp, Udp};

use crate::model::{
    key::{Key, key},
    names::names,
};

/// A check's type, as `type` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tcp,
    Http,
    Https,
    Udp,
    Dns,
    Ping,
    Grpc,
    Exec,
    Agent,
}

names!(Kind {
    Tcp = "tcp",
    Http = "http",
    Https = "https",
    Udp = "udp",
    Dns = "dns",
    Ping = "ping",
    Grpc = "grpc",
    Exec = "exec",
    Agent = "agent",
});

/// All keys, each with the types of checks that have it.
pub const KEYS: [(Key, &[Kind]); 35] = [
    (
        key(
            "type",
            "`tcp`, `http`, `https`, `udp`, `dns`, `ping`, `grpc`, `exec` or `agent`",
            "must be named",
        ),
        ALL,
    ),
    (
        key(
            "interval",
            "time from one probe to the next, 10ms to 1day",
            "`5s`",
        ),
        ALL,
    ),
    (
        key(
            "fast-interval",
            "the same while results disagree with the state; at most `interval`",
            "as `interval`",
        ),
        ALL,
    ),
    (
        key(
            "timeout",
            "time that a probe may take, 1ms to 1day; at most the shorter of the two",
            "`2s`, or less where they are shorter",
        ),
        ALL,
    ),
    (
        key(
            "rise",
            "passed probes in a row until a real server that was down is up, 1 to 100",
            "2",
        ),
        ALL,
    ),
    (
        key(
            "fall",
            "failed probes in a row until a real server that was up is down, 1 to 100",
            "3",
        ),
        ALL,
    ),
    (
        key(
            "initial",
            "what a real server counts as before its first probe is done: `down` or `up`",
            "`down`",
        ),
        ALL,
    ),
    (
        key(
            "address",
            "the address that is asked, without a port",
            "the real server's",
        ),
        ALL,
    ),
    (
        key(
            "port",
            "the port that is asked, 1 to 65535; to be named for `agent`, and in a service on every port",
            "the real server's",
        ),
        &[Tcp, Http, Https, Udp, Dns, Grpc, Exec, Agent],
    ),
    (
        key(
            "source",
            "the address of this host that probes come from",
            "the kernel's choice",
        ),
        OUR_SOCKET,
    ),
    (
        key(
            "interface",
            "the interface that probes leave by",
            "the kernel's choice",
        ),
        OUR_SOCKET,
    ),
    (
        key(
            "mark",
            "the firewall mark of probes (`ip rule … fwmark`), 0 to 4294967295",
            "none",
        ),
        OUR_SOCKET,
    ),
    (key("send", "text that is sent", "nothing"), SENDING),
    (
        key(
            "send-hex",
            "the same as pairs of hexadecimal digits, in place of `send`",
            "nothing",
        ),
        SENDING,
    ),
    (
        key(
            "expect",
            "a regular expression over the bytes of the answer",
            "any answer, or none",
        ),
        &[Tcp, Udp],
    ),
    (
        key("method", "the request's method, in capitals", "`GET`"),
        HTTP,
    ),
    (
        key(
            "host",
            "the request's host, with a port if wanted",
            "the address that is asked",
        ),
        HTTP,
    ),
    (
        key("path", "the request's path, with a query if wanted", "`/`"),
        HTTP,
    ),
    (
        key(
            "headers",
            "more header fields: `{ Accept = \"text/html\" }`",
            "none",
        ),
        HTTP,
    ),
    (
        key(
            "request-body",
            "text that is sent as the request's body, up to 65536 bytes; its `Content-Type` goes into `headers`",
            "none",
        ),
        HTTP,
    ),
    (
        key(
            "status",
            "statuses that pass, and ranges of them: `200-299,304`",
            "`200-299`",
        ),
        HTTP,
    ),
    (
        key(
            "body",
            "a regular expression that the answer's body matches",
            "any body",
        ),
        HTTP,
    ),
    (
        key("version", "the version of HTTP: `1.1` or `2`", "`1.1`"),
        HTTP,
    ),
    (
        key("tls", "whether to speak TLS: `true` or `false`", "`false`"),
        &[Grpc],
    ),
    (
        key(
            "server-name",
            "the name that the certificate is for, and that is asked for (SNI)",
            "`host` without its port, or else the address",
        ),
        TLS,
    ),
    (
        key(
            "ca",
            "file with the certificates, in PEM, that the server's must go back to",
            "the system's",
        ),
        TLS,
    ),
    (
        key(
            "certificate",
            "file with the certificate, in PEM, that the client shows; needs `key`",
            "none",
        ),
        TLS,
    ),
    (
        key(
            "key",
            "file with that certificate's private key, in PEM without a passphrase",
            "none",
        ),
        TLS,
    ),
    (
        key(
            "insecure",
            "whether any certificate will do: `true` or `false`",
            "`false`",
        ),
        TLS,
    ),
    (
        key("name", "the name that is asked for", "must be named"),
        &[Dns],
    ),
    (
        key(
            "record",
            "the type of record: `A`, `AAAA`, `CNAME`, `MX`, `NS`, `SOA`, `SRV` or `TXT`",
            "`A`",
        ),
        &[Dns],
    ),
    (key("answer", "one of the answers", "any answer"), &[Dns]),
    (
        key(
            "service",
            "the service that is asked for",
            "the whole server",
        ),
        &[Grpc],
    ),
    (
        key(
            "run",
            "the program by its absolute path, and its arguments",
            "must be named",
        ),
        &[Exec],
    ),
    (
        key(
            "user",
            "the user of this host that the program runs as, with that user's groups",
            "root",
        ),
        &[Exec],
    ),
];
/// All types.
pub const ALL: &[Kind] = &[Tcp, Http, Https, Udp, Dns, Ping, Grpc, Exec, Agent];
const OUR_SOCKET: &[Kind] = &[Tcp, Http, Https, Udp, Dns, Ping, Grpc, Agent];
const SENDING: &[Kind] = &[Tcp, Udp, Agent];
const HTTP: &[Kind] = &[Http, Https];
/// The types that can speak TLS.
pub const TLS: &[Kind] = &[Https, Grpc];
