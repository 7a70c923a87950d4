//! persistence: which server each client keeps.

use hyper::Method;

use super::{
    CommandError, Context,
    arguments::Persistence as Arguments,
    long_list::{copy_answer, minutes},
    render::counted,
    table::{Column, table},
    with_query,
};
use crate::model::view::{PersistenceDeleted, PersistenceEntries, PersistenceEntry};

pub async fn persistence(context: &Context, arguments: Arguments) -> Result<(), CommandError> {
    let Arguments {
        client,
        service,
        group,
        real,
        limit,
        delete,
        all,
    } = arguments;
    let filters = [
        ("client", client.map(|client| client.to_string())),
        (
            "service",
            service.named()?.map(|service| service.to_string()),
        ),
        ("group", group),
        ("real", real.map(|real| real.to_string())),
        ("limit", limit.map(|limit| limit.to_string())),
        ("all", all.then(|| "true".to_owned())),
    ];
    let is_empty = filters.iter().all(|(_, value)| value.is_none());
    let target = with_query("/v1/persistence", filters);
    if delete {
        if is_empty {
            return Err(CommandError::Usage(
                "say which clients to forget: give --client, --service, --group or --real, or --all for all"
                    .to_owned(),
            ));
        }
        let none = None::<&()>;
        let deleted: PersistenceDeleted =
            context.client.send(Method::DELETE, &target, none).await?;
        return context.print(&deleted, |deleted| {
            format!("{} forgotten\n", counted(deleted.deleted, "client"))
        });
    }
    if context.json {
        return copy_answer(context, &target).await;
    }
    let entries: PersistenceEntries = context.client.get(&target).await?;
    context.print(&entries, |entries| rendered(entries, context.width))
}

fn rendered(entries: &PersistenceEntries, width: Option<usize>) -> String {
    const COLUMNS: [Column; 5] = [
        Column::Left,
        Column::Left,
        Column::Right,
        Column::Left,
        Column::Text,
    ];
    let title = ["Client", "Server", "Expires", "Group", "Services"];
    let mut rows = vec![title.map(str::to_owned).to_vec()];
    rows.extend(entries.entries.iter().map(row));
    let mut text = table(&COLUMNS, &rows, width);
    if entries.more {
        let shown = counted(entries.entries.len() as u64, "client");
        text.push_str(&format!(
            "{shown} shown, there are more: `--limit 0` shows all\n"
        ));
    }
    text
}

fn row(entry: &PersistenceEntry) -> Vec<String> {
    let PersistenceEntry {
        client,
        group,
        services,
        server,
        expires_in_ms,
    } = entry;
    vec![
        client.clone(),
        server.to_string(),
        minutes(*expires_in_ms),
        group.clone().unwrap_or_else(|| "-".to_owned()),
        services_cell(services),
    ]
}

/// How many services a line names.
const MAX_SERVICES: usize = 3;

fn services_cell(services: &[String]) -> String {
    match services.get(..MAX_SERVICES) {
        Some(first) if services.len() > MAX_SERVICES => {
            let others = services.len() - MAX_SERVICES;
            format!("{} and {others} more", first.join(", "))
        }
        _ => services.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(client: &str, group: Option<&str>, services: &[&str]) -> PersistenceEntry {
        PersistenceEntry {
            client: client.to_owned(),
            group: group.map(str::to_owned),
            services: services.iter().map(ToString::to_string).collect(),
            server: "10.0.0.2".parse().unwrap(),
            expires_in_ms: 299_999,
        }
    }

    #[test]
    fn clients_are_a_line_each() {
        let mut entries = PersistenceEntries {
            entries: vec![
                entry("198.51.100.7", None, &["web"]),
                entry("2001:db8::/64", Some("shop"), &["a", "b", "c", "d", "e"]),
            ],
            more: false,
        };
        let lines = "\
Client         Server    Expires  Group  Services
198.51.100.7   10.0.0.2    04:59  -      web
2001:db8::/64  10.0.0.2    04:59  shop   a, b, c and 2 more
";
        assert_eq!(rendered(&entries, None), lines);
        entries.more = true;
        assert_eq!(
            rendered(&entries, None),
            format!("{lines}2 clients shown, there are more: `--limit 0` shows all\n")
        );
        assert_eq!(
            services_cell(&["a", "b", "c"].map(str::to_owned)),
            "a, b, c"
        );
    }
}
