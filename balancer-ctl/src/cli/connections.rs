//! connections: the connection table.

use std::{
    fmt::Write as _,
    io::{self, BufWriter, Write as _},
    net::IpAddr,
};

use hyper::Method;

use super::{
    CommandError, Context,
    arguments::{self, Connections as Arguments},
    long_list::{copy_answer, minutes},
    render::counted,
    table::{Column, Layout, indent, layout},
    with_query,
};
use crate::model::{
    address::RealRef,
    connections::ClientRef,
    prefix::Prefix,
    view::{Connection, Connections, ConnectionsClosed},
};

pub async fn list(context: &Context, arguments: Arguments) -> Result<(), CommandError> {
    let Arguments {
        persistence,
        client,
        service,
        real,
        state,
        limit,
        close,
        all,
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
    let filters = [
        ("client", client.map(|client| client.to_string())),
        (
            "service",
            service.named()?.map(|service| service.to_string()),
        ),
        ("real", real.map(|real| real.to_string())),
        ("state", state.map(str::to_owned)),
        ("limit", limit.map(|limit| limit.to_string())),
        ("all", all.then(|| "true".to_owned())),
    ];
    // A limit of 0 is none.
    let is_given = |(name, value): &(&str, Option<String>)| {
        value.is_some() && (*name != "limit" || limit != Some(0))
    };
    let says_which = filters.iter().any(is_given);
    let target = with_query("/v1/connections", filters);
    if close {
        if !says_which {
            return Err(CommandError::Usage(
                "say which connections to close: give --client, --service, --real, --state or --limit, or --all for all"
                    .to_owned(),
            ));
        }
        let none = None::<&()>;
        let closed: ConnectionsClosed = context.client.send(Method::DELETE, &target, none).await?;
        return context.print(&closed, |closed| {
            format!("{} closed\n", counted(closed.closed, "connection"))
        });
    }
    if context.json {
        return copy_answer(context, &target).await;
    }
    let connections: Connections = context.client.get(&target).await?;
    let mut output = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    write(&connections, context.width, &mut output)?;
    Ok(output.flush()?)
}

/// The client that keeps a server.
fn kept_client(client: ClientRef) -> Result<Prefix, CommandError> {
    match client.port {
        None => Ok(client.prefix),
        Some(_) => Err(portless("client", client.prefix.address)),
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
const COLUMNS: [Column; 6] = [
    Column::Left,
    Column::Left,
    Column::Right,
    Column::Left,
    Column::Left,
    Column::Left,
];

/// Writes a table as [`super::table::table`] does for a terminal of `width` columns, without holding all its cells in memory.
fn write(
    connections: &Connections,
    width: Option<usize>,
    output: &mut impl io::Write,
) -> io::Result<()> {
    let mut cells: [String; 6] = TITLES.map(str::to_owned);
    let mut widths = cells.each_ref().map(|cell| cell.chars().count());
    for connection in &connections.connections {
        fill(&mut cells, connection);
        for (width, cell) in widths.iter_mut().zip(&cells) {
            *width = cell.len().max(*width);
        }
    }
    let layout = layout(&COLUMNS, &widths, width.unwrap_or(usize::MAX));
    cells = TITLES.map(str::to_owned);
    write_row(&cells, &layout, output)?;
    for connection in &connections.connections {
        fill(&mut cells, connection);
        write_row(&cells, &layout, output)?;
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
    if let Some(source) = connection.source {
        let _ = write!(real, " from {source}");
    }
}

fn write_row(cells: &[String; 6], layout: &Layout, output: &mut impl io::Write) -> io::Result<()> {
    for (number, line) in layout.iter().enumerate() {
        write!(output, "{:1$}", "", indent(number))?;
        for (position, (column, width)) in line.iter().enumerate() {
            let gap = if position == 0 { "" } else { "  " };
            let cell = &cells[*column];
            if COLUMNS[*column] == Column::Right {
                write!(output, "{gap}{cell:>width$}")?;
            } else if position == line.len() - 1 {
                write!(output, "{gap}{cell}")?;
            } else {
                write!(output, "{gap}{cell:<width$}")?;
            }
        }
        writeln!(output)?;
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
            source: None,
        };
        let text = |connections: &Connections, width| {
            let mut output = Vec::new();
            write(connections, width, &mut output).unwrap();
            String::from_utf8(output).unwrap()
        };
        let none = Connections {
            connections: Vec::new(),
            more: false,
        };
        assert_eq!(
            text(&none, Some(40)),
            "Protocol  State  Expires  Client\n      Virtual  Real\n"
        );
        let mut some = Connections {
            connections: vec![
                connection(899_999, "198.51.100.10:40000"),
                connection(7_200_000, "198.51.100.1:1"),
            ],
            more: true,
        };
        assert_eq!(
            text(&some, None),
            "Protocol  State        Expires  Client               Virtual        Real\n\
             tcp       established    14:59  198.51.100.10:40000  192.0.2.80:80  10.0.0.2:8080\n\
             tcp       established   120:00  198.51.100.1:1       192.0.2.80:80  10.0.0.2:8080\n\
             2 connections shown, there are more: `--limit 0` shows all\n"
        );
        some.connections[1].source = Some("10.0.0.1:20000".parse().unwrap());
        assert!(text(&some, None).contains("192.0.2.80:80  10.0.0.2:8080 from 10.0.0.1:20000\n"));
        some.connections[1].source = None;
        some.more = false;
        some.connections[0].client = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535"
            .parse()
            .unwrap();
        assert_eq!(
            text(&some, Some(80)),
            "Protocol  State        Expires  Client
      Virtual        Real
tcp       established    14:59  [2001:db8:1111:2222:3333:4444:5555:6666]:65535
      192.0.2.80:80  10.0.0.2:8080
tcp       established   120:00  198.51.100.1:1
      192.0.2.80:80  10.0.0.2:8080
"
        );
        assert_eq!(
            text(&some, Some(60)),
            "Protocol  State        Expires
      Client
      Virtual        Real
tcp       established    14:59
      [2001:db8:1111:2222:3333:4444:5555:6666]:65535
      192.0.2.80:80  10.0.0.2:8080
tcp       established   120:00
      198.51.100.1:1
      192.0.2.80:80  10.0.0.2:8080
"
        );
    }
}
