//! A DNS query over UDP.

use std::net::IpAddr;

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};

use super::{
    Passed, ProbeFailure,
    socket::Endpoint,
    text,
    udp::{receive, refusal},
};
use crate::model::check::DnsProbe;

/// Largest answer that is asked for: it fits every path in one packet (RFC 9715).
const PAYLOAD: u16 = 1232;

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
        let socket = self.endpoint.datagrams()?;
        let question = self.question();
        let bytes = question.to_vec().map_err(|error| {
            ProbeFailure::Target(format!("the question cannot be written: {error}"))
        })?;
        socket.send(&bytes).await.map_err(|error| refusal(&error))?;
        loop {
            let answer = receive(&socket).await?;
            let answer = Message::from_vec(&answer)
                .map_err(|error| ProbeFailure::Target(format!("the answer is not dns: {error}")))?;
            // An answer to another question, as a late one would be, is none.
            if answer.metadata.id == question.metadata.id
                && answer.metadata.message_type == MessageType::Response
            {
                return self.judge(&answer);
            }
        }
    }

    fn question(&self) -> Message {
        // The socket's random port makes an answer hard to forge, and it hears the target alone.
        let mut question = Message::query();
        question.metadata.op_code = OpCode::Query;
        question.metadata.recursion_desired = true;
        question.add_query(self.query.clone());
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD);
        question.set_edns(edns);
        question
    }

    fn judge(&self, answer: &Message) -> Result<Passed, ProbeFailure> {
        let code = answer.metadata.response_code;
        if code != ResponseCode::NoError {
            return Err(format!("dns {}", named(code)).into());
        }
        let found: Vec<_> = answer
            .answers
            .iter()
            .filter(|record| record.record_type() == self.query.query_type())
            .map(|record| written(&record.data))
            .collect();
        let Some(wanted) = &self.answer else {
            return Ok(Passed::new(format!("dns noerror, {} answers", found.len())));
        };
        if found.iter().any(|found| is_same(found, wanted)) {
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
}

/// A code as `dig` calls it.
fn named(code: ResponseCode) -> String {
    match code {
        ResponseCode::FormErr => "formerr".into(),
        ResponseCode::ServFail => "servfail".into(),
        ResponseCode::NXDomain => "nxdomain".into(),
        ResponseCode::NotImp => "notimp".into(),
        ResponseCode::Refused => "refused".into(),
        other => format!("error {}", u16::from(other)),
    }
}

/// A record's data as zone files write it; texts without quotation marks, their pieces joined.
fn written(data: &RData) -> String {
    match data {
        RData::TXT(text) => {
            let bytes: Vec<u8> = text.txt_data.concat();
            String::from_utf8_lossy(&bytes).into_owned()
        }
        other => other.to_string(),
    }
}

/// Compares as DNS does: no difference between large and small letters, nor whether a name's last dot is written.
/// Addresses may be written in any way.
fn is_same(found: &str, wanted: &str) -> bool {
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
        assert!(is_same("2001:db8::1", "2001:DB8:0::1"));
        assert!(is_same("10 Mail.example.", "10  mail.example"));
        assert!(!is_same("10 mail.example.", "20 mail.example."));
        assert!(!is_same("192.0.2.1", "192.0.2.10"));
    }
}
