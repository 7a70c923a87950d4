//! connections: the connection table.

use super::{
    Context, Failure,
    arguments::Connections as Arguments,
    encoded,
    render::{Align, counted, table},
};
use crate::view::Connections;

pub async fn list(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    let Arguments {
        client,
        service,
        real,
        state,
        limit,
    } = arguments;
    let filters = [
        ("client", client.map(|client| client.to_string())),
        (
            "service",
            service.named()?.map(|service| service.to_string()),
        ),
        ("real", real.map(|real| real.to_string())),
        ("state", state.map(str::to_owned)),
        ("limit", limit.map(|limit| limit.to_string())),
    ];
    let query: Vec<_> = filters
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", encoded(&value?))))
        .collect();
    let connections: Connections = context
        .client
        .get(&format!("/v1/connections?{}", query.join("&")))
        .await?;
    context.print(&connections, rendered)
}

fn rendered(connections: &Connections) -> String {
    const ALIGN: [Align; 6] = [
        Align::Left,
        Align::Left,
        Align::Right,
        Align::Left,
        Align::Left,
        Align::Left,
    ];
    let title = ["Protocol", "State", "Expires", "Client", "Virtual", "Real"]
        .map(str::to_owned)
        .to_vec();
    let lines = connections.connections.iter().map(|connection| {
        vec![
            connection.protocol.to_string(),
            connection.state.clone(),
            minutes(connection.expires_in_ms),
            connection.client.to_string(),
            connection.virtual_address.to_string(),
            connection.real.to_string(),
        ]
    });
    let rows: Vec<_> = std::iter::once(title).chain(lines).collect();
    let mut text = table(&ALIGN, &rows);
    if connections.more {
        let shown = counted(connections.connections.len() as u64, "connection");
        text.push_str(&format!(
            "{shown} shown, there are more: `--limit 0` shows all\n"
        ));
    }
    text
}

/// Minutes and seconds, as in 14:59.
fn minutes(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    format!("{:02}:{:02}", seconds / 60, seconds % 60)
}
