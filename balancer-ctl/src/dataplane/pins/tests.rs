//! The directory of an instance, and how maps differ.

use super::*;

#[test]
fn an_instance_has_a_directory_of_its_own() {
    let path = |instance| Pins::of(instance).map(|pins| pins.directory().to_path_buf());
    assert_eq!(path(None).unwrap(), Path::new("/sys/fs/bpf/balancer/v7"));
    assert_eq!(
        path(Some("left-2")).unwrap(),
        Path::new("/sys/fs/bpf/balancer/left-2/v7")
    );
    for name in ["", "a/b", "..", "v1", "a.b", "a b"] {
        let error = path(Some(name)).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("the instance name {name:?} cannot be used")),
            "{error}"
        );
    }
}

#[test]
fn a_map_that_differs_is_described() {
    let wanted = MapShape {
        map_type: 1,
        key_size: 16,
        value_size: 64,
        max_entries: 100,
        flags: 0,
    };
    assert_eq!(shape_difference("M", wanted, wanted), None);
    assert_eq!(
        shape_difference(
            "M",
            wanted,
            MapShape {
                flags: 1 << 7,
                ..wanted
            }
        ),
        None
    );
    assert_eq!(
        shape_difference(
            "M",
            wanted,
            MapShape {
                max_entries: 50,
                ..wanted
            }
        )
        .unwrap(),
        "M has 50 entries, not 100"
    );
    assert_eq!(
        shape_difference(
            "M",
            wanted,
            MapShape {
                value_size: 32,
                ..wanted
            }
        )
        .unwrap(),
        "M has type 1, keys of 16 and values of 32 bytes, flags 0x0, not type 1, 16 and 64 bytes, 0x0"
    );
}
