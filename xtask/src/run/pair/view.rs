//! What `balancer-ctl status` says of virtual routers.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// The parts of `status --json` that are read.
#[derive(Deserialize)]
struct Status {
    vrrp: Vec<Router>,
}

/// A virtual router as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Router {
    state: String,
    active_node: Option<IpAddr>,
}

impl Router {
    /// Whether the node is Active.
    pub fn is_active(&self) -> bool {
        self.state == "active"
    }

    /// Whether the node is Backup and hears an Active one.
    pub fn is_backup_of_another(&self) -> bool {
        self.state == "backup" && self.active_node.is_some()
    }
}

/// Reads the virtual routers in `status --json`.
pub fn routers(status: &str) -> Result<Vec<Router>> {
    let status: Status = serde_json::from_str(status)
        .context("`balancer-ctl status --json` printed something else")?;
    Ok(status.vrrp)
}

/// The lines of `status` that are of sections with these titles. A section's further lines are indented.
pub fn sections<'text>(status: &'text str, titles: &[&str]) -> Vec<&'text str> {
    let mut is_wanted = false;
    let wanted = |line: &&str| {
        if !line.starts_with(' ') {
            let title = line.split_whitespace().next().unwrap_or_default();
            is_wanted = titles.contains(&title);
        }
        is_wanted
    };
    status.lines().filter(wanted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_shown_with_its_further_lines() {
        let status = "node      lb1, balancerd 0.1.0\nrole      active\nvrrp      outside  active\n          inside   active\n\
                      services  web\n          more\n";
        assert_eq!(
            sections(status, &["role", "vrrp"]),
            [
                "role      active",
                "vrrp      outside  active",
                "          inside   active"
            ]
        );
        assert!(sections(status, &["discards"]).is_empty());
    }

    #[test]
    fn the_states_are_read_from_json() {
        let status = r#"{"node":"lb1","vrrp":[
            {"name":"outside","state":"active","active_node":null},
            {"name":"inside","state":"backup","active_node":"192.168.0.11"},
            {"name":"other","state":"backup","active_node":null}]}"#;
        let routers = routers(status).unwrap();
        let active: Vec<bool> = routers.iter().map(Router::is_active).collect();
        let backup: Vec<bool> = routers.iter().map(Router::is_backup_of_another).collect();
        assert_eq!(active, [true, false, false]);
        assert_eq!(backup, [false, true, false]);
        assert!(super::routers("[]").is_err());
    }
}
