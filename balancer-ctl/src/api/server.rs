//! The control socket's routes: each turns an HTTP request into a message to the daemon.

use std::time::Duration;

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    middleware::from_fn,
    response::IntoResponse,
    routing::{get, post},
};
use serde::Deserialize;

use super::{
    EditReal, EditService, NewReal, NewService,
    accept::bounded,
    answer::Json,
    connections,
    daemon_handle::DaemonHandle,
    follow::events,
    nodes, persistence,
    refusal::{Refused, refuse},
    replace,
    request::{Answer, Parameters, Segments, check_files, done, invalid, json, parsed, scope},
};
use crate::{
    control::{
        daemon::{self, ConnectionPolicy, Message, Scope},
        report,
    },
    model::{
        ServiceKey,
        address::{self, ServiceRef, service_address},
    },
};

/// Time between the two readings of the counters from which rates are computed.
const RATE_INTERVAL: Duration = Duration::from_secs(1);

/// All routes.
pub fn router(daemon: DaemonHandle) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/v1/status", get(status))
        .route("/v1/health", get(health))
        .route(
            "/v1/connections",
            get(connections::list).delete(connections::close),
        )
        .route("/v1/trace", get(trace))
        .route(
            "/v1/persistence",
            get(persistence::list).delete(persistence::delete),
        )
        .route("/v1/events", get(events))
        .route("/v1/reload", post(reload))
        .route("/v1/failover", post(nodes::failover))
        .route(
            "/v1/node/maintenance",
            post(nodes::node_maintenance).delete(nodes::node_ready),
        )
        .route("/v1/node/key", post(nodes::node_key))
        .route("/v1/node/join", post(nodes::node_join))
        .route(
            "/v1/nodes/{name}",
            axum::routing::delete(nodes::node_remove),
        )
        .route("/v1/diff", get(nodes::diff))
        .route("/v1/push", post(nodes::push))
        .route("/v1/zero", post(zero))
        .route(
            "/v1/services",
            get(services)
                .post(add_service)
                .put(replace::replace)
                .delete(clear),
        )
        .route(
            "/v1/services/{service}",
            get(service).patch(edit_service).delete(del_service),
        )
        .route("/v1/services/{service}/zero", post(zero_service))
        .route("/v1/services/{service}/reals", post(add_real))
        .route(
            "/v1/services/{service}/reals/{real}",
            axum::routing::patch(edit_real).delete(del_real),
        )
        .fallback(async || refuse(StatusCode::NOT_FOUND, "there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            refuse(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path does not take this method",
            )
        })
        .layer(from_fn(bounded))
        // `bounded` limits bodies.
        .layer(DefaultBodyLimit::disable())
        .with_state(daemon)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServicesQuery {
    service: Option<String>,
    #[serde(default)]
    rate: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HealthQuery {
    service: Option<String>,
}

/// The query of a change.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeQuery {
    #[serde(default)]
    runtime: bool,
}

/// The query of a real server's deletion.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DelRealQuery {
    #[serde(default)]
    runtime: bool,
    #[serde(default)]
    purge: bool,
}

async fn services(State(daemon): State<DaemonHandle>, query: Parameters<ServicesQuery>) -> Answer {
    let ServicesQuery { service, rate } = query.0?;
    let service = service.map(|text| parsed(&text)).transpose()?;
    listed(&daemon, service, rate).await
}

async fn service(
    State(daemon): State<DaemonHandle>,
    service: Segments<String>,
    query: Parameters<ServicesQuery>,
) -> Answer {
    listed(&daemon, Some(parsed(&service.0?)?), query.0?.rate).await
}

async fn listed(daemon: &DaemonHandle, service: Option<ServiceRef>, rate: bool) -> Answer {
    let first = daemon
        .ask(|reply| Message::Services(service.clone(), reply))
        .await?;
    if !rate {
        return Ok(Json(first).into_response());
    }
    let began = tokio::time::Instant::now();
    tokio::time::sleep(RATE_INTERVAL).await;
    let mut second = daemon
        .ask(|reply| Message::Services(service, reply))
        .await?;
    let milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    report::add_rates(&first, &mut second, milliseconds);
    Ok(Json(second).into_response())
}

async fn status(State(daemon): State<DaemonHandle>) -> Answer {
    Ok(Json(daemon.ask(Message::Status).await?).into_response())
}

async fn health(State(daemon): State<DaemonHandle>, query: Parameters<HealthQuery>) -> Answer {
    let service = query.0?.service.map(|text| parsed(&text)).transpose()?;
    let health = daemon.ask(|reply| Message::Health(service, reply)).await?;
    Ok(Json(health.finished().await?).into_response())
}

async fn ready(State(daemon): State<DaemonHandle>) -> Answer {
    daemon
        .ask(Message::Status)
        .await
        .map_err(|refusal| Refused(StatusCode::SERVICE_UNAVAILABLE, refusal.sentence))?;
    Ok("ok\n".into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TraceQuery {
    client: String,
    service: Option<String>,
}

async fn trace(State(daemon): State<DaemonHandle>, query: Parameters<TraceQuery>) -> Answer {
    let TraceQuery { client, service } = query.0?;
    let client = address::client(&client).map_err(invalid)?;
    let service = service.map(|text| parsed(&text)).transpose()?;
    let service = service.unwrap_or(ServiceRef::Only);
    let answer = daemon
        .ask(|reply| Message::Trace(service, client, reply))
        .await?;
    Ok(Json(answer).into_response())
}

async fn add_service(
    State(daemon): State<DaemonHandle>,
    query: Parameters<ChangeQuery>,
    body: Bytes,
) -> Answer {
    let body: NewService = json(&body)?;
    let address = service_address(&body.address).map_err(invalid)?;
    let protocol = body.protocol.unwrap_or_default();
    let settings = check_files(body.settings.with_checks(super::checks)?).await?;
    changed(
        &daemon,
        daemon::Request::AddService(ServiceKey { protocol, address }, settings),
        query,
    )
    .await
}

async fn edit_service(
    State(daemon): State<DaemonHandle>,
    service: Segments<String>,
    query: Parameters<ChangeQuery>,
    body: Bytes,
) -> Answer {
    let body: EditService = json(&body)?;
    let service = parsed(&service.0?)?;
    let settings = check_files(body.with_checks(super::checks)?).await?;
    changed(
        &daemon,
        daemon::Request::EditService(service, settings),
        query,
    )
    .await
}

async fn del_service(
    State(daemon): State<DaemonHandle>,
    service: Segments<String>,
    query: Parameters<ChangeQuery>,
) -> Answer {
    changed(
        &daemon,
        daemon::Request::DelService(parsed(&service.0?)?),
        query,
    )
    .await
}

async fn clear(State(daemon): State<DaemonHandle>, query: Parameters<ChangeQuery>) -> Answer {
    changed(&daemon, daemon::Request::Clear, query).await
}

async fn add_real(
    State(daemon): State<DaemonHandle>,
    service: Segments<String>,
    query: Parameters<ChangeQuery>,
    body: Bytes,
) -> Answer {
    let body: NewReal = json(&body)?;
    let (service, real) = (parsed(&service.0?)?, parsed(&body.address)?);
    changed(
        &daemon,
        daemon::Request::AddReal(service, real, body.settings),
        query,
    )
    .await
}

async fn edit_real(
    State(daemon): State<DaemonHandle>,
    segments: Segments<(String, String)>,
    query: Parameters<ChangeQuery>,
    body: Bytes,
) -> Answer {
    let body: EditReal = json(&body)?;
    let (service, real) = segments.0?;
    changed(
        &daemon,
        daemon::Request::EditReal(parsed(&service)?, parsed(&real)?, body),
        query,
    )
    .await
}

async fn del_real(
    State(daemon): State<DaemonHandle>,
    segments: Segments<(String, String)>,
    query: Parameters<DelRealQuery>,
) -> Answer {
    let DelRealQuery { runtime, purge } = query.0?;
    let (service, real) = segments.0?;
    let leftover = if purge {
        ConnectionPolicy::Purge
    } else {
        ConnectionPolicy::Keep
    };
    let request = daemon::Request::DelReal(parsed(&service)?, parsed(&real)?, leftover);
    send(&daemon, request, scope(runtime)).await
}

async fn changed(
    daemon: &DaemonHandle,
    request: daemon::Request,
    query: Parameters<ChangeQuery>,
) -> Answer {
    send(daemon, request, scope(query.0?.runtime)).await
}

async fn send(daemon: &DaemonHandle, request: daemon::Request, scope: Scope) -> Answer {
    let result = daemon
        .ask(|reply| Message::Change(vec![request], scope, reply))
        .await?;
    Ok(Json(result).into_response())
}

async fn reload(State(daemon): State<DaemonHandle>) -> Answer {
    done(daemon.ask(Message::Reload).await?)
}

async fn zero(State(daemon): State<DaemonHandle>) -> Answer {
    daemon.ask(|reply| Message::Zero(None, reply)).await?;
    done(Vec::new())
}

async fn zero_service(State(daemon): State<DaemonHandle>, service: Segments<String>) -> Answer {
    let service = parsed(&service.0?)?;
    daemon
        .ask(|reply| Message::Zero(Some(service), reply))
        .await?;
    done(Vec::new())
}
