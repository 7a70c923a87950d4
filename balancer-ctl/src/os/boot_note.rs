//! What an instance has changed in the kernel, noted in a file before it is changed, so that a later daemon knows after a kill.

use std::fmt;

use anyhow::Context as _;

use super::state_file::{StateFile, boot_id};

/// Such a file. It holds for one boot: after the next, the kernel has none of what it says.
#[derive(Clone, Debug)]
pub struct BootNote {
    file: StateFile,
    /// Its first line, with the id of the present boot.
    head: String,
}

impl BootNote {
    /// The note with this name of an instance; `None` = the default instance.
    ///
    /// # Errors
    /// The boot's id cannot be read.
    pub fn of(instance: Option<&str>, name: &str) -> anyhow::Result<Self> {
        let boot = boot_id().context("cannot read the boot's id")?;
        Ok(Self::at(StateFile::of(instance, name), &boot))
    }

    /// The note in this file, in the boot with this id.
    #[must_use]
    pub fn at(file: StateFile, boot: &str) -> Self {
        Self {
            file,
            head: format!("boot {boot}\n"),
        }
    }

    /// What is noted since this boot.
    ///
    /// # Errors
    /// The file exists and cannot be read.
    pub fn read(&self) -> anyhow::Result<String> {
        let text = self.file.read();
        let text = text.with_context(|| format!("cannot read {}", self.file))?;
        Ok(text.strip_prefix(&self.head).unwrap_or_default().to_owned())
    }

    /// Replaces what is noted; nothing removes the file.
    ///
    /// # Errors
    /// The disk refused it; what was noted still is.
    pub fn write(&self, text: &str) -> anyhow::Result<()> {
        let written = if text.is_empty() {
            self.file.remove()
        } else {
            self.file
                .replace(|file| write!(file, "{}{text}", self.head))
        };
        written.with_context(|| format!("cannot write {}", self.file))
    }
}

impl fmt::Display for BootNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_counts_until_the_next_boot_and_is_gone_when_it_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("own/note");
        let of = |boot| BootNote::at(StateFile::at(&path), boot);
        assert_eq!(of("a").read().unwrap(), "");
        of("a").write("one\ntwo\n").unwrap();
        assert_eq!(of("a").read().unwrap(), "one\ntwo\n");
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "boot a\none\ntwo\n"
        );
        assert_eq!(of("b").read().unwrap(), "");
        of("b").write("").unwrap();
        assert!(!path.parent().unwrap().exists());
    }
}
