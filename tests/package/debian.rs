//! The package in a bare Debian 12, made by debootstrap in a folder. No systemd runs there, and nothing of this machine is mounted.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use balancer_tests::{daemon::binary, privileged};

/// What the package contains besides the pages of the commands and the folders on the way. Texts may be compressed.
const FILES: [&str; 19] = [
    "/etc/balancer/balancer.toml",
    "/usr/sbin/balancer-ctl",
    "/usr/sbin/balancerd",
    "/usr/share/bash-completion/completions/balancer-ctl",
    "/usr/share/doc/balancer/CHANGELOG.md",
    "/usr/share/doc/balancer/MEASURED.md",
    "/usr/share/doc/balancer/README.md",
    "/usr/share/doc/balancer/copyright",
    "/usr/share/doc/balancer/examples/balancer.toml",
    "/usr/share/fish/vendor_completions.d/balancer-ctl.fish",
    "/usr/share/man/man5/balancer.toml.5",
    "/usr/share/man/man7/balancer-health.7",
    "/usr/share/man/man7/balancer-interfaces.7",
    "/usr/share/man/man7/balancer-pair.7",
    "/usr/share/man/man7/balancer-services.7",
    "/usr/share/man/man7/balancer.7",
    "/usr/share/man/man8/balancer-ctl.8",
    "/usr/share/man/man8/balancerd.8",
    "/usr/share/zsh/vendor-completions/_balancer-ctl",
];
const UNIT: &str = "/usr/lib/systemd/system/balancerd.service";
const ENABLED: &str = "etc/systemd/system/multi-user.target.wants/balancerd.service";
const CONFIG: &str = "etc/balancer/balancer.toml";
const STATE: &str = "var/lib/balancer/health.json";

/// A bare Debian, which goes with this value.
struct Debian(tempfile::TempDir);

impl Debian {
    /// Downloads it. The error is debootstrap's last line.
    fn new() -> Result<Self, String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // What it mounts is gone when it ends, also if it is killed.
        let output = Command::new("unshare")
            .args(["--mount", "--propagation", "private"])
            .args(["debootstrap", "--variant=minbase", "bookworm"])
            .arg(folder.path())
            .output()
            .expect("run unshare");
        if output.status.success() {
            return Ok(Self(folder));
        }
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        Err(said.lines().last().unwrap_or_default().to_owned())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a command line in it.
    fn run(&self, line: &str) -> Output {
        Command::new("chroot")
            .arg(self.0.path())
            .args(line.split(' '))
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C.UTF-8")
            .output()
            .expect("run chroot")
    }

    /// Runs a command line that must succeed, and returns what it printed.
    #[track_caller]
    fn done(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A text that may be compressed.
    fn text(&self, name: &str) -> String {
        match self.path(name).is_file() {
            true => self.done(&format!("cat /{name}")),
            false => self.done(&format!("zcat /{name}.gz")),
        }
    }

    /// All files and folders, but for what dpkg writes of each package.
    fn files(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        add_files(self.0.path(), &mut found);
        let root = self.0.path();
        found
            .into_iter()
            .filter_map(|path| path.strip_prefix(root).ok().map(Path::to_path_buf))
            .filter(|path| !path.starts_with("var/lib/dpkg") && !path.starts_with("var/log"))
            .collect()
    }
}

fn add_files(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("its type").is_dir() {
            add_files(&entry.path(), found);
        }
        found.insert(entry.path());
    }
}

/// The package that `cargo xtask test` has made.
fn package() -> Option<PathBuf> {
    let folder = binary("dist");
    let mut entries = fs::read_dir(folder).ok()?.flatten();
    entries.find_map(|entry| {
        let path = entry.path();
        (path.extension()? == "deb").then_some(path)
    })
}

#[test]
fn the_package_installs_on_a_bare_debian_and_leaves_nothing_behind() {
    if privileged::skipped() {
        return;
    }
    let is_there = ["/usr/sbin/debootstrap", "/usr/bin/debootstrap"].map(Path::new);
    if !is_there.iter().any(|path| path.is_file()) {
        privileged::skip("debootstrap is not installed: apt install debootstrap");
        return;
    }
    let Some(package) = package() else {
        privileged::skip("there is no package: `cargo xtask test` makes one with cargo-deb");
        return;
    };
    let debian = match Debian::new() {
        Ok(debian) => debian,
        Err(said) => {
            privileged::skip(&format!("debootstrap cannot make a Debian: {said}"));
            return;
        }
    };
    fs::copy(&package, debian.path("balancer.deb")).expect("copy the package");
    let before = debian.files();

    debian.done("dpkg --install /balancer.deb");
    let listed = debian.done("dpkg --listfiles balancer");
    let is_file = |name: &&str| debian.path(name.trim_start_matches('/')).is_file();
    let of_command = "/usr/share/man/man8/balancer-ctl-";
    let (pages, files): (BTreeSet<_>, BTreeSet<_>) = listed
        .lines()
        .filter(is_file)
        .map(|name| name.trim_end_matches(".gz"))
        .partition(|name| name.starts_with(of_command));
    let expected: BTreeSet<_> = FILES.into_iter().chain([UNIT]).collect();
    assert_eq!(files, expected);
    for name in ["add-service", "list", "node", "node-key"] {
        let page = format!("{of_command}{name}.8");
        assert!(pages.contains(page.as_str()), "{pages:?}");
    }
    for (page, title) in [
        ("man8/balancerd.8", ".TH balancerd 8"),
        ("man8/balancer-ctl.8", ".TH balancer-ctl 8"),
        ("man7/balancer-pair.7", ".TH balancer-pair 7"),
        ("man5/balancer.toml.5", ".TH balancer.toml 5"),
    ] {
        let text = debian.text(&format!("usr/share/man/{page}"));
        assert!(text.contains(title), "{text}");
    }

    for name in ["balancerd", "balancer-ctl"] {
        assert!(debian.done(&format!("{name} --help")).contains("Usage:"));
    }
    let example = "/usr/share/doc/balancer/examples/balancer.toml";
    assert_eq!(
        debian.done(&format!("balancer-ctl check {example}")),
        format!("{example}: good, 1 service and 2 real servers\n")
    );
    assert!(fs::symlink_metadata(debian.path(ENABLED)).is_ok());

    // The file is the operator's: empty at first, and kept when the package is installed again, or removed.
    assert_eq!(fs::read(debian.path(CONFIG)).expect("the file"), b"");
    let ours = "[dataplane]\ninterfaces = [\"eth0\"]\n";
    fs::write(debian.path(CONFIG), ours).expect("write it");
    fs::write(debian.path("etc/balancer/balancer.toml~"), "").expect("write it");
    fs::create_dir_all(debian.path("var/lib/balancer")).expect("a folder");
    fs::write(debian.path(STATE), "{}").expect("write it");
    debian.done("dpkg --install /balancer.deb");
    let is_as_before = |is_installed: bool| {
        let kept = fs::read_to_string(debian.path(CONFIG)).expect("the file");
        assert_eq!(kept, ours);
        assert!(debian.path(STATE).is_file());
        assert_eq!(debian.path("usr/sbin/balancerd").exists(), is_installed);
    };
    is_as_before(true);
    debian.done("dpkg --remove balancer");
    is_as_before(false);
    debian.done("dpkg --install /balancer.deb");
    is_as_before(true);
    assert!(fs::symlink_metadata(debian.path(ENABLED)).is_ok());
    debian.done("dpkg --remove balancer");
    is_as_before(false);

    debian.done("dpkg --purge balancer");
    let after = debian.files();
    let left: Vec<_> = after.difference(&before).collect();
    let lost: Vec<_> = before.difference(&after).collect();
    assert_eq!((left, lost), (Vec::new(), Vec::new()));
    assert!(!debian.run("dpkg-query --status balancer").status.success());
}
