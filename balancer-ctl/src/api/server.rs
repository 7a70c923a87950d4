//! The control socket's routes: each turns an HTTP request into a message to the daemon.

use std::time::Duration;

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::StatusCode,
    middleware::from_fn,
    response::IntoResponse,
    routing::{get, post},
};
use balancer_common::tcp;
use serde::Deserialize;

use super::{
    EditReal, EditService, NewReal, NewService,
    accept::bounded,
    connections,
    daemon_handle::DaemonHandle,
    follow::events,
    persistence,
    refusal::{Refused, refuse},
    request::{Answer, Parameters, Segments, invalid, json, limit, or_default, parsed},
};
use crate::{
    control::{
        daemon::{self, ConnectionPolicy, Message, Scope},
        load::check_problem,
        report,
    },
    model::{
        ServiceKey,
        address::{self, RealRef, ServiceRef, service_address},
        connections::ConnectionFilter,
        error::ApiError,
        peers::node_address,
        service::ServiceSettings,
    },
    peer::{
        Removal,
        message::{ReplyBody, RequestBody},
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
        .route("/v1/connections", get(list_connections))
        .route("/v1/trace", get(trace))
        .route(
            "/v1/persistence",
            get(persistence::list).delete(persistence::delete),
        )
        .route("/v1/events", get(events))
        .route("/v1/reload", post(reload))
        .route("/v1/failover", post(failover))
        .route(
            "/v1/node/maintenance",
            post(node_maintenance).delete(node_ready),
        )
        .route("/v1/node/key", post(node_key))
        .route("/v1/node/join", post(node_join))
        .route("/v1/nodes/{name}", axum::routing::delete(node_remove))
        .route("/v1/diff", get(diff))
        .route("/v1/push", post(push))
        .route("/v1/zero", post(zero))
        .route(
            "/v1/services",
            get(services).post(add_service).delete(clear),
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FailoverQuery {
    to: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeQuery {
    node: Option<String>,
}

/// The body of a request to join.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Join {
    key: String,
    address: String,
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

const fn scope(runtime: bool) -> Scope {
    if runtime { Scope::Runtime } else { Scope::File }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConnectionsQuery {
    client: Option<String>,
    service: Option<String>,
    real: Option<String>,
    state: Option<String>,
    #[serde(default, deserialize_with = "limit")]
    limit: Option<usize>,
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
        return Ok(axum::Json(first).into_response());
    }
    let began = tokio::time::Instant::now();
    tokio::time::sleep(RATE_INTERVAL).await;
    let mut second = daemon
        .ask(|reply| Message::Services(service, reply))
        .await?;
    let milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    report::add_rates(&first, &mut second, milliseconds);
    Ok(axum::Json(second).into_response())
}

async fn status(State(daemon): State<DaemonHandle>) -> Answer {
    Ok(axum::Json(daemon.ask(Message::Status).await?).into_response())
}

async fn health(State(daemon): State<DaemonHandle>, query: Parameters<HealthQuery>) -> Answer {
    let service = query.0?.service.map(|text| parsed(&text)).transpose()?;
    let health = daemon.ask(|reply| Message::Health(service, reply)).await?;
    Ok(axum::Json(health.finished().await?).into_response())
}

async fn ready(State(daemon): State<DaemonHandle>) -> Answer {
    daemon
        .ask(Message::Status)
        .await
        .map_err(|refusal| Refused(StatusCode::SERVICE_UNAVAILABLE, refusal.sentence))?;
    Ok("ok\n".into_response())
}

async fn list_connections(
    State(daemon): State<DaemonHandle>,
    query: Parameters<ConnectionsQuery>,
) -> Answer {
    let ConnectionsQuery {
        client,
        service,
        real,
        state,
        limit,
    } = query.0?;
    let host = |text: Option<String>| {
        let host = text.map(|text| parsed::<RealRef>(&text)).transpose()?;
        Ok::<_, ApiError>(host.map(|host| (host.address, host.port)))
    };
    let filter = ConnectionFilter {
        client: host(client)?,
        service: None,
        real: host(real)?,
        state: state.map(|name| connection_state(&name)).transpose()?,
        limit: or_default(limit),
    };
    let service = service.map(|text| parsed(&text)).transpose()?;
    let report = daemon
        .ask(|reply| Message::Connections(service, filter, reply))
        .await?;
    Ok(connections::answer(report))
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
    Ok(axum::Json(answer).into_response())
}

fn connection_state(name: &str) -> Result<tcp::State, ApiError> {
    tcp::State::ALL
        .into_iter()
        .find(|state| state.name() == name)
        .ok_or_else(|| {
            let names = tcp::State::ALL.map(tcp::State::name);
            ApiError::invalid(format!(
                "state `{name}` is not known: expected {}",
                crate::model::enumeration::listed(&names)
            ))
        })
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

/// Refuses settings whose checks name files or programs that are missing or bad. This is done here because a slow disk would
/// delay the daemon.
async fn check_files(settings: ServiceSettings) -> Result<ServiceSettings, ApiError> {
    if settings.checks.as_ref().is_none_or(Vec::is_empty) {
        return Ok(settings);
    }
    let checked = tokio::task::spawn_blocking(move || {
        let checks = settings.checks.iter().flatten();
        let problem = checks.filter_map(check_problem).next();
        problem.map_or(Ok(settings), |sentence| Err(ApiError::invalid(sentence)))
    });
    checked
        .await
        .map_err(|error| ApiError::failed(format!("cannot look at files: {error}")))?
}

async fn changed(
    daemon: &DaemonHandle,
    request: daemon::Request,
    query: Parameters<ChangeQuery>,
) -> Answer {
    send(daemon, request, scope(query.0?.runtime)).await
}

async fn send(daemon: &DaemonHandle, request: daemon::Request, scope: Scope) -> Answer {
    let notes = daemon
        .ask(|reply| Message::Change(vec![request], scope, reply))
        .await?;
    done(notes)
}

async fn reload(State(daemon): State<DaemonHandle>) -> Answer {
    daemon.ask(Message::Reload).await?;
    done(Vec::new())
}

/// Answers when another node has taken over, or none has.
async fn failover(State(daemon): State<DaemonHandle>, query: Parameters<FailoverQuery>) -> Answer {
    if let Some(node) = query.0?.to {
        let ask = |reply| Message::AskNode(Some(node), RequestBody::Succeed, reply);
        let (_, ready) = daemon.ask(ask).await?;
        ready.finished().await?;
    }
    let leaving = daemon.ask(Message::GiveUp).await?;
    done(leaving.finished().await?)
}

async fn node_key(State(daemon): State<DaemonHandle>) -> Answer {
    Ok(axum::Json(daemon.ask(Message::NodeKey).await?).into_response())
}

/// Answers when this node has joined.
async fn node_join(State(daemon): State<DaemonHandle>, body: Bytes) -> Answer {
    let Join { key, address } = json(&body)?;
    let address = node_address(&address)
        .map_err(|sentence| ApiError::invalid(format!("`{address}` {sentence}")))?;
    let joining = daemon
        .ask(|reply| Message::NodeJoin(key.clone(), address, reply))
        .await?;
    let nodes = joining.finished().await?;
    daemon.ask(|reply| Message::KeepNodeKey(key, reply)).await?;
    let names: Vec<_> = nodes.into_iter().map(|node| node.name).collect();
    done(vec![format!("the nodes are now {}", names.join(", "))])
}

async fn node_remove(State(daemon): State<DaemonHandle>, name: Segments<String>) -> Answer {
    let name = name.0?;
    let removing = daemon
        .ask(|reply| Message::NodeRemove(name.clone(), reply))
        .await?;
    done(match removing.finished().await? {
        Removal::Told => Vec::new(),
        Removal::Unreached => vec![format!(
            "{name} did not answer: it is not let in any more, and is told when it comes back"
        )],
    })
}

/// Answers with what another node's services have other than this node's.
async fn diff(State(daemon): State<DaemonHandle>, query: Parameters<NodeQuery>) -> Answer {
    let node = query.0?.node;
    let ask = |reply| Message::AskNode(node, RequestBody::Services, reply);
    let (name, services) = daemon.ask(ask).await?;
    let ReplyBody::Services { text } = services.finished().await? else {
        return Err(ApiError::failed(format!("node {name} did not tell its services")).into());
    };
    done(
        daemon
            .ask(|reply| Message::Differences(text, reply))
            .await?,
    )
}

/// Answers when another node has this node's services, or has refused them.
async fn push(State(daemon): State<DaemonHandle>, query: Parameters<NodeQuery>) -> Answer {
    let node = query.0?.node;
    let (name, pushed) = daemon.ask(|reply| Message::Push(node, reply)).await?;
    pushed
        .finished()
        .await
        .map_err(|refusal| ApiError::failed(format!("node {name} refused: {refusal}")))?;
    done(vec![format!("{name} has this node's services")])
}

async fn node_maintenance(State(daemon): State<DaemonHandle>) -> Answer {
    daemon
        .ask(|reply| Message::NodeMaintenance(true, reply))
        .await?;
    done(Vec::new())
}

async fn node_ready(State(daemon): State<DaemonHandle>) -> Answer {
    daemon
        .ask(|reply| Message::NodeMaintenance(false, reply))
        .await?;
    done(Vec::new())
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

#[expect(clippy::unnecessary_wraps, reason = "handlers return it")]
fn done(notes: Vec<String>) -> Answer {
    Ok(axum::Json(super::ChangeResult { notes }).into_response())
}
