//! Which bytes of a configuration file belong to which service, so that a change of one service need not read the text of
//! a thousand others. Pure.

use std::ops::Range;

use toml_edit::{Item, Table};

/// For each service, in the order of the file, the bytes from its `[[service]]` up to the next header that is not the
/// service's own. Comments above that header are among them, comments above `[[service]]` are not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts(Vec<Range<usize>>);

impl Parts {
    /// The parts of a text of `length` bytes that was read as `root`; none if another table stands between those of a service.
    #[must_use]
    pub fn of(root: &Table, length: usize) -> Self {
        let mut headers = Vec::new();
        let mut services = 0;
        for (name, item) in root {
            if let (Some(blocks), "service") = (item.as_array_of_tables(), name) {
                for block in blocks {
                    headers_in(block, Some(services), &mut headers);
                    services += 1;
                }
            } else {
                headers_of(item, None, &mut headers);
            }
        }
        headers.sort_by_key(|(at, _)| *at);
        let mut parts: Vec<Range<usize>> = Vec::with_capacity(services);
        for run in headers.chunk_by(|(_, one), (_, other)| one == other) {
            let (start, owner) = run[0];
            if let Some(last) = parts.last_mut() {
                last.end = last.end.min(start);
            }
            match owner {
                Some(service) if service == parts.len() => parts.push(start..length),
                Some(_) => return Self::default(),
                None => {}
            }
        }
        if parts.len() == services {
            Self(parts)
        } else {
            Self::default()
        }
    }

    /// The bytes of a service.
    #[must_use]
    pub fn get(&self, service: usize) -> Option<Range<usize>> {
        self.0.get(service).cloned()
    }

    /// The number of services; 0 also if another table stands between those of a service.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Replaces one service's part, whose new text has `length` bytes, by the parts of that text.
    pub fn replace(&mut self, service: usize, new: &Self, length: usize) {
        let Some(old) = self.get(service) else { return };
        for later in &mut self.0[service + 1..] {
            *later = later.start - old.len() + length..later.end - old.len() + length;
        }
        let new = new.0.iter();
        let new = new.map(|part| part.start + old.start..part.end + old.start);
        self.0.splice(service..=service, new);
    }
}

/// Adds the byte offsets at which the headers of an item begin, each with the service it belongs to.
fn headers_of(item: &Item, service: Option<usize>, headers: &mut Vec<(usize, Option<usize>)>) {
    match item {
        Item::Table(table) => headers_in(table, service, headers),
        Item::ArrayOfTables(blocks) => {
            for block in blocks.iter() {
                headers_in(block, service, headers);
            }
        }
        Item::Value(_) | Item::None => {}
    }
}

fn headers_in(table: &Table, service: Option<usize>, headers: &mut Vec<(usize, Option<usize>)>) {
    if !table.is_implicit() && !table.is_dotted() {
        headers.extend(table.span().map(|span| (span.start, service)));
    }
    for (_, item) in table {
        headers_of(item, service, headers);
    }
}

#[cfg(test)]
mod tests {
    use crate::config::read;

    /// The text of each part.
    fn parts(text: &str) -> Vec<&str> {
        let (_, parts) = read::validated(text, "lb1", |_| Vec::new()).unwrap();
        parts.0.into_iter().map(|part| &text[part]).collect()
    }

    const WEB: &str = "[[service]]   # first\naddress = \"192.0.2.80:80\"\n\n  # old\n  [[service.real]]\n  address = \"10.0.0.2\"\n";
    const CHECKED: &str = "[[service]]\naddress = \"192.0.2.80:81\"\n[service.check]\ntype = \"http\"\nbody = '''\n[[service]]\n'''\n\
                           [service.check.headers]\nAccept = \"*/*\"\n[[service.real]]\naddress = \"10.0.0.2\"\n";
    const VRRP: &str = "[[vrrp]]\nname = \"outside\"\ninterface = \"eth0\"\nrouter-id = 51\naddresses = [\"192.0.2.80/24\"]\n\
                        [vrrp.track-ping]\ntargets = [\"192.0.2.1\"]\n[[vrrp.track-exec]]\nrun = [\"/bin/true\"]\n";
    const NODE: &str = "[node]\nname = \"lb1\"\n";

    #[test]
    fn a_part_goes_from_one_header_to_the_next_that_is_not_the_services_own() {
        let text = format!("# ours\n{NODE}\n# the shop\n{WEB}\n# checked\n\n  {CHECKED}# end\n");
        assert_eq!(
            parts(&text),
            [
                format!("{WEB}\n# checked\n\n  "),
                format!("{CHECKED}# end\n")
            ]
        );
        // Other tables may stand between services and behind them.
        let text = format!("{WEB}# node\n{NODE}# next\n{CHECKED}\n[timeouts]\ntcp = \"1m\"");
        assert_eq!(
            parts(&text),
            [format!("{WEB}# node\n"), format!("{CHECKED}\n")]
        );
        assert_eq!(parts(NODE), [""; 0]);
        // So may virtual routers, with tables of their own in them.
        let text = format!("{VRRP}{WEB}{VRRP}\n{CHECKED}{VRRP}");
        assert_eq!(parts(&text), [WEB, CHECKED]);
    }

    #[test]
    fn a_service_that_another_table_stands_within_has_no_part_and_none_has() {
        let text = format!("{WEB}{NODE}[[service.real]]\naddress = \"10.0.0.3\"\n{CHECKED}");
        assert_eq!(parts(&text), [""; 0]);
    }

    #[test]
    fn parts_that_change_move_those_behind_them() {
        let parts = |text: &str| read::validated(text, "lb1", |_| Vec::new()).unwrap().1;
        let text = format!("{NODE}{WEB}{WEB}{CHECKED}");
        for (new, length) in [
            (WEB.replace(" # first", ""), 1),
            (format!("{WEB}# more\n"), 1),
            (format!("{WEB}\n{CHECKED}"), 2),
        ] {
            let mut moved = parts(&text);
            moved.replace(1, &parts(&new), new.len());
            assert_eq!(moved, parts(&format!("{NODE}{WEB}{new}{CHECKED}")));
            assert_eq!(moved.len(), 2 + length);
        }
    }
}
