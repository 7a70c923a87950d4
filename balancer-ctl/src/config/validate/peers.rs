//! The rules of `[peers]`.

use std::collections::HashSet;

use super::{Place, Problems, is_interface_name};
use crate::model::{
    PeerSettings,
    limits::{MAX_INTERFACE_NAME, MAX_NODES},
};

pub(super) fn peers(settings: &PeerSettings, problems: &mut Problems) {
    if let Some(name) = &settings.interface
        && !is_interface_name(name)
    {
        problems.add(
            Place::Peers("interface"),
            format!("`{name}` is no interface name: 1 to {MAX_INTERFACE_NAME} bytes without space or `/`"),
        );
    }
    if let Some(path) = &settings.key_file
        && !path.is_absolute()
    {
        problems.add(
            Place::Peers("key-file"),
            format!(
                "key-file `{}` is no absolute path: begin it with `/`",
                path.display()
            ),
        );
    }
    let mut seen = HashSet::new();
    for (index, node) in settings.nodes.iter().enumerate() {
        let place = Place::PeerNode(index);
        if node.ip().is_unspecified() || node.ip().is_multicast() {
            problems.add(
                place,
                format!("node {node} has an address that no other node can have"),
            );
        } else if !seen.insert(node) {
            problems.add(place, format!("node {node} is named twice: name it once"));
        } else if index >= MAX_NODES {
            problems.add(
                place,
                format!(
                    "node {node} is one too many: {MAX_NODES} nodes at most, this one included"
                ),
            );
        }
    }
}
