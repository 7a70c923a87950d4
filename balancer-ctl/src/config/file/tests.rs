//! Loading and replacing the file.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use super::*;
use crate::model::{address::service_key, service::ServiceSettings};

const TEXT: &str = "# mine\ndataplane.interfaces = [\"eth0\"]\n";

fn load(path: &Path) -> Result<ConfigFile, FileError> {
    ConfigFile::load(path, "lb1", |_| None)
}

fn add_web() -> Change {
    Change::AddService(
        service_key("192.0.2.80:80").unwrap(),
        ServiceSettings::default(),
    )
}

fn prepare(file: &ConfigFile) -> Result<Prepared, ApiError> {
    file.prepare(&[add_web()], add_web().after(file.model()).unwrap())
}

#[test]
fn a_replaced_file_keeps_mode_link_and_comments_and_leaves_the_old_one_beside_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("real.toml");
    let link = directory.path().join("balancer.toml");
    fs::write(&path, TEXT).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    symlink(&path, &link).unwrap();

    let file = load(&link).unwrap();
    let prepared = prepare(&file).unwrap();
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        TEXT,
        "not before the commit"
    );
    let (file, previous) = prepared.commit().unwrap();

    assert_eq!(previous, PreviousFile::Kept);
    let with_web = format!("{TEXT}\n[[service]]\naddress = \"192.0.2.80:80\"\n");
    let old = directory.path().join("real.toml~");
    assert_eq!(fs::read_to_string(&path).unwrap(), with_web);
    assert_eq!(fs::read_to_string(&old).unwrap(), TEXT);
    for path in [&path, &old] {
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, 0o640);
    }
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
    // What changes nothing leaves the file before the last change where it is.
    let same = file.prepare(&[], file.model().clone()).unwrap();
    assert_eq!(same.commit().unwrap().1, PreviousFile::NotReplaced);
    assert_eq!(fs::read_to_string(&old).unwrap(), TEXT);
    assert_eq!(
        file.source().load(|_| Vec::new()).unwrap().model(),
        file.model()
    );
}

#[test]
fn a_file_that_is_in_place_stays_when_the_disk_does_not_answer() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("balancer.toml");
    fs::write(&path, TEXT).unwrap();
    let prepared = prepare(&load(&path).unwrap()).unwrap();
    let broken = |_: &Path| Err(io::Error::other("broken"));
    let (file, previous) = prepared.commit_with(broken).unwrap();
    assert_eq!(previous, PreviousFile::Kept);
    assert_eq!(fs::read_to_string(&path).unwrap(), file.content.text);
}

#[test]
fn the_file_before_replaces_a_link_and_never_what_it_points_to() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("balancer.toml");
    let (old, other) = (previous(&path), directory.path().join("other"));
    fs::write(&path, TEXT).unwrap();
    fs::write(&other, "theirs").unwrap();
    symlink(&other, &old).unwrap();
    let (_, kept) = prepare(&load(&path).unwrap()).unwrap().commit().unwrap();
    assert_eq!(kept, PreviousFile::Kept);
    assert!(fs::symlink_metadata(&old).unwrap().is_file());
    assert_eq!(fs::read_to_string(&old).unwrap(), TEXT);
    assert_eq!(fs::read_to_string(&other).unwrap(), "theirs");
}

#[test]
fn who_could_write_the_file_cannot_write_the_one_before() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("balancer.toml");
    fs::write(&path, TEXT).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    prepare(&load(&path).unwrap()).unwrap().commit().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!((mode(&path), mode(&previous(&path))), (0o666, 0o644));
}

#[test]
fn a_link_that_is_changed_meanwhile_leads_no_change_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let (own, theirs, path) = (at("own"), at("theirs"), at("balancer.toml"));
    for folder in [&own, &theirs] {
        fs::create_dir(folder).unwrap();
    }
    let target = own.join("balancer.toml");
    fs::write(&target, TEXT).unwrap();
    symlink(&target, &path).unwrap();
    let lead_to = |target: &Path| {
        fs::remove_file(&path).unwrap();
        symlink(target, &path).unwrap();
    };
    // Between the preparation and the end: what was prepared is replaced.
    let file = load(&path).unwrap();
    let prepared = prepare(&file).unwrap();
    let other = theirs.join("balancer.toml");
    fs::write(&other, "root's").unwrap();
    lead_to(&other);
    prepared.commit().unwrap();
    assert_ne!(fs::read_to_string(&target).unwrap(), TEXT);
    assert_eq!(fs::read_to_string(&other).unwrap(), "root's");
    // Before the preparation: it is not the file that was loaded.
    assert_eq!(
        prepare(&file).unwrap_err().to_string(),
        format!(
            "{} has changed since it was loaded: `balancer-ctl reload` first, or use --runtime",
            path.display()
        )
    );
    assert_eq!(fs::read_dir(&theirs).unwrap().count(), 1);
}

#[test]
fn a_change_is_made_though_the_file_before_cannot_be_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("balancer.toml");
    fs::write(&path, TEXT).unwrap();
    fs::create_dir(previous(&path)).unwrap();
    let (file, lost) = prepare(&load(&path).unwrap()).unwrap().commit().unwrap();
    assert_eq!(
        lost,
        PreviousFile::Lost(format!(
            "the file as it was before could not be kept as {}~: Is a directory (os error 21)",
            path.display()
        ))
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), file.content.text);
    assert_ne!(file.content.text, TEXT);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
}

#[test]
fn the_file_before_stays_if_the_file_cannot_be_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("balancer.toml");
    fs::write(&path, TEXT).unwrap();
    fs::write(previous(&path), "older").unwrap();
    let prepared = prepare(&load(&path).unwrap()).unwrap();
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(
        prepared.commit().unwrap_err().to_string(),
        format!(
            "cannot replace {}: Is a directory (os error 21); nothing was changed",
            path.display()
        )
    );
    assert_eq!(fs::read_to_string(previous(&path)).unwrap(), "older");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
}

#[test]
fn a_prepared_file_that_is_given_up_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("balancer.toml");
    fs::write(&path, TEXT).unwrap();
    drop(prepare(&load(&path).unwrap()).unwrap());
    assert_eq!(fs::read_to_string(&path).unwrap(), TEXT);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_file_that_changed_meanwhile_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("balancer.toml");
    fs::write(&path, TEXT).unwrap();
    let file = load(&path).unwrap();
    fs::write(&path, "# other\n").unwrap();
    let path = path.display();
    assert_eq!(
        prepare(&file).unwrap_err().to_string(),
        format!(
            "{path} has changed since it was loaded: `balancer-ctl reload` first, or use --runtime"
        )
    );
    fs::remove_file(path.to_string()).unwrap();
    assert_eq!(
        prepare(&file).unwrap_err().to_string(),
        format!(
            "{path} cannot be read any more (No such file or directory (os error 2)): put it back, or use --runtime"
        )
    );
}

#[test]
fn what_cannot_be_read_is_said_with_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let error = |path: &Path| load(path).unwrap_err().to_string();
    let absent = directory.path().join("absent.toml");
    assert_eq!(
        error(&absent),
        format!(
            "configuration file {}: No such file or directory (os error 2)",
            absent.display()
        )
    );
    assert_eq!(
        error(directory.path()),
        format!(
            "configuration file {}: it is not a regular file",
            directory.path().display()
        )
    );
    let binary = directory.path().join("binary.toml");
    fs::write(&binary, b"# \xc3\xa9\n# \xc3\xa9 \xe9\n").unwrap();
    assert_eq!(
        error(&binary),
        format!(
            "{}:2:5: byte 0xe9 is not UTF-8: save the file as UTF-8",
            binary.display()
        )
    );
    let wrong = directory.path().join("wrong.toml");
    fs::write(&wrong, "colour = 1\n[dataplane]\ninterfaces = []\n").unwrap();
    let at = wrong.display();
    assert_eq!(
        error(&wrong),
        format!(
            "{at}:1:1: unknown key `colour`: expected `node`, `dataplane`, `timeouts`, `service`, `notify`, `vrrp` or `peers`\n\
             {at}:3:14: interfaces is empty: name at least one, as in `interfaces = [\"eth0\"]`"
        )
    );
}

#[test]
fn a_file_that_could_not_be_loaded_again_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("balancer.toml");
    let comment = "#".repeat(MAX_SIZE as usize - TEXT.len() - 1);
    let full = format!("{comment}\n{TEXT}");
    fs::write(&path, &full).unwrap();
    assert_eq!(
        prepare(&load(&path).unwrap()).unwrap_err().to_string(),
        format!(
            "{} would be larger than 4 MiB, and could not be loaded again; nothing was changed",
            path.display()
        )
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), full);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}
