use std::{fs, os::unix::fs::PermissionsExt as _};

use proptest::prelude::*;

use super::*;

const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

fn address(host: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host], 4446))
}

fn record(name: &str, host: u8, stamp: u64, removed: bool) -> NodeRecord {
    NodeRecord {
        name: name.to_owned(),
        address: address(host),
        stamp,
        removed,
    }
}

fn names(membership: &Membership) -> Vec<&str> {
    membership
        .others()
        .map(|other| other.name.as_str())
        .collect()
}

#[test]
fn the_file_is_read_as_it_was_written_and_root_s_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = StateFile::at(&folder.path().join("own/nodes.json"));
    assert_eq!(Membership::read(&file), Ok(Membership::default()));
    let mut membership = Membership::default();
    membership.join("lb1", "lb2", address(2), 5).unwrap();
    membership.join("lb1", "lb3", address(3), 6).unwrap();
    membership.remove("lb3", 7);
    membership.own_stamp = 4;
    membership.write(&file).unwrap();
    let mode = fs::metadata(file.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    assert_eq!(Membership::read(&file), Ok(membership));
}

#[test]
fn garbage_in_the_file_is_said_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let file = StateFile::at(&folder.path().join("nodes.json"));
    let nodes = r#""own_stamp":0,"nodes":[{"name":"a b","address":"192.0.2.1:1","stamp":1}]"#;
    for garbage in [
        "{",
        "null",
        "[]",
        r#"{"version":2,"own_stamp":0,"nodes":[]}"#,
        &format!(r#"{{"version":1,{nodes}}}"#),
        r#"{"version":1,"own_stamp":0,"nodes":[{"name":"a","address":"here","stamp":1}]}"#,
    ] {
        fs::write(file.path(), garbage).unwrap();
        let sentence = Membership::read(&file).unwrap_err();
        assert!(
            sentence.starts_with(&format!("the list of nodes in {file} cannot be read")),
            "{sentence}"
        );
        assert_eq!(file.read().unwrap(), garbage);
    }
    fs::write(file.path(), [0xff, 0xfe]).unwrap();
    assert!(Membership::read(&file).is_err());
    fs::write(file.path(), "").unwrap();
    assert_eq!(Membership::read(&file), Ok(Membership::default()));
}

#[test]
fn up_to_four_nodes_join_each_with_a_name_and_address_of_its_own() {
    let mut nodes = Membership::default();
    assert_eq!(nodes.join("lb1", "lb2", address(2), 1), Ok(true));
    assert_eq!(nodes.join("lb1", "lb2", address(2), 2), Ok(false));
    let error = |nodes: &mut Membership, name: &str, host| {
        nodes.join("lb1", name, address(host), 9).unwrap_err()
    };
    assert_eq!(
        error(&mut nodes, "lb1", 3),
        "the name `lb1` is this node's own: give one of the two another `[node] name`"
    );
    assert_eq!(
        error(&mut nodes, "lb2", 3),
        "there is a node `lb2` already, at 192.0.2.2:4446: give the new one another `[node] name`, or take that one out with `balancer-ctl node remove lb2`"
    );
    assert_eq!(
        error(&mut nodes, "lb3", 2),
        "the node at 192.0.2.2:4446 is `lb2` already: take that one out first, with `balancer-ctl node remove lb2`"
    );
    assert!(error(&mut nodes, "lb 3", 3).starts_with("node name `lb 3` is"));
    nodes.join("lb1", "lb3", address(3), 1).unwrap();
    nodes.join("lb1", "lb4", address(4), 1).unwrap();
    assert_eq!(
        error(&mut nodes, "lb5", 5),
        "there are 4 nodes already, which is the most: take one out with `balancer-ctl node remove NAME`"
    );
    assert!(nodes.remove("lb3", 2) && !nodes.remove("lb3", 2) && !nodes.remove("lb9", 2));
    assert_eq!(nodes.join("lb1", "lb5", address(5), 3), Ok(true));
    assert_eq!(names(&nodes), ["lb2", "lb4", "lb5"]);
}

#[test]
fn what_one_node_hears_all_come_to_know() {
    let mut first = Membership::default();
    first.join("lb1", "lb2", address(2), 10).unwrap();
    let mut second = Membership::default();
    let unspecified: SocketAddr = "[::]:4446".parse().unwrap();
    let merged = second.merge("lb2", "lb1", SOURCE, first.told("lb1", unspecified));
    assert_eq!(merged.added, ["lb1"]);
    assert_eq!(second.get("lb1"), Some(&record("lb1", 1, 0, false)));
    assert_eq!(second.own_stamp, 10);
    first.join("lb1", "lb3", address(3), 20).unwrap();
    let told = first.told("lb1", address(1));
    assert_eq!(
        second.merge("lb2", "lb1", SOURCE, told.clone()).added,
        ["lb3"]
    );
    assert_eq!(
        second.merge("lb2", "lb1", SOURCE, told),
        Merged::default(),
        "the same once more"
    );
}

#[test]
fn a_removed_node_stays_out_until_it_joins_again() {
    let mut first = Membership::default();
    first.join("lb1", "lb2", address(2), 10).unwrap();
    let mut second = Membership::default();
    second.merge("lb2", "lb1", SOURCE, first.told("lb1", address(1)));
    let old = second.told("lb2", address(2));
    // The clock was set back.
    first.remove("lb2", 3);
    assert!(first.was_removed("lb2"));
    assert_eq!(first.merge("lb1", "lb2", SOURCE, old), Merged::default());
    let merged = second.merge("lb2", "lb1", SOURCE, first.told("lb1", address(1)));
    assert!(merged.self_removed && merged.changed);
    assert_eq!(merged.removed, ["lb1"]);
    assert_eq!(names(&second), [""; 0]);
    first.join("lb1", "lb2", address(2), 4).unwrap();
    let merged = second.merge("lb2", "lb1", SOURCE, first.told("lb1", address(1)));
    assert_eq!(
        (merged.self_removed, &merged.added[..]),
        (false, &["lb1".to_owned()][..])
    );
}

#[test]
fn a_node_that_leaves_says_so() {
    let mut first = Membership::default();
    first.join("lb1", "lb2", address(2), 10).unwrap();
    let mut second = Membership::default();
    second.merge("lb2", "lb1", SOURCE, first.told("lb1", address(1)));
    let farewell = second.leave("lb2", address(2), 11);
    let merged = first.merge("lb1", "lb2", SOURCE, farewell);
    assert_eq!(merged.removed, ["lb2"]);
    assert!(!merged.self_removed);
}

#[test]
fn a_node_that_joins_again_elsewhere_is_not_taken_out_by_what_was_before() {
    let mut first = Membership::default();
    first.join("lb1", "lb2", address(2), 10).unwrap();
    first.join("lb1", "lb3", address(3), 20).unwrap();
    let told = first.told("lb1", address(1));
    let [mut second, mut third] = ["lb2", "lb3"].map(|name| {
        let mut other = Membership::default();
        other.merge(name, "lb1", SOURCE, told.clone());
        other
    });
    // The first takes the third out, of which the second does not hear. Its clock is far ahead of theirs.
    first.remove("lb3", 5000);
    let removal = first.told("lb1", address(1));
    assert!(
        third
            .merge("lb3", "lb1", SOURCE, removal.clone())
            .self_removed
    );
    assert_eq!(third.own_stamp(), 5000);
    let now = 30.max(third.own_stamp() + 1);
    assert_eq!(second.join("lb2", "lb3", address(3), now), Ok(false));
    third.merge("lb3", "lb2", SOURCE, second.told("lb2", address(2)));
    for (name, other) in [("lb2", &mut second), ("lb3", &mut third)] {
        let merged = other.merge(name, "lb1", SOURCE, removal.clone());
        assert!(!merged.self_removed && merged.removed.is_empty());
    }
    first.merge("lb1", "lb2", SOURCE, second.told("lb2", address(2)));
    assert_eq!(names(&first), ["lb2", "lb3"]);
}

#[test]
fn a_node_that_listens_elsewhere_now_says_where() {
    let mut first = Membership::default();
    first.join("lb1", "lb2", address(2), 10).unwrap();
    let moved = vec![record("lb2", 9, 10, false)];
    assert!(!first.merge("lb1", "lb3", SOURCE, moved.clone()).changed);
    assert!(first.merge("lb1", "lb2", SOURCE, moved).changed);
    assert_eq!(first.get("lb2").unwrap().address, address(9));
}

#[test]
fn bad_records_are_passed_over_and_their_number_is_bounded() {
    let mut nodes = Membership::default();
    let unspecified = NodeRecord {
        address: "0.0.0.0:1".parse().unwrap(),
        ..record("lb9", 9, 1, false)
    };
    let bad = vec![record("a b", 1, 1, false), unspecified];
    assert_eq!(nodes.merge("lb1", "lb2", SOURCE, bad), Merged::default());
    for round in 0..10 {
        let many = (0..100).map(|n| record(&format!("n{n}"), 1, n + 1000 * round, true));
        nodes.merge("lb1", "lb2", SOURCE, many.collect());
        let many = (0..30).map(|n| record(&format!("m{n}"), 1, n + round, false));
        nodes.merge("lb1", "lb2", SOURCE, many.collect());
    }
    assert!(nodes.records.len() < MAX_RECORDS);
    assert_eq!(nodes.others().count(), MAX_NODES - 1);
    let highest = vec![
        record("lb1", 1, u64::MAX, false),
        record("m0", 1, u64::MAX, false),
    ];
    nodes.merge("lb1", "lb2", SOURCE, highest);
    nodes.remove("m0", 1);
    nodes.join("lb1", "m0", address(7), 1).ok();
    assert_eq!(
        nodes.leave("lb1", address(1), 1).last().unwrap().stamp,
        u64::MAX
    );
}

proptest! {
    /// Lists that are heard in another order come to the same nodes.
    #[test]
    fn the_order_in_which_lists_are_heard_does_not_matter(
        lists in prop::collection::vec(prop::collection::vec((0..5_u8, 1..6_u64, any::<bool>()), 0..4), 0..5),
    ) {
        // A stamp is one change at one node, so it has one address.
        let lists: Vec<Vec<_>> = lists.into_iter().map(|list| list.into_iter().map(|(node, stamp, removed)| {
            record(&format!("n{node}"), node, stamp * 10 + u64::from(node), removed)
        }).collect()).collect();
        let heard = |lists: &mut dyn Iterator<Item = &Vec<NodeRecord>>| {
            let mut nodes = Membership::default();
            for list in lists {
                nodes.merge("lb1", "lb2", SOURCE, list.clone());
            }
            nodes
        };
        let forth = heard(&mut lists.iter());
        let mut back = heard(&mut lists.iter().rev());
        let mut forth_again = forth.clone();
        forth_again.merge("lb1", "lb2", SOURCE, back.told("lbx", address(200)).into_iter().filter(|r| r.name != "lbx").collect());
        back.merge("lb1", "lb2", SOURCE, forth.told("lbx", address(200)).into_iter().filter(|r| r.name != "lbx").collect());
        let names = |nodes: &Membership| nodes.others().map(|r| r.name.clone()).collect::<Vec<_>>();
        prop_assert_eq!(names(&forth_again), names(&back));
    }
}
