//! The routes of nodes that share VIPs: how they become a pair, who has the VIPs, whether their services are alike.

use axum::{body::Bytes, extract::State, response::IntoResponse};
use serde::Deserialize;

use super::{
    answer::Json,
    daemon_handle::DaemonHandle,
    request::{Answer, Parameters, Segments, done, json},
};
use crate::{
    control::daemon::Message,
    model::{error::ApiError, peers::node_address},
    peer::{
        Removal,
        message::{ReplyBody, RequestBody},
    },
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailoverQuery {
    to: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeQuery {
    node: Option<String>,
}

/// The body of a request to join.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    key: String,
    address: String,
}

/// The query of going into maintenance.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaintenanceQuery {
    #[serde(default)]
    force: bool,
}

/// Answers when another node has taken over, or none has.
pub async fn failover(
    State(daemon): State<DaemonHandle>,
    query: Parameters<FailoverQuery>,
) -> Answer {
    if let Some(node) = query.0?.to {
        let ask = |reply| Message::AskNode(Some(node), RequestBody::Succeed, reply);
        let (_, ready) = daemon.ask(ask).await?;
        ready.finished().await?;
    }
    let leaving = daemon.ask(Message::GiveUp).await?;
    done(leaving.finished().await?)
}

pub async fn node_key(State(daemon): State<DaemonHandle>) -> Answer {
    Ok(Json(daemon.ask(Message::NodeKey).await?).into_response())
}

/// Answers when this node has joined.
pub async fn node_join(State(daemon): State<DaemonHandle>, body: Bytes) -> Answer {
    let Join { key, address } = json(&body)?;
    let address = node_address(&address)
        .map_err(|sentence| ApiError::invalid(format!("`{address}` {sentence}")))?;
    let nodes = daemon
        .ask(|reply| Message::NodeJoin(key, address, reply))
        .await?;
    let names: Vec<_> = nodes.into_iter().map(|node| node.name).collect();
    done(vec![format!("the nodes are now {}", names.join(", "))])
}

pub async fn node_remove(State(daemon): State<DaemonHandle>, name: Segments<String>) -> Answer {
    let name = name.0?;
    let removing = daemon
        .ask(|reply| Message::NodeRemove(name.clone(), reply))
        .await?;
    done(removal_notes(removing.finished().await?, &name))
}

/// What an operator has to know once a node was taken out.
fn removal_notes(removal: Removal, name: &str) -> Vec<String> {
    let unheard = match removal {
        Removal::Told => None,
        Removal::Unreached => Some(format!(
            "{name} did not answer: it is not let in any more, and is told when it comes back"
        )),
        Removal::LeftUnheard => Some(format!(
            "this node has left, and no other node heard it: take it out there as well, with `balancer-ctl node remove {name}`"
        )),
    };
    let stays = format!(
        "{name} keeps its virtual routers, so it can still take the VIPs: stop balancerd there, or take the [[vrrp]] blocks out of its \
         file and reload it"
    );
    unheard.into_iter().chain([stays]).collect()
}

/// Answers with what another node's services have other than this node's.
pub async fn diff(State(daemon): State<DaemonHandle>, query: Parameters<NodeQuery>) -> Answer {
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
pub async fn push(State(daemon): State<DaemonHandle>, query: Parameters<NodeQuery>) -> Answer {
    let node = query.0?.node;
    let (name, pushed) = daemon.ask(|reply| Message::Push(node, reply)).await?;
    pushed
        .finished()
        .await
        .map_err(|refusal| ApiError::failed(format!("node {name} refused: {refusal}")))?;
    done(vec![format!("{name} has this node's services")])
}

/// Answers when another node has the VIPs that this one had. If none takes them, they stay and so does the node, unless it is forced.
pub async fn node_maintenance(
    State(daemon): State<DaemonHandle>,
    query: Parameters<MaintenanceQuery>,
) -> Answer {
    let is_forced = query.0?.force;
    let left = match daemon.ask(Message::GiveUpAll).await {
        Ok(Some(leaving)) => leaving.finished().await,
        Ok(None) => Ok(Vec::new()),
        Err(refusal) => Err(refusal),
    };
    let notes = match left {
        Ok(said) => said,
        Err(_) if is_forced => vec![
            "no other node took over: the VIPs are on no node, as far as this one knows".to_owned(),
        ],
        Err(refusal) => {
            let sentence = format!(
                "{}; or take the VIPs out of service with `balancer-ctl node maintenance --force`",
                refusal.sentence
            );
            return Err(ApiError {
                sentence,
                ..refusal
            }
            .into());
        }
    };
    daemon
        .ask(|reply| Message::NodeMaintenance(true, reply))
        .await?;
    done(notes)
}

pub async fn node_ready(State(daemon): State<DaemonHandle>) -> Answer {
    daemon
        .ask(|reply| Message::NodeMaintenance(false, reply))
        .await?;
    done(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_was_taken_out_can_still_take_the_vips() {
        let stays = "lb3 keeps its virtual routers, so it can still take the VIPs: stop balancerd there, or take the [[vrrp]] blocks \
                     out of its file and reload it";
        assert_eq!(removal_notes(Removal::Told, "lb3"), [stays]);
        assert_eq!(
            removal_notes(Removal::Unreached, "lb3"),
            [
                "lb3 did not answer: it is not let in any more, and is told when it comes back",
                stays
            ]
        );
        assert_eq!(
            removal_notes(Removal::LeftUnheard, "lb3"),
            [
                "this node has left, and no other node heard it: take it out there as well, with `balancer-ctl node remove lb3`",
                stays
            ]
        );
    }
}
