//! `GET` and `DELETE /v1/persistence`.

use axum::{extract::State, response::IntoResponse as _};
use serde::Deserialize;

use super::{
    answer::{Json, json_text},
    daemon_handle::DaemonHandle,
    lists::{self, Form},
    request::{Answer, Parameters, invalid, limit, or_default, parsed},
};
use crate::{
    control::daemon::{Message, PersistenceQuery},
    model::{address, error::ApiError, view},
};

/// The form of [`view::PersistenceEntries`].
const FORM: Form<view::PersistenceEntry> = Form {
    key: "entries",
    write_item,
    end: |more| {
        if more {
            ",\"more\":true}"
        } else {
            ",\"more\":false}"
        }
    },
};

fn write_item(text: &mut String, entry: &view::PersistenceEntry) {
    // Strings and numbers can always be written.
    text.push_str(&json_text(entry).unwrap_or_default());
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    client: Option<String>,
    service: Option<String>,
    group: Option<String>,
    real: Option<String>,
    #[serde(default, deserialize_with = "limit")]
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeleteQuery {
    client: Option<String>,
    service: Option<String>,
    group: Option<String>,
    real: Option<String>,
    /// Whether all are meant where nothing else says which.
    #[serde(default)]
    all: bool,
}

impl ListQuery {
    fn parsed(self) -> Result<PersistenceQuery, ApiError> {
        Ok(PersistenceQuery {
            client: self.client.map(|text| parsed(&text)).transpose()?,
            service: self.service.map(|text| parsed(&text)).transpose()?,
            group: self.group,
            server: self
                .real
                .map(|text| address::server(&text).map_err(invalid))
                .transpose()?,
            limit: or_default(self.limit),
        })
    }
}

impl DeleteQuery {
    fn parsed(self) -> Result<PersistenceQuery, ApiError> {
        let Self {
            client,
            service,
            group,
            real,
            all,
        } = self;
        let is_filtered = [&client, &service, &group, &real]
            .iter()
            .any(|filter| filter.is_some());
        match (is_filtered, all) {
            (false, false) => {
                return Err(ApiError::invalid(
                    "say which clients to forget: client, service, group or real, or all=true for all",
                ));
            }
            (true, true) => {
                return Err(ApiError::invalid(
                    "all=true means all clients: leave it out, or the filters",
                ));
            }
            _ => {}
        }
        let query = ListQuery {
            client,
            service,
            group,
            real,
            limit: None,
        };
        query.parsed()
    }
}

/// Lists the clients that keep a server.
pub async fn list(State(daemon): State<DaemonHandle>, query: Parameters<ListQuery>) -> Answer {
    let query = query.0?.parsed()?;
    let report = daemon
        .ask(|reply| Message::Persistence(query, reply))
        .await?;
    Ok(lists::answer(report, FORM))
}

/// Forgets clients.
pub async fn delete(State(daemon): State<DaemonHandle>, query: Parameters<DeleteQuery>) -> Answer {
    let query = query.0?.parsed()?;
    let report = daemon.ask(|reply| Message::Forget(query, reply)).await?;
    let deleted = tokio::task::spawn_blocking(move || report.finished())
        .await
        .map_err(|error| ApiError::failed(format!("clients cannot be forgotten: {error}")))??;
    Ok(Json(deleted).into_response())
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::{control::daemon::ListReport, dataplane::Listing};

    fn entries() -> Vec<view::PersistenceEntry> {
        let entry = |client: &str, group: Option<&str>, server: &str| view::PersistenceEntry {
            client: client.to_owned(),
            group: group.map(str::to_owned),
            services: vec!["web".to_owned(), "tcp/[2001:db8::80]:443".to_owned()],
            server: server.parse().unwrap(),
            expires_in_ms: 1,
        };
        vec![
            entry("198.51.100.7", Some("shop"), "10.0.0.2"),
            entry("2001:db8::/64", None, "fd00::2"),
        ]
    }

    #[test]
    fn the_stream_equals_serdes_json_but_for_line_breaks() {
        for (limit, lines) in [(None, 4), (Some(1), 3), (Some(0), 1)] {
            let report = || {
                let listing = Listing::new(|take| {
                    let _ = entries().into_iter().try_for_each(take);
                    Ok(())
                });
                ListReport::new(listing, limit)
            };
            let mut text = Vec::new();
            let flow = lists::write(report(), &FORM, |chunk| {
                text.extend(chunk);
                ControlFlow::Continue(())
            });
            assert!(flow.is_continue());
            let text = String::from_utf8(text).unwrap();
            assert_eq!(text.lines().count(), lines);
            let (entries, more) = report().finished().unwrap();
            let expected = view::PersistenceEntries { entries, more };
            let as_serde = serde_json::to_string(&expected).unwrap();
            assert_eq!(text.replace('\n', ""), as_serde);
        }
    }

    #[test]
    fn a_list_that_cannot_be_read_to_its_end_breaks_off() {
        let listing = Listing::new(|take| {
            let _ = entries().into_iter().try_for_each(take);
            Err(anyhow::anyhow!("the kernel refused a call").into())
        });
        let mut chunks = 0;
        let flow = lists::write(ListReport::new(listing, None), &FORM, |_| {
            chunks += 1;
            ControlFlow::Continue(())
        });
        assert!(flow.is_break());
        assert_eq!(chunks, 0);
    }
}
