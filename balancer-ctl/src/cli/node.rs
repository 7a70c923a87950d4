//! Nodes that share VIPs: how they become a pair, who has the VIPs, and whether their services are alike.

use hyper::Method;
use serde::Serialize;

use super::{
    CommandError, Context,
    arguments::{Failover, JoinNode, Node, OtherNode},
    encoded,
};
use crate::{api::ChangeResult, model::view::NodeKey};

/// The body of a request to join.
#[derive(Serialize)]
struct Join<'a> {
    key: &'a str,
    address: &'a str,
}

pub async fn node(context: &Context, node: Node) -> Result<(), CommandError> {
    match node {
        Node::Key => {
            let key: NodeKey = context
                .client
                .send(Method::POST, "/v1/node/key", None::<&()>)
                .await?;
            context.print(&key, |key| format!("{}\n", key.key))
        }
        Node::Join(JoinNode { target }) => {
            let Some((key, address)) = target.split_once('@') else {
                return Err(CommandError::Usage(
                    "write the key and the node's address, as in `bk1-...@192.168.9.1`: `balancer-ctl node key` there prints the key"
                        .to_owned(),
                ));
            };
            let body = Join { key, address };
            context
                .change_with(Method::POST, "/v1/node/join", Some(&body))
                .await
        }
        Node::Remove(node) => {
            let target = format!("/v1/nodes/{}", encoded(&node.name));
            context.change(Method::DELETE, &target).await
        }
        Node::Maintenance => context.change(Method::POST, "/v1/node/maintenance").await,
        Node::Ready => context.change(Method::DELETE, "/v1/node/maintenance").await,
    }
}

pub async fn failover(context: &Context, failover: &Failover) -> Result<(), CommandError> {
    let target = match &failover.to {
        None => "/v1/failover".to_owned(),
        Some(node) => format!("/v1/failover?to={}", encoded(node)),
    };
    context.change(Method::POST, &target).await
}

pub async fn push(context: &Context, other: &OtherNode) -> Result<(), CommandError> {
    context
        .change(Method::POST, &of_node("/v1/push", other))
        .await
}

pub async fn diff(context: &Context, other: &OtherNode) -> Result<(), CommandError> {
    let answer: ChangeResult = context.client.get(&of_node("/v1/diff", other)).await?;
    context.print(&answer, |answer| match &answer.notes[..] {
        [] => "the services are the same\n".to_owned(),
        notes => notes.iter().map(|note| format!("{note}\n")).collect(),
    })
}

fn of_node(path: &str, OtherNode { node }: &OtherNode) -> String {
    match node {
        None => path.to_owned(),
        Some(node) => format!("{path}?node={}", encoded(node)),
    }
}
