//! Directories that a program makes for what it puts there, and that go with it.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

/// The directories that [`NewDirectories::make`] had to make; those that are empty are removed when this is dropped.
#[derive(Debug, Default)]
pub struct NewDirectories(Vec<PathBuf>);

impl NewDirectories {
    /// Makes a directory with mode 0755, and those that it is in.
    ///
    /// # Errors
    /// One of them cannot be made; nothing is left then.
    pub fn make(path: &Path) -> anyhow::Result<Self> {
        let missing = path
            .ancestors()
            .take_while(|path| !path.as_os_str().is_empty() && fs::symlink_metadata(path).is_err());
        let new = Self(missing.map(Path::to_owned).collect());
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(path)
            .with_context(|| format!("cannot make the directory {}", path.display()))?;
        Ok(new)
    }
}

impl Drop for NewDirectories {
    fn drop(&mut self) {
        for directory in &self.0 {
            // One that holds something else stays.
            let _ = fs::remove_dir(directory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_made_and_is_empty_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        drop(NewDirectories::make(folder.path()).unwrap());
        assert!(folder.path().exists());
        let made = NewDirectories::make(&path("a/b/c")).unwrap();
        assert!(path("a/b/c").is_dir());
        drop(made);
        assert!(!path("a").exists());
        let made = NewDirectories::make(&path("a/b")).unwrap();
        fs::write(path("a/other"), "").unwrap();
        drop(made);
        assert!(path("a").exists() && !path("a/b").exists());
        assert_eq!(
            NewDirectories::make(&path("a/other/c"))
                .unwrap_err()
                .to_string(),
            format!("cannot make the directory {}", path("a/other/c").display())
        );
        assert_eq!(fs::read_dir(path("a")).unwrap().count(), 1);
    }
}
