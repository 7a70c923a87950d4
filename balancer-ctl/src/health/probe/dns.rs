//! DNS checks: a query over UDP.

use std::net::IpAddr;

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};

use super::{
    Passed, ProbeFailure,
    socket::Endpoint,
    text,
    udp::{receive, send_failure},
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
        let query = self.query_message();
        let bytes = query.to_vec().map_err(|error| {
            ProbeFailure::Target(format!("the question cannot be written: {error}"))
        })?;
        socket
            .send(&bytes)
            .await
            .map_err(|error| send_failure(&error))?;
        loop {
            let answer = receive(&socket).await?;
            let answer = Message::from_vec(&answer)
                .map_err(|error| ProbeFailure::Target(format!("the answer is not dns: {error}")))?;
            // Ignores answers to other queries, such as late ones.
            if answer.metadata.id == query.metadata.id
                && answer.metadata.message_type == MessageType::Response
            {
                return check_answer(&answer, self.query.query_type(), self.answer.as_deref());
            }
        }
    }

    fn query_message(&self) -> Message {
        // Answers are hard to forge: the id and the port are random, and the socket is connected to the target.
        let mut query = Message::query();
        query.metadata.op_code = OpCode::Query;
        query.metadata.recursion_desired = true;
        query.add_query(self.query.clone());
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_ANSWER);
        query.set_edns(edns);
        query
    }
}

/// Whether an answer passes: it has no error, and a record of this type that is `wanted`, if that is given.
fn check_answer(
    answer: &Message,
    record: RecordType,
    wanted: Option<&str>,
) -> Result<Passed, ProbeFailure> {
    let code = answer.metadata.response_code;
    if code != ResponseCode::NoError {
        return Err(format!("dns {}", code_name(code)).into());
    }
    let found: Vec<_> = answer
        .answers
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
    if answer.metadata.truncation {
        return Err(format!("the answer is cut, and {wanted} is not in its beginning").into());
    }
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
            let Ok(message) = Message::from_vec(&bytes) else {
                return Ok(());
            };
            let shown = match check_answer(&message, record.parse().unwrap(), answer) {
                Ok(passed) => passed.note,
                Err(ProbeFailure::Target(reason) | ProbeFailure::Local(reason)) => reason,
            };
            proptest::prop_assert!(crate::os::fuzz::is_printable_line(&shown), "{shown:?}");
        }
    }
}
