//! DNS checks: a query over UDP, and over TCP where the answer does not fit.

use std::net::IpAddr;

use hickory_proto::{
    op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType},
    serialize::binary::BinDecodable as _,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UdpSocket,
};

use super::{
    Passed, ProbeFailure,
    socket::{ConnectMode, Endpoint},
    text,
    udp::receive,
};
use crate::model::check::DnsProbe;

/// Largest answer that the query allows, in bytes: fits into one packet on every path (RFC 9715).
const MAX_ANSWER: u16 = 1232;

#[derive(Debug)]
pub struct Dns {
    endpoint: Endpoint,
    query: Query,
    answer: Option<String>,
}

impl Dns {
    pub fn new(endpoint: Endpoint, probe: &DnsProbe) -> Result<Self, String> {
        let mut name = Name::from_utf8(&probe.name)
            .map_err(|error| format!("`{}` is no domain name: {error}", probe.name))?;
        name.set_fqdn(true);
        let record: RecordType = probe
            .record
            .parse()
            .map_err(|_| format!("`{}` is no record type", probe.record))?;
        Ok(Self {
            endpoint,
            query: Query::query(name, record),
            answer: probe.answer.clone(),
        })
    }

    pub async fn probe(&self) -> Result<Passed, ProbeFailure> {
        let socket = self.endpoint.udp_socket()?;
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_ANSWER);
        let mut query = self.query_message(Some(edns));
        let mut answer = self.ask(&socket, &query).await?;
        // What a server answers that does not know EDNS: it is asked again without (RFC 6891, section 7).
        if answer.refuses_edns() {
            query = self.query_message(None);
            answer = self.ask(&socket, &query).await?;
        }
        if answer.metadata.truncation && answer.metadata.response_code == ResponseCode::NoError {
            if self.answer.is_none() {
                return Ok(Passed::new("dns noerror, the answer is cut"));
            }
            answer = self
                .ask_by_tcp(&query)
                .await
                .map_err(|failure| match failure {
                    ProbeFailure::Target(reason) => {
                        format!("the answer is cut, and by tcp: {reason}").into()
                    }
                    local @ ProbeFailure::Local(_) => local,
                })?;
        }
        check_answer(&answer, self.query.query_type(), self.answer.as_deref())
    }

    /// Asks over UDP. Ignores answers to other queries, such as late ones.
    async fn ask(&self, socket: &UdpSocket, query: &Message) -> Result<Answer, ProbeFailure> {
        self.endpoint.send(socket, &encoded(query)?).await?;
        loop {
            if let Some(answer) = Answer::read(&receive(socket).await?, query)? {
                return Ok(answer);
            }
        }
    }

    /// Asks over TCP, where a length of two bytes is in front of each message (RFC 1035, section 4.2.2).
    async fn ask_by_tcp(&self, query: &Message) -> Result<Answer, ProbeFailure> {
        let query_bytes = encoded(query)?;
        let mut stream = self.endpoint.connect(ConnectMode::ClientFirst).await?;
        // A query is shorter than 64 KiB.
        let mut sent = (query_bytes.len() as u16).to_be_bytes().to_vec();
        sent.extend_from_slice(&query_bytes);
        stream.write_all(&sent).await?;
        loop {
            let mut bytes = vec![0; usize::from(stream.read_u16().await?)];
            stream.read_exact(&mut bytes).await?;
            if let Some(answer) = Answer::read(&bytes, query)? {
                self.endpoint.reset(stream);
                return Ok(answer);
            }
        }
    }

    fn query_message(&self, edns: Option<Edns>) -> Message {
        // Answers are hard to forge: the id and the port are random, and the socket is connected to the target.
        let mut query = Message::query();
        query.metadata.op_code = OpCode::Query;
        query.metadata.recursion_desired = true;
        query.add_query(self.query.clone());
        query.edns = edns;
        query
    }
}

fn encoded(query: &Message) -> Result<Vec<u8>, ProbeFailure> {
    query
        .to_vec()
        .map_err(|error| format!("the question cannot be written: {error}").into())
}

/// An answer to a query.
#[derive(Debug)]
struct Answer {
    metadata: Metadata,
    /// Its records, unless nothing behind the header can be read.
    records: Vec<Record>,
}

impl Answer {
    /// Reads an answer; `None` if it is to another query. Of one that is cut, or to a query that was not understood, the
    /// header is enough.
    fn read(bytes: &[u8], query: &Message) -> Result<Option<Self>, ProbeFailure> {
        let answer = match (Message::from_vec(bytes), Header::from_bytes(bytes)) {
            (Ok(message), _) => Self {
                metadata: message.metadata,
                records: message.answers,
            },
            (Err(error), Ok(header)) => {
                let answer = Self {
                    metadata: header.metadata,
                    records: Vec::new(),
                };
                if !answer.is_to(query) || !(answer.metadata.truncation || answer.refuses_edns()) {
                    return Err(not_dns(&error));
                }
                answer
            }
            (Err(error), Err(_)) => return Err(not_dns(&error)),
        };
        Ok(answer.is_to(query).then_some(answer))
    }

    fn is_to(&self, query: &Message) -> bool {
        self.metadata.id == query.metadata.id && self.metadata.message_type == MessageType::Response
    }

    const fn refuses_edns(&self) -> bool {
        matches!(
            self.metadata.response_code,
            ResponseCode::FormErr | ResponseCode::NotImp
        )
    }
}

fn not_dns(error: &impl std::fmt::Display) -> ProbeFailure {
    format!("the answer is not dns: {error}").into()
}

/// Whether an answer passes: it has no error, and a record of this type that is `wanted`, if that is given.
fn check_answer(
    answer: &Answer,
    record: RecordType,
    wanted: Option<&str>,
) -> Result<Passed, ProbeFailure> {
    let code = answer.metadata.response_code;
    if code != ResponseCode::NoError {
        return Err(format!("dns {}", code_name(code)).into());
    }
    let found: Vec<_> = answer
        .records
        .iter()
        .filter(|found| found.record_type() == record)
        .map(|record| record_text(&record.data))
        .collect();
    let Some(wanted) = wanted else {
        return Ok(Passed::new(format!("dns noerror, {} answers", found.len())));
    };
    if found.iter().any(|found| is_same_data(found, wanted)) {
        return Ok(Passed::new(format!("dns {wanted}")));
    }
    let wanted = text::quoted(wanted.as_bytes());
    let found = match found.is_empty() {
        true => "no answer".to_owned(),
        false => text::quoted(found.join(", ").as_bytes()),
    };
    Err(format!("dns {found}, wanted {wanted}").into())
}

/// The name of a response code as `dig` prints it.
fn code_name(code: ResponseCode) -> String {
    match code {
        ResponseCode::FormErr => "formerr".into(),
        ResponseCode::ServFail => "servfail".into(),
        ResponseCode::NXDomain => "nxdomain".into(),
        ResponseCode::NotImp => "notimp".into(),
        ResponseCode::Refused => "refused".into(),
        other => format!("error {}", u16::from(other)),
    }
}

/// A record's data in zone file format; the pieces of a TXT record joined, without quotation marks.
fn record_text(data: &RData) -> String {
    match data {
        RData::TXT(text) => {
            let bytes: Vec<u8> = text.txt_data.concat();
            String::from_utf8_lossy(&bytes).into_owned()
        }
        other => other.to_string(),
    }
}

/// Compares as DNS does: ignores case and the trailing dot of names. Addresses are equal in any notation.
fn is_same_data(found: &str, wanted: &str) -> bool {
    match (found.parse::<IpAddr>(), wanted.parse::<IpAddr>()) {
        (Ok(found), Ok(wanted)) => found == wanted,
        _ => {
            let plain = |text: &str| {
                text.split_whitespace()
                    .map(|word| word.trim_end_matches('.').to_ascii_lowercase())
                    .collect::<Vec<_>>()
            };
            plain(found) == plain(wanted)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_compared_as_dns_does() {
        assert!(is_same_data("2001:db8::1", "2001:DB8:0::1"));
        assert!(is_same_data("10 Mail.example.", "10  mail.example"));
        assert!(!is_same_data("10 mail.example.", "20 mail.example."));
        assert!(!is_same_data("192.0.2.1", "192.0.2.10"));
    }

    const ANSWER: &[u8] = b"\x12\x34\x81\x80\0\x01\0\x02\0\0\0\0\x01a\x07example\0\0\x01\0\x01\
        \xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01\
        \xc0\x0c\0\x10\0\x01\0\0\0\x3c\0\x03\x02hi";

    proptest::proptest! {
        #[test]
        fn whatever_a_server_answers_the_result_can_be_shown(
            bytes in crate::os::fuzz::bytes(&[ANSWER]),
            record in proptest::sample::select(&["A", "TXT", "MX"][..]),
            answer in proptest::option::of(proptest::strategy::Just("192.0.2.1")),
        ) {
            let mut query = Message::query();
            query.metadata.id = 0x1234;
            let Ok(Some(read)) = Answer::read(&bytes, &query) else {
                return Ok(());
            };
            let shown = match check_answer(&read, record.parse().unwrap(), answer) {
                Ok(passed) => passed.note,
                Err(ProbeFailure::Target(reason) | ProbeFailure::Local(reason)) => reason,
            };
            proptest::prop_assert!(crate::os::fuzz::is_printable_line(&shown), "{shown:?}");
        }
    }
}
