//! Checks imports: reads every `use` line and path of the workspace's crates with `syn`, compares the imports between folders of
//! `balancer-ctl` with the table of allowed ones, refuses circles among the modules of one folder, and keeps clocks, sockets,
//! files and the kernel out of the pure modules.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use syn::visit::{self, Visit};

/// The folders of `balancer-ctl`, from the lowest to the highest, each with those that it may import.
const FOLDERS: [(&str, &[&str]); 14] = [
    ("os", &[]),
    ("model", &["os"]),
    ("netlink", &["model", "os"]),
    ("host", &["netlink", "model", "os"]),
    ("config", &["netlink", "model", "os"]),
    ("dataplane", &["host", "netlink", "model", "os"]),
    ("health", &["netlink", "model", "os"]),
    ("notify", &["model", "os"]),
    ("peer", &["model", "os"]),
    ("vrrp", &["host", "netlink", "model", "os"]),
    (
        "control",
        &[
            "config",
            "dataplane",
            "health",
            "host",
            "model",
            "netlink",
            "notify",
            "os",
            "peer",
            "vrrp",
        ],
    ),
    ("api", &["control", "config", "model", "os", "peer"]),
    ("cli", &["api", "config", "host", "model", "os"]),
    (
        "startup",
        &[
            "api",
            "config",
            "control",
            "dataplane",
            "health",
            "host",
            "model",
            "notify",
            "os",
            "peer",
            "vrrp",
        ],
    ),
];

/// The pure modules of `balancer-ctl`, with the modules in them: they only compute; time is an argument, and results are returned.
const PURE: [&str; 28] = [
    "model",
    "config::edit",
    "config::parts",
    "config::read",
    "config::validate",
    "config::write",
    "control::availability",
    "control::conditions",
    "control::pair",
    "control::pausing",
    "control::report",
    "control::tracking",
    "dataplane::plan",
    "dataplane::ring",
    "health::checker",
    "health::schedule",
    "notify::policy",
    "peer::admission",
    "peer::message",
    "peer::session",
    "vrrp::announcement",
    "vrrp::checksum",
    "vrrp::engine::running",
    "vrrp::fsm",
    "vrrp::group",
    "vrrp::guard::leases",
    "vrrp::interfaces",
    "vrrp::packet",
];

/// What a pure module may not name, by the beginning or the end of a path.
const IMPURE: [&str; 16] = [
    "aya",
    "libc",
    "nix",
    "socket2",
    "tokio",
    "std::fs",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::process",
    "std::thread",
    "std::env",
    "Instant::now",
    "SystemTime::now",
    "clock::now",
    "clock::now_utc",
];

/// The crates whose modules must not import each other in circles.
const CRATES: [&str; 4] = [
    "balancer-common/src",
    "balancer-ctl/src",
    "balancer-ebpf/src",
    "xtask/src",
];

/// Returns a sentence for each violation.
///
/// # Errors
/// A source file cannot be read or parsed.
pub fn check(root: &Path) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for name in CRATES {
        let arrows = Arrows::of(&root.join(name))?;
        if name == "balancer-ctl/src" {
            faults.extend(arrows.forbidden(&FOLDERS));
            faults.extend(arrows.impure(&PURE));
        }
        faults.extend(arrows.circles().into_iter().map(|circle| {
            format!(
                "{name}: {} import each other in a circle: move what both need below them",
                circle.join(", ")
            )
        }));
    }
    Ok(faults)
}

/// A module: the names on its path from the crate's root.
type Module = Vec<String>;

/// Which module of a crate imports which others, and which paths of other crates each names.
#[derive(Debug, Default)]
struct Arrows {
    inner: BTreeSet<(Module, Module)>,
    outer: BTreeSet<(Module, String)>,
}

impl Arrows {
    /// The arrows of the crate whose sources lie in `folder`.
    fn of(folder: &Path) -> Result<Self> {
        let mut sources = BTreeMap::new();
        for file in files(folder)? {
            let text = fs::read_to_string(&file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            let module = module_of(file.strip_prefix(folder)?);
            sources.insert(module, text);
        }
        Self::among(&sources)
    }

    /// The arrows among modules, given each one's source text.
    fn among(sources: &BTreeMap<Module, String>) -> Result<Self> {
        let mut arrows = Self::default();
        for (module, text) in sources {
            let file = syn::parse_file(text)
                .with_context(|| format!("cannot parse module {}", module.join("::")))?;
            let mut paths = Paths {
                module: module.clone(),
                inside: Vec::new(),
                found: BTreeSet::new(),
                outer: BTreeSet::new(),
            };
            paths.visit_file(&file);
            let outer = paths.outer.into_iter();
            arrows
                .outer
                .extend(outer.map(|path| (module.clone(), path)));
            for path in paths.found {
                // The longest part of the path that is a module; the rest is an item in it.
                let target = (0..=path.len())
                    .rev()
                    .map(|length| &path[..length])
                    .find(|part| part.is_empty() || sources.contains_key(*part));
                if let Some(target) = target.filter(|target| target != module) {
                    arrows.inner.insert((module.clone(), target.to_vec()));
                }
            }
        }
        Ok(arrows)
    }

    /// The arrows between folders that the table does not allow.
    fn forbidden(&self, folders: &[(&str, &[&str])]) -> Vec<String> {
        let mut faults = Vec::new();
        for (from, to) in &self.inner {
            let ([folder, ..], [other, ..]) = (&from[..], &to[..]) else {
                continue;
            };
            if folder == other {
                continue;
            }
            match folders.iter().find(|(name, _)| name == folder) {
                None => faults.push(format!(
                    "folder {folder} is not in the table of folders: add it to xtask/src/lint/layers.rs"
                )),
                Some((_, allowed)) if !allowed.contains(&other.as_str()) => faults.push(format!(
                    "{} imports {}: {folder} may import {}",
                    from.join("::"),
                    to.join("::"),
                    if allowed.is_empty() {
                        "no other folder".to_owned()
                    } else {
                        allowed.join(", ")
                    }
                )),
                Some(_) => {}
            }
        }
        faults.dedup();
        faults
    }

    /// The paths that the modules `pure`, and the modules in them, name although they must not.
    fn impure(&self, pure: &[&str]) -> Vec<String> {
        let mut faults = Vec::new();
        for (module, path) in &self.outer {
            let module = module.join("::");
            let is_pure = pure.iter().any(|pure| is_or_begins(&module, pure));
            let is_impure = |named: &&&str| is_or_begins(path, named) || is_or_ends(path, named);
            if is_pure && IMPURE.iter().any(|named| is_impure(&named)) {
                faults.push(format!(
                    "{module} is pure and names {path}: take it as an argument"
                ));
            }
        }
        faults
    }

    /// The groups of modules of one folder that reach each other both ways, by their subtrees' imports.
    fn circles(&self) -> Vec<Vec<String>> {
        let mut by_folder: BTreeMap<&[String], BTreeSet<(&str, &str)>> = BTreeMap::new();
        for (from, to) in &self.inner {
            let common = from.iter().zip(to).take_while(|(a, b)| a == b).count();
            // A module and the modules in it count as one.
            if let (Some(one), Some(other)) = (from.get(common), to.get(common)) {
                by_folder
                    .entry(&from[..common])
                    .or_default()
                    .insert((one, other));
            }
        }
        let mut circles = Vec::new();
        for (folder, arrows) in by_folder {
            let mut left: BTreeSet<_> = arrows.iter().map(|(from, _)| *from).collect();
            while let Some(start) = left.pop_first() {
                let forth = reachable(start, |node| {
                    arrows.iter().filter(move |a| a.0 == node).map(|a| a.1)
                });
                let back = reachable(start, |node| {
                    arrows.iter().filter(move |a| a.1 == node).map(|a| a.0)
                });
                let circle: Vec<_> = forth.intersection(&back).copied().collect();
                if circle.len() > 1 {
                    left.retain(|node| !circle.contains(node));
                    let name = |node: &&str| {
                        let mut path = folder.to_vec();
                        path.push((*node).to_owned());
                        path.join("::")
                    };
                    circles.push(circle.iter().map(name).collect());
                }
            }
        }
        circles
    }
}

fn is_or_begins(path: &str, beginning: &str) -> bool {
    path.strip_prefix(beginning)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn is_or_ends(path: &str, end: &str) -> bool {
    path.strip_suffix(end)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with("::"))
}

/// All nodes that can be reached from `start`, itself included.
fn reachable<'a, I: Iterator<Item = &'a str>>(
    start: &'a str,
    next: impl Fn(&'a str) -> I,
) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::from([start]);
    let mut open = vec![start];
    while let Some(node) = open.pop() {
        open.extend(next(node).filter(|other| seen.insert(other)));
    }
    seen
}

/// The source files below a folder, without tests and binaries.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() {
            if name != "tests" && name != "bin" {
                found.extend(files(&path)?);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !["tests.rs", "lib.rs", "main.rs"]
                .iter()
                .any(|other| name == *other)
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The module that a file, relative to the crate's sources, holds.
fn module_of(file: &Path) -> Module {
    let file = file.with_extension("");
    file.iter()
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

/// Collects the paths of a file that begin with `crate`, `self` or `super`, from the crate's root.
struct Paths {
    module: Module,
    /// Modules that are written in this file.
    inside: Vec<String>,
    found: BTreeSet<Vec<String>>,
    /// All other paths, as they are written.
    outer: BTreeSet<String>,
}

impl Paths {
    fn add(&mut self, segments: &[String]) {
        let mut base: Vec<_> = self.module.iter().chain(&self.inside).cloned().collect();
        let mut rest = segments;
        match segments.first().map(String::as_str) {
            Some("crate") => {
                base.clear();
                rest = &segments[1..];
            }
            Some("self") => rest = &segments[1..],
            Some("super") => {
                while rest.first().is_some_and(|name| name == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            _ => {
                self.outer.insert(segments.join("::"));
                return;
            }
        }
        base.extend(rest.iter().cloned());
        self.found.insert(base);
    }

    fn add_tree(&mut self, prefix: &mut Vec<String>, tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.add_tree(prefix, &path.tree);
                prefix.pop();
            }
            syn::UseTree::Name(syn::UseName { ident })
            | syn::UseTree::Rename(syn::UseRename { ident, .. }) => {
                let is_self = ident == "self";
                if !is_self {
                    prefix.push(ident.to_string());
                }
                self.add(prefix);
                if !is_self {
                    prefix.pop();
                }
            }
            syn::UseTree::Glob(_) => self.add(prefix),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_tree(prefix, tree);
                }
            }
        }
    }
}

/// Whether an item is compiled for tests only.
fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Ident>()
                .is_ok_and(|condition| condition == "test")
    })
}

impl<'a> Visit<'a> for Paths {
    fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
        if is_for_tests(&item.attrs) {
            return;
        }
        self.inside.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.inside.pop();
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        if !is_for_tests(&item.attrs) {
            self.add_tree(&mut Vec::new(), &item.tree);
        }
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let segments: Vec<_> = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        self.add(&segments);
        visit::visit_path(self, path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrows(sources: &[(&str, &str)]) -> Arrows {
        let sources = sources
            .iter()
            .map(|(module, text)| {
                let module = module.split("::").map(str::to_owned).collect();
                (module, (*text).to_owned())
            })
            .collect();
        Arrows::among(&sources).unwrap()
    }

    #[test]
    fn an_import_that_the_table_does_not_allow_is_named() {
        let arrows = arrows(&[
            ("low", "fn f() -> crate::high::part::T { todo!() }"),
            ("high", "pub mod part;"),
            (
                "high::part",
                "use crate::low; use super::Other; pub struct T;",
            ),
            ("stray", "use crate::low::{self, f};"),
        ]);
        let folders: [(&str, &[&str]); 2] = [("low", &[]), ("high", &["low"])];
        assert_eq!(
            arrows.forbidden(&folders),
            [
                "low imports high::part: low may import no other folder",
                "folder stray is not in the table of folders: add it to xtask/src/lint/layers.rs",
            ]
        );
    }

    #[test]
    fn circles_among_modules_of_one_folder_are_found_through_what_lies_in_them() {
        let arrows = arrows(&[
            ("room", "mod a; mod b; mod c;"),
            ("room::a", "mod inner;"),
            ("room::a::inner", "use super::super::b::{B, C as D};"),
            ("room::b", "use super::c::*;"),
            ("room::c", "fn f() { crate::room::a::g() }"),
            ("room::d", "use super::a;"),
        ]);
        assert_eq!(arrows.circles(), [["room::a", "room::b", "room::c"]]);
    }

    #[test]
    fn a_pure_module_names_neither_clocks_nor_sockets() {
        let arrows = arrows(&[
            ("pure", "use std::time::Instant; pub mod part;"),
            (
                "pure::part",
                "use std::{fs, net::{IpAddr, TcpStream}}; fn f() { Instant::now(); }",
            ),
            ("other", "use std::fs; fn f() { tokio::spawn(g()) }"),
        ]);
        assert_eq!(
            arrows.impure(&["pure"]),
            [
                "pure::part is pure and names Instant::now: take it as an argument",
                "pure::part is pure and names std::fs: take it as an argument",
                "pure::part is pure and names std::net::TcpStream: take it as an argument",
            ]
        );
    }

    #[test]
    fn what_only_tests_import_counts_for_nothing() {
        let arrows = arrows(&[
            ("a", "#[cfg(test)] mod tests { use crate::b::B; }"),
            ("b", "#[cfg(test)] use crate::a::A; use crate::a::C;"),
        ]);
        assert_eq!(arrows.circles(), Vec::<Vec<String>>::new());
        assert_eq!(arrows.inner.len(), 1);
    }
}
