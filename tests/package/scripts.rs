//! What the package's scripts do when it is removed and purged, on folders in place of the system's.

use std::{
    collections::BTreeSet,
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use balancer_ctl::os::lock_file;

const PRERM: &str = include_str!("../../balancer-ctl/packaging/debian/prerm");
const POSTRM: &str = include_str!("../../balancer-ctl/packaging/debian/postrm");

/// Takes down every data plane but that of the instance `busy`, and notes how it was called.
const BALANCERD: &str = r#"#!/bin/sh
echo "$*" >> "$ROOT/called"
case $* in
    *busy*) exit 1 ;;
    --instance*) rmdir "$ROOT/sys/fs/bpf/balancer/$2" ;;
    *) rmdir "$ROOT"/sys/fs/bpf/balancer/v[0-9] "$ROOT"/sys/fs/bpf/balancer/v[0-9]+new ;;
esac
"#;

/// A folder in place of `/`.
struct Root(tempfile::TempDir);

impl Root {
    /// One with these folders.
    fn with(folders: &[&str]) -> Self {
        let root = Self(tempfile::tempdir().expect("a folder"));
        for folder in folders {
            fs::create_dir_all(root.path(folder)).expect("a folder");
        }
        root
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("write a file");
    }

    /// Runs a script that must succeed. Returns what it said.
    fn run(&self, script: &str, argument: &str) -> String {
        let root = self.0.path().display().to_string();
        let mut text = script.to_owned();
        for folder in [
            "/sys/fs/bpf",
            "/run/balancer",
            "/var/lib/balancer",
            "/etc/balancer",
        ] {
            text = text.replace(folder, &format!("{root}{folder}"));
        }
        self.write("script", &text);
        let path = env::var("PATH").expect("a path");
        let output = Command::new("sh")
            .arg(self.path("script"))
            .arg(argument)
            .env("ROOT", &root)
            .env("PATH", format!("{root}/bin:{path}"))
            .output()
            .expect("run sh");
        fs::remove_file(self.path("script")).expect("remove the script");
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stderr).expect("text");
        said.replace(&root, "")
    }

    /// All files, and the folders that have none.
    fn files(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        add_files(self.0.path(), &mut found);
        let root = format!("{}/", self.0.path().display());
        found
            .iter()
            .map(|path| path.display().to_string().replace(&root, ""))
            .collect()
    }
}

fn add_files(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    let entries: Vec<_> = fs::read_dir(folder).expect("a folder").flatten().collect();
    if entries.is_empty() {
        found.insert(folder.to_owned());
    }
    for entry in entries {
        match entry.file_type().expect("its type").is_dir() {
            true => add_files(&entry.path(), found),
            false => drop(found.insert(entry.path())),
        }
    }
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn removing_takes_the_data_planes_of_all_instances_down_and_an_upgrade_none() {
    let root = Root::with(&[
        "bin",
        "sys/fs/bpf/balancer/v3",
        "sys/fs/bpf/balancer/v3+new",
        "sys/fs/bpf/balancer/blue",
        "sys/fs/bpf/balancer/v1a",
        "sys/fs/bpf/balancer/busy",
    ]);
    root.write("bin/balancerd", BALANCERD);
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(root.path("bin/balancerd"), mode).expect("its mode");
    let before = root.files();
    assert_eq!(root.run(PRERM, "upgrade"), "");
    assert_eq!(root.files(), before);
    assert_eq!(
        root.run(PRERM, "remove"),
        "balancer: /sys/fs/bpf/balancer/busy is still there: with no balancerd on it, `rm -r /sys/fs/bpf/balancer/busy` takes \
         this data plane down\n"
    );
    assert_eq!(
        root.files(),
        names(&["bin/balancerd", "called", "sys/fs/bpf/balancer/busy"])
    );
    let called = fs::read_to_string(root.path("called")).expect("it was called");
    let called: Vec<_> = called.lines().collect();
    assert_eq!(
        called,
        [
            "--instance blue --detach",
            "--instance busy --detach",
            "--instance v1a --detach",
            "--detach"
        ]
    );
}

#[test]
fn purging_leaves_the_files_of_an_instance_whose_daemon_runs() {
    let root = Root::with(&[
        "etc/balancer",
        "run/balancer/blue",
        "run/balancer/green",
        "var/lib/balancer/blue",
        "var/lib/balancer/green",
        "var/lib/balancer/old",
    ]);
    for name in [
        "etc/balancer/balancer.toml~",
        "run/balancer/balancerd.lock",
        "run/balancer/green/balancerd.lock",
        "var/lib/balancer/health.json",
        "var/lib/balancer/blue/health.json",
        "var/lib/balancer/green/health.json",
    ] {
        root.write(name, "");
    }
    let lock = lock_file::open(&root.path("run/balancer/blue/balancerd.lock")).expect("a file");
    lock.try_lock().expect("the lock");
    assert_eq!(
        root.run(POSTRM, "purge"),
        "balancer: a balancerd still runs (/run/balancer/blue/): its files stay\n"
    );
    assert_eq!(
        root.files(),
        names(&[
            "etc",
            "run/balancer/blue/balancerd.lock",
            "var/lib/balancer/blue/health.json"
        ])
    );
    drop(lock);
    assert_eq!(root.run(POSTRM, "purge"), "");
    assert_eq!(root.files(), names(&["etc", "run", "var/lib"]));
}
