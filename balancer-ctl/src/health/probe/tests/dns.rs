//! DNS: servers of all ages, and answers that do not fit a datagram.

use std::net::Ipv4Addr;

use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{RData, Record, rdata},
};

use super::*;
use crate::model::check::DnsProbe;

fn dns(answer: Option<&str>) -> Probe {
    Probe::Dns(DnsProbe {
        name: "www.example".into(),
        record: "A".into(),
        answer: answer.map(str::to_owned),
    })
}

#[test]
fn a_dns_answer_must_have_no_error_and_what_is_wanted() {
    run(async {
        let (address, _server) = udp_server(|question| {
            let question = Message::from_vec(question).unwrap();
            let name = question.queries[0].name.clone();
            let mut answer = question.clone();
            answer.metadata.message_type = MessageType::Response;
            let data = RData::A(rdata::A(Ipv4Addr::new(192, 0, 2, 7)));
            answer.add_answer(Record::from_rdata(name, 60, data));
            Some(answer.to_vec().unwrap())
        })
        .await;
        assert_eq!(
            ask(address, dns(None)).await,
            pass("dns noerror, 1 answers")
        );
        assert_eq!(
            ask(address, dns(Some("192.0.2.7"))).await,
            pass("dns 192.0.2.7")
        );
        assert_eq!(
            ask(address, dns(Some("192.0.2.8"))).await,
            fail("dns 192.0.2.7, wanted 192.0.2.8")
        );
        let (address, _server) = udp_server(|question| {
            let mut answer = Message::from_vec(question).unwrap();
            answer.metadata.message_type = MessageType::Response;
            answer.metadata.response_code = ResponseCode::NXDomain;
            Some(answer.to_vec().unwrap())
        })
        .await;
        assert_eq!(ask(address, dns(None)).await, fail("dns nxdomain"));
        // Not an answer: it has another's number.
        let (address, _server) = udp_server(|question| {
            let mut answer = Message::from_vec(question).unwrap();
            answer.metadata.message_type = MessageType::Response;
            answer.metadata.id = answer.metadata.id.wrapping_add(1);
            Some(answer.to_vec().unwrap())
        })
        .await;
        times_out(address, dns(None)).await;
        let (address, _server) = udp_server(|_| Some(b"hello".to_vec())).await;
        let Outcome::Failed { reason } = ask(address, dns(None)).await else {
            panic!("it passed");
        };
        assert!(reason.starts_with("the answer is not dns: "), "{reason}");
    });
}

/// The answer to a question: an address, unless the question is answered with an error.
fn answered(question: &[u8], code: ResponseCode) -> Message {
    let mut answer = Message::from_vec(question).unwrap();
    answer.metadata.message_type = MessageType::Response;
    answer.metadata.response_code = code;
    if code == ResponseCode::NoError {
        let data = RData::A(rdata::A(Ipv4Addr::new(192, 0, 2, 7)));
        let name = answer.queries[0].name.clone();
        answer.add_answer(Record::from_rdata(name, 60, data));
    }
    answer
}

#[test]
fn a_server_that_does_not_know_edns_is_asked_again_without() {
    run(async {
        for code in [ResponseCode::FormErr, ResponseCode::NotImp] {
            // Some repeat the question, some send the header alone.
            for is_short in [false, true] {
                let (address, _server) = udp_server(move |question| {
                    let has_edns = Message::from_vec(question).unwrap().edns.is_some();
                    let code = if has_edns {
                        code
                    } else {
                        ResponseCode::NoError
                    };
                    let mut answer = answered(question, code);
                    answer.edns = None;
                    let mut answer = answer.to_vec().unwrap();
                    if is_short && has_edns {
                        answer.truncate(12);
                    }
                    Some(answer)
                })
                .await;
                assert_eq!(
                    ask(address, dns(Some("192.0.2.7"))).await,
                    pass("dns 192.0.2.7")
                );
            }
            // One that does not like the question either way.
            let (address, _server) =
                udp_server(move |question| Some(answered(question, code).to_vec().unwrap())).await;
            let name = if code == ResponseCode::FormErr {
                "formerr"
            } else {
                "notimp"
            };
            assert_eq!(ask(address, dns(None)).await, fail(&format!("dns {name}")));
        }
    });
}

/// A server whose answers over UDP are cut, all but so many bytes of them.
async fn cutting(address: &str, length: usize, code: ResponseCode) -> (SocketAddr, JoinHandle<()>) {
    udp_server_on(address, move |question| {
        let mut answer = answered(question, code);
        answer.metadata.truncation = true;
        let mut answer = answer.to_vec().unwrap();
        answer.truncate(length);
        Some(answer)
    })
    .await
}

#[test]
fn a_cut_answer_is_judged_by_its_header_if_no_other_is_wanted() {
    run(async {
        for length in [12, 30, 512] {
            let (address, _server) = cutting("127.0.0.1:0", length, ResponseCode::NoError).await;
            assert_eq!(
                ask(address, dns(None)).await,
                pass("dns noerror, the answer is cut")
            );
            let (address, _server) = cutting("127.0.0.1:0", length, ResponseCode::NXDomain).await;
            for wanted in [None, Some("192.0.2.7")] {
                assert_eq!(ask(address, dns(wanted)).await, fail("dns nxdomain"));
            }
        }
    });
}

#[test]
fn a_cut_answer_is_asked_for_by_tcp_if_a_record_is_wanted() {
    run(async {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let server = Server::start_on(any, async |mut stream| {
                let length = stream.read_u16().await.unwrap();
                let mut question = vec![0; usize::from(length)];
                stream.read_exact(&mut question).await.unwrap();
                let answer = answered(&question, ResponseCode::NoError).to_vec().unwrap();
                stream.write_u16(answer.len() as u16).await.unwrap();
                stream.write_all(&answer).await.unwrap();
            })
            .await;
            let address = server.address;
            let (_, udp) = cutting(&address.to_string(), 12, ResponseCode::NoError).await;
            assert_eq!(
                ask(address, dns(Some("192.0.2.7"))).await,
                pass("dns 192.0.2.7")
            );
            assert_eq!(
                ask(address, dns(Some("192.0.2.8"))).await,
                fail("dns 192.0.2.7, wanted 192.0.2.8")
            );
            udp.abort();
            let (address, _server) = cutting(any, 12, ResponseCode::NoError).await;
            assert_eq!(
                ask(address, dns(Some("192.0.2.7"))).await,
                fail("the answer is cut, and by tcp: connection refused")
            );
        }
    });
}
