//! connections: the connection table.

use std::{
    fmt::Write as _,
    io::{self, BufWriter, Write as _},
    net::IpAddr,
};

use super::{
    CommandError, Context,
    arguments::{self, Client, Connections as Arguments},
    long_list::{copy_answer, minutes},
    render::counted,
    with_query,
};
use crate::model::{
    address::RealRef,
    prefix::Prefix,
    view::{Connection, Connections},
};

pub async fn list(context: &Context, arguments: Arguments) -> Result<(), CommandError> {
    let Arguments {
        persistence,
        client,
        service,
        real,
        state,
        limit,
    } = arguments;
    if persistence {
        let arguments = arguments::Persistence {
            client: client.map(kept_client).transpose()?,
            service,
            group: None,
            real: real.map(kept_server).transpose()?,
            limit,
            delete: false,
            all: false,
        };
        return super::persistence::persistence(context, arguments).await;
    }
    let client = client.map(host).transpose()?;
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
    let target = with_query("/v1/connections", filters);
    if context.json {
        return copy_answer(context, &target).await;
    }
    let connections: Connections = context.client.get(&target).await?;
    let mut output = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    write(&connections, &mut output)?;
    Ok(output.flush()?)
}

/// The client of connections.
fn host(client: Client) -> Result<RealRef, CommandError> {
    match client {
        Client::Host(host) => Ok(host),
        Client::Prefix(prefix) => Err(CommandError::Usage(format!(
            "{prefix} is a prefix, and connections have one client: write its address, or use --persistence"
        ))),
    }
}

/// The client that keeps a server.
fn kept_client(client: Client) -> Result<Prefix, CommandError> {
    match client {
        Client::Prefix(prefix) => Ok(prefix),
        Client::Host(RealRef { address, port }) => match port {
            None => Ok(Prefix::of(address, u8::MAX)),
            Some(_) => Err(portless("client", address)),
        },
    }
}

/// The server that clients keep.
fn kept_server(real: RealRef) -> Result<IpAddr, CommandError> {
    match real.port {
        None => Ok(real.address),
        Some(_) => Err(portless("real", real.address)),
    }
}

fn portless(option: &str, address: IpAddr) -> CommandError {
    CommandError::Usage(format!(
        "clients keep servers whatever the port: write `--{option} {address}`"
    ))
}

const TITLES: [&str; 6] = ["Protocol", "State", "Expires", "Client", "Virtual", "Real"];
/// Index of the column that is aligned to the right.
const EXPIRES: usize = 2;

/// Writes a table as `render::table` does, without holding all its cells in memory.
fn write(connections: &Connections, output: &mut impl io::Write) -> io::Result<()> {
    let mut cells: [String; 6] = TITLES.map(str::to_owned);
    let mut widths = cells.each_ref().map(|cell| cell.chars().count());
    for connection in &connections.connections {
        fill(&mut cells, connection);
        for (width, cell) in widths.iter_mut().zip(&cells) {
            *width = cell.len().max(*width);
        }
    }
    cells = TITLES.map(str::to_owned);
    write_line(&cells, &widths, output)?;
    for connection in &connections.connections {
        fill(&mut cells, connection);
        write_line(&cells, &widths, output)?;
    }
    if connections.more {
        let shown = counted(connections.connections.len() as u64, "connection");
        writeln!(
            output,
            "{shown} shown, there are more: `--limit 0` shows all"
        )?;
    }
    Ok(())
}

/// Writes a connection into the cells of a row; all are ASCII, so that their length is their width.
fn fill(cells: &mut [String; 6], connection: &Connection) {
    cells.iter_mut().for_each(String::clear);
    let [protocol, state, expires, client, virtual_address, real] = cells;
    protocol.push_str(connection.protocol.name());
    state.push_str(connection.state.name());
    expires.push_str(&minutes(connection.expires_in_ms));
    for (cell, address) in [
        (client, connection.client),
        (virtual_address, connection.virtual_address),
        (real, connection.real),
    ] {
        // Writing to a string cannot fail.
        let _ = write!(cell, "{address}");
    }
}

fn write_line(
    cells: &[String; 6],
    widths: &[usize; 6],
    output: &mut impl io::Write,
) -> io::Result<()> {
    for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let gap = if column == 0 { "" } else { "  " };
        if column == EXPIRES {
            write!(output, "{gap}{cell:>width$}")?;
        } else if column == cells.len() - 1 {
            writeln!(output, "{gap}{cell}")?;
        } else {
            write!(output, "{gap}{cell:<width$}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_aligned_in_columns() {
        let connection = |expires_in_ms, client: &str| Connection {
            protocol: crate::model::Protocol::Tcp,
            state: balancer_common::tcp::State::Established,
            expires_in_ms,
            client: client.parse().unwrap(),
            virtual_address: "192.0.2.80:80".parse().unwrap(),
            real: "10.0.0.2:8080".parse().unwrap(),
        };
        let text = |connections: Connections| {
            let mut output = Vec::new();
            write(&connections, &mut output).unwrap();
            String::from_utf8(output).unwrap()
        };
        let none = Connections {
            connections: Vec::new(),
            more: false,
        };
        assert_eq!(
            text(none),
            "Protocol  State  Expires  Client  Virtual  Real\n"
        );
        let some = Connections {
            connections: vec![
                connection(899_999, "198.51.100.10:40000"),
                connection(7_200_000, "198.51.100.1:1"),
            ],
            more: true,
        };
        assert_eq!(
            text(some),
            "Protocol  State        Expires  Client               Virtual        Real\n\
             tcp       established    14:59  198.51.100.10:40000  192.0.2.80:80  10.0.0.2:8080\n\
             tcp       established   120:00  198.51.100.1:1       192.0.2.80:80  10.0.0.2:8080\n\
             2 connections shown, there are more: `--limit 0` shows all\n"
        );
    }
}
