//! Nodes that share VIPs: how they become a pair, who has the VIPs, and whether their services are alike.

use std::io::{self, BufRead, IsTerminal as _, Read as _, Write as _};

use hyper::Method;
use serde::Serialize;
use zeroize::Zeroizing;

use super::{
    CommandError, Context,
    arguments::{Failover, JoinNode, MaintainNode, Node, OtherNode},
    encoded,
    render::as_lines,
};
use crate::{api::ChangeResult, model::view::NodeKey};

/// Longest text in bytes in which a key is looked for.
const MAX_KEY_TEXT: u64 = 4096;

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
                    "write the key and the node's address, as in `bk1-...@192.168.9.1`, or `-@192.168.9.1` with the key on standard input: `balancer-ctl node key` there prints the key"
                        .to_owned(),
                ));
            };
            let read;
            let key = match key {
                "-" => {
                    read = key_from(io::stdin().lock(), io::stdin().is_terminal())?;
                    read.trim()
                }
                key => key,
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
        Node::Maintenance(MaintainNode { force }) => {
            let target = format!("/v1/node/maintenance?force={force}");
            context.change(Method::POST, &target).await
        }
        Node::Ready => context.change(Method::DELETE, "/v1/node/maintenance").await,
    }
}

/// Reads a key: a line that is typed, which is asked for, or all that is there.
fn key_from(input: impl BufRead, is_typed: bool) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    if is_typed {
        write!(io::stderr(), "key: ")?;
        input.take(MAX_KEY_TEXT).read_line(&mut text)?;
    } else {
        input.take(MAX_KEY_TEXT).read_to_string(&mut text)?;
    }
    Ok(text)
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
        notes => as_lines(notes),
    })
}

fn of_node(path: &str, OtherNode { node }: &OtherNode) -> String {
    match node {
        None => path.to_owned(),
        Some(node) => format!("{path}?node={}", encoded(node)),
    }
}
