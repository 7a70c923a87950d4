//! `GET` and `DELETE /v1/connections`.

use std::{fmt::Write as _, net::SocketAddr};

use axum::{extract::State, response::IntoResponse as _};
use balancer_common::tcp;
use serde::Deserialize;

use super::{
    answer::Json,
    daemon_handle::DaemonHandle,
    lists::{self, Form},
    request::{Answer, Parameters, limit, or_default, parsed},
};
use crate::{
    control::daemon::Message,
    model::{
        address::{RealRef, ServiceRef},
        connections::ConnectionFilter,
        enumeration::listed,
        error::ApiError,
        view,
    },
};

/// The form of [`view::Connections`].
const FORM: Form<view::Connection> = Form {
    key: "connections",
    write_item: write_one,
    end: |more| if more { ",\"more\":true}" } else { "}" },
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    client: Option<String>,
    service: Option<String>,
    real: Option<String>,
    state: Option<String>,
    #[serde(default, deserialize_with = "limit")]
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloseQuery {
    client: Option<String>,
    service: Option<String>,
    real: Option<String>,
    state: Option<String>,
    #[serde(default, deserialize_with = "limit")]
    limit: Option<usize>,
    /// Whether all are meant where nothing else says which.
    #[serde(default)]
    all: bool,
}

impl ListQuery {
    /// The service, and the filter without it; the limit is that of the query.
    fn parsed(self) -> Result<(Option<ServiceRef>, ConnectionFilter), ApiError> {
        let real = self.real.map(|text| parsed::<RealRef>(&text)).transpose()?;
        let filter = ConnectionFilter {
            client: self.client.map(|text| parsed(&text)).transpose()?,
            service: None,
            real: real.map(|real| (real.address, real.port)),
            state: self.state.map(|name| state(&name)).transpose()?,
            limit: self.limit,
        };
        let service = self.service.map(|text| parsed(&text)).transpose()?;
        Ok((service, filter))
    }
}

impl CloseQuery {
    fn parsed(self) -> Result<(Option<ServiceRef>, ConnectionFilter), ApiError> {
        let Self {
            client,
            service,
            real,
            state,
            limit,
            all,
        } = self;
        // All that match are closed unless the request says how many.
        let limit = limit.filter(|limit| *limit != 0);
        let is_filtered = limit.is_some()
            || [&client, &service, &real, &state]
                .iter()
                .any(|filter| filter.is_some());
        match (is_filtered, all) {
            (false, false) => {
                return Err(ApiError::invalid(
                    "say which connections to close: client, service, real, state or limit, or all=true for all",
                ));
            }
            (true, true) => {
                return Err(ApiError::invalid(
                    "all=true means all connections: leave it out, or the filters",
                ));
            }
            _ => {}
        }
        let query = ListQuery {
            client,
            service,
            real,
            state,
            limit,
        };
        query.parsed()
    }
}

fn state(name: &str) -> Result<tcp::State, ApiError> {
    tcp::State::ALL
        .into_iter()
        .find(|state| state.name() == name)
        .ok_or_else(|| {
            let names = tcp::State::ALL.map(tcp::State::name);
            ApiError::invalid(format!(
                "state `{name}` is not known: expected {}",
                listed(&names)
            ))
        })
}

/// Lists connections.
pub async fn list(State(daemon): State<DaemonHandle>, query: Parameters<ListQuery>) -> Answer {
    let (service, mut filter) = query.0?.parsed()?;
    filter.limit = or_default(filter.limit);
    let report = daemon
        .ask(|reply| Message::Connections(service, filter, reply))
        .await?;
    Ok(lists::answer(report, FORM))
}

/// Closes connections.
pub async fn close(State(daemon): State<DaemonHandle>, query: Parameters<CloseQuery>) -> Answer {
    let (service, filter) = query.0?.parsed()?;
    let report = daemon
        .ask(|reply| Message::CloseConnections(service, filter, reply))
        .await?;
    let closed = tokio::task::spawn_blocking(move || report.finished())
        .await
        .map_err(|error| ApiError::failed(format!("connections cannot be closed: {error}")))??;
    Ok(Json(closed).into_response())
}

/// Writes a connection as serde would.
fn write_one(text: &mut String, connection: &view::Connection) {
    let view::Connection {
        protocol,
        state,
        expires_in_ms,
        client,
        virtual_address,
        real,
        source,
    } = connection;
    // Names, numbers and addresses contain no character that JSON escapes.
    text.push_str("{\"protocol\":\"");
    text.push_str(protocol.name());
    text.push_str("\",\"state\":\"");
    text.push_str(state.name());
    text.push_str("\",\"expires_in_ms\":");
    write_number(text, *expires_in_ms);
    text.push_str(",\"client\":\"");
    write_address(text, *client);
    text.push_str("\",\"virtual\":\"");
    write_address(text, *virtual_address);
    text.push_str("\",\"real\":\"");
    write_address(text, *real);
    if let Some(source) = source {
        text.push_str("\",\"source\":\"");
        write_address(text, *source);
    }
    text.push_str("\"}");
}

/// Writes an address and port; for IPv4 several times as fast as its `Display`.
fn write_address(text: &mut String, address: SocketAddr) {
    let SocketAddr::V4(v4) = address else {
        // Writing to a string cannot fail.
        let _ = write!(text, "{address}");
        return;
    };
    for (index, octet) in v4.ip().octets().into_iter().enumerate() {
        if index > 0 {
            text.push('.');
        }
        write_number(text, u64::from(octet));
    }
    text.push(':');
    write_number(text, u64::from(v4.port()));
}

fn write_number(text: &mut String, number: u64) {
    let mut digits = [0_u8; 20];
    let mut start = digits.len();
    let mut rest = number;
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    text.extend(digits[start..].iter().map(|digit| char::from(*digit)));
}

#[cfg(test)]
mod tests {
    use std::{ops::ControlFlow, time::Duration};

    use balancer_common::tcp::State;

    use super::{
        super::lists::{CHUNK_BYTES, write},
        *,
    };
    use crate::{
        control::daemon::ListReport,
        dataplane::{Connection, Listing},
        model::{Protocol, ServiceKey},
    };

    fn connections(count: u16) -> impl Iterator<Item = Connection> {
        (0..count).map(|number| {
            let is_v4 = number % 3 > 0;
            let address = |v4: &str, v6: &str| {
                let text = if is_v4 { v4 } else { v6 };
                text.parse::<std::net::IpAddr>().unwrap()
            };
            Connection {
                virtual_address: ServiceKey {
                    protocol: if number % 2 == 0 {
                        Protocol::Tcp
                    } else {
                        Protocol::Udp
                    },
                    address: (address("192.0.2.80", "2001:db8::80"), 80).into(),
                },
                client: (address("198.51.100.10", "2001:db8:1::7"), number).into(),
                real: (address("10.0.0.255", "fd00::2"), 65_535).into(),
                source: (number % 5 == 0).then(|| (address("10.0.0.1", "fd00::1"), number).into()),
                state: State::ALL[usize::from(number) % State::ALL.len()],
                expires_in: Duration::from_micros(u64::from(number).pow(3) * 999),
            }
        })
    }

    fn report(count: u16, limit: Option<usize>) -> ListReport<view::Connection> {
        let listing = Listing::new(move |take| {
            let _ = connections(count).try_for_each(take);
            Ok(())
        });
        ListReport::new(listing.map(view::Connection::from), limit)
    }

    #[test]
    fn the_stream_equals_serdes_json_but_for_line_breaks() {
        for (count, limit) in [
            (0, None),
            (1, None),
            (2, Some(1)),
            (5000, None),
            (5000, Some(4999)),
            (40, Some(40)),
        ] {
            let mut chunks = Vec::new();
            let flow = write(report(count, limit), &FORM, |chunk| {
                chunks.push(chunk);
                ControlFlow::Continue(())
            });
            assert!(flow.is_continue());
            assert!(chunks.iter().all(|chunk| chunk.len() < CHUNK_BYTES + 512));
            assert_eq!(chunks.len() > 5, count == 5000);
            let text = String::from_utf8(chunks.concat()).unwrap();
            let (connections, more) = report(count, limit).finished().unwrap();
            let expected = view::Connections { connections, more };
            let as_serde = serde_json::to_string(&expected).unwrap();
            assert_eq!(text.replace('\n', ""), as_serde);
            assert_eq!(
                text.lines().count(),
                match expected.connections.len() {
                    0 => 1,
                    lines => lines + 2,
                }
            );
            assert_eq!(
                serde_json::from_str::<view::Connections>(&text).unwrap(),
                expected
            );
        }
    }

    #[test]
    fn a_reader_that_stops_ends_the_list() {
        let mut chunks = 0;
        let flow = write(report(60_000, None), &FORM, |_| {
            chunks += 1;
            if chunks == 2 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        assert!(flow.is_break());
        assert_eq!(chunks, 2);
    }
}
