//! The guest's file system: an archive in cpio's format "newc", which the kernel unpacks into memory.
//!
//! ```text
//!  "070701" inode mode uid gid links mtime size dev(2) rdev(2) name-size check     13 numbers of 8 hex digits
//!  name, a zero byte, zeroes up to a multiple of 4; content, zeroes up to a multiple of 4
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// Type bits of a mode.
const DIRECTORY: u32 = 0o040_000;
/// See [`DIRECTORY`].
const REGULAR: u32 = 0o100_000;
/// See [`DIRECTORY`].
const LINK: u32 = 0o120_000;

/// Folders that Debian has merged into /usr; they are links in the guest too, so that this machine's paths are valid there.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// Files by their path in the guest, without a leading slash. All belong to root.
#[derive(Debug, Default)]
pub struct Initramfs {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
enum Entry {
    Directory,
    File { mode: u32, content: Content },
    Link(String),
}

#[derive(Debug)]
enum Content {
    Bytes(Vec<u8>),
    /// Copied when the archive is written.
    Of(PathBuf),
}

impl Initramfs {
    /// Starts with the folders that every system has.
    pub fn new() -> Self {
        let mut this = Self::default();
        for folder in MERGED {
            this.directory(&format!("usr/{folder}"));
            this.entries
                .insert(folder.into(), Entry::Link(format!("usr/{folder}")));
        }
        for folder in ["dev", "etc", "proc", "root", "run", "sys", "tmp", "var/lib"] {
            this.directory(folder);
        }
        this
    }

    /// Adds a folder.
    pub fn directory(&mut self, path: &str) {
        let path = unmerged(path);
        self.parents(&path);
        self.entries.insert(path, Entry::Directory);
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) {
        self.add(path, mode, Content::Bytes(content.into()));
    }

    /// Adds a copy of a program of this machine at `path`.
    pub fn program(&mut self, path: &str, source: &Path) {
        self.add(path, 0o755, Content::Of(source.into()));
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        let path = unmerged(path);
        self.parents(&path);
        self.entries.insert(path, Entry::Link(target.into()));
    }

    /// Adds the libraries that a program of this machine needs; `libraries` are looked through first.
    ///
    /// # Errors
    /// A library is not on this machine.
    pub fn libraries_of(&mut self, program: &Path, libraries: &[PathBuf]) -> Result<()> {
        let mut command = Command::new("ldd");
        command.arg(program).env("LC_ALL", "C").stdin(Stdio::null());
        if !libraries.is_empty() {
            command.env("LD_LIBRARY_PATH", std::env::join_paths(libraries)?);
        }
        let output = command.output().context("cannot run ldd")?;
        let listed = String::from_utf8_lossy(&output.stdout);
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("not a dynamic executable") || listed.contains("statically linked") {
            return Ok(());
        }
        ensure!(
            output.status.success(),
            "ldd {} failed: {}",
            program.display(),
            said.trim()
        );
        for library in parse_ldd(&listed)
            .with_context(|| format!("{} cannot be copied into the guest", program.display()))?
        {
            // A library from `libraries` goes to a folder in which the loader looks.
            let path = libraries
                .iter()
                .find_map(|folder| library.strip_prefix(folder).ok())
                .map_or_else(
                    || library.to_string_lossy().into_owned(),
                    |name| format!("usr/lib/x86_64-linux-gnu/{}", name.display()),
                );
            self.program(&path, &library);
        }
        Ok(())
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// A file cannot be read, or the archive not written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
        let mut file = BufWriter::new(file);
        let written = self.write_to(&mut file).and_then(|()| Ok(file.flush()?));
        written.with_context(|| format!("cannot write {}", path.display()))
    }

    fn write_to(&self, out: &mut impl Write) -> Result<()> {
        let mut inode = 0;
        for (path, entry) in &self.entries {
            inode += 1;
            match entry {
                Entry::Directory => member(out, inode, DIRECTORY | 0o755, path, &[])?,
                Entry::Link(target) => member(out, inode, LINK | 0o777, path, target.as_bytes())?,
                Entry::File { mode, content } => {
                    let mode = REGULAR | mode;
                    match content {
                        Content::Bytes(bytes) => member(out, inode, mode, path, bytes)?,
                        Content::Of(source) => {
                            let bytes = fs::read(source)
                                .with_context(|| format!("cannot read {}", source.display()))?;
                            member(out, inode, mode, path, &bytes)?;
                        }
                    }
                }
            }
        }
        Ok(member(out, 0, 0, "TRAILER!!!", &[])?)
    }

    fn add(&mut self, path: &str, mode: u32, content: Content) {
        let path = unmerged(path);
        self.parents(&path);
        self.entries.insert(path, Entry::File { mode, content });
    }

    /// Adds the folders above a path, which the kernel does not make by itself. They sort before their content.
    fn parents(&mut self, path: &str) {
        let above: BTreeSet<&str> = path.match_indices('/').map(|(at, _)| &path[..at]).collect();
        for folder in above {
            self.entries
                .entry(folder.to_owned())
                .or_insert(Entry::Directory);
        }
    }
}

/// A path without a leading slash and with merged folders resolved, so that no file's path leads through a link.
fn unmerged(path: &str) -> String {
    let path = path.trim_start_matches('/');
    match path.split_once('/') {
        Some((first, _)) if MERGED.contains(&first) => format!("usr/{path}"),
        _ => path.to_owned(),
    }
}

fn member(
    out: &mut impl Write,
    inode: u32,
    mode: u32,
    path: &str,
    content: &[u8],
) -> io::Result<()> {
    let too_large = |_| io::Error::other(format!("{path} is too large for an initramfs"));
    let size = u32::try_from(content.len()).map_err(too_large)?;
    let name_size = u32::try_from(path.len() + 1).map_err(too_large)?;
    let links = 1;
    write!(out, "070701")?;
    for number in [inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0] {
        write!(out, "{number:08X}")?;
    }
    const HEADER: usize = 6 + 13 * 8;
    out.write_all(path.as_bytes())?;
    out.write_all(&[0])?;
    pad(out, HEADER + path.len() + 1)?;
    out.write_all(content)?;
    pad(out, content.len())
}

fn pad(out: &mut impl Write, length: usize) -> io::Result<()> {
    out.write_all(&[0; 4][..length.next_multiple_of(4) - length])
}

/// Reads the paths that `ldd` prints.
fn parse_ldd(listed: &str) -> Result<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for line in listed.lines().map(str::trim) {
        let place = line.split_once(" => ").map_or(line, |(_, place)| place);
        ensure!(
            place != "not found",
            "this machine lacks a library of it: {line}"
        );
        // What the kernel itself provides has no path.
        if let Some(path) = place
            .split(" (")
            .next()
            .filter(|path| path.starts_with('/'))
        {
            libraries.push(path.into());
        }
    }
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What busybox's cpio writes of a folder `d` with the file `d/f` ("hi\n", mode 0644), apart from inodes' numbers,
    /// times, devices and the folder's count of links, none of which the kernel looks at here.
    #[test]
    fn the_archive_is_what_cpio_writes() {
        let mut initramfs = Initramfs::default();
        initramfs.file("d/f", 0o644, "hi\n");
        let mut bytes = Vec::new();
        initramfs.write_to(&mut bytes).unwrap();
        let header = |inode: u32, mode: u32, size: u32, name_size: u32| {
            format!(
                "070701{inode:08X}{mode:08X}000000000000000000000001\
                 00000000{size:08X}00000000000000000000000000000000{name_size:08X}00000000"
            )
        };
        let expected = [
            header(1, 0o040_755, 0, 2),
            "d\0".into(),
            header(2, 0o100_644, 3, 4),
            "d/f\0\0\0hi\n\0".into(),
            header(0, 0, 0, 11),
            "TRAILER!!!\0\0\0\0".into(),
        ]
        .concat();
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn files_do_not_go_through_links() {
        let mut initramfs = Initramfs::new();
        initramfs.file("/lib/x86_64-linux-gnu/libc.so.6", 0o755, "x");
        initramfs.file("init", 0o755, "x");
        let paths: Vec<&str> = initramfs.entries.keys().map(String::as_str).collect();
        assert!(paths.contains(&"usr/lib/x86_64-linux-gnu"), "{paths:?}");
        assert!(paths.contains(&"usr/lib/x86_64-linux-gnu/libc.so.6"));
        assert!(paths.contains(&"init"));
        assert!(matches!(&initramfs.entries["lib"], Entry::Link(to) if to == "usr/lib"));
    }

    #[test]
    fn libraries_are_read_from_what_ldd_prints() {
        let listed = "\tlinux-vdso.so.1 (0x00007fff)\n\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            parse_ldd(listed).unwrap(),
            [
                PathBuf::from("/lib/x86_64-linux-gnu/libz.so.1"),
                PathBuf::from("/lib64/ld-linux-x86-64.so.2")
            ]
        );
        let error = parse_ldd("\tlibx.so => not found\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "this machine lacks a library of it: libx.so => not found"
        );
    }
}
