//! The key that all nodes of a cluster share: who has it is a node, and nobody else can read or say anything on the channel.

use std::{
    fmt, fs,
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    str::FromStr,
};

use nix::unistd::geteuid;
use rustix::rand::{GetRandomFlags, getrandom};
use zeroize::{Zeroize as _, Zeroizing};

use crate::os::{program::check_origin, shell, state_file::StateFile};

/// Length of a key in bytes.
pub const KEY_BYTES: usize = 32;
/// What a key's text begins with: what it is, and the version of the form.
const PREFIX: &str = "bk1-";
/// Length of the checksum in bytes.
const CHECKSUM_BYTES: usize = 3;
/// Digits in the text of a key: 5 bits each.
const DIGITS: usize = (KEY_BYTES + CHECKSUM_BYTES) * 8 / 5;
/// The digits (Crockford's base 32): no `i`, `l`, `o` and `u`.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Largest file in bytes in which a key is looked for.
const MAX_FILE_BYTES: u64 = 4096;
/// Permission bits of everybody but the owner.
const OTHERS: u32 = 0o077;

/// A cluster's key. Its text (`bk1-` and 56 letters and digits) goes to operators only: `Debug` does not show it. Overwritten in
/// memory when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey([u8; KEY_BYTES]);

impl ClusterKey {
    /// A new key from the kernel's random numbers.
    ///
    /// # Errors
    /// The kernel has none.
    pub fn generate() -> io::Result<Self> {
        let mut key = Self([0; KEY_BYTES]);
        let mut rest = &mut key.0[..];
        while !rest.is_empty() {
            let read = getrandom(&mut *rest, GetRandomFlags::empty())?;
            rest = &mut rest[read..];
        }
        Ok(key)
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// Reads a key's file; `None` = there is no file.
    ///
    /// # Errors
    /// A sentence: the file cannot be read, holds no key, or others than its owner, who is root or this process's user, may read it.
    pub fn read(path: &Path) -> Result<Option<Self>, String> {
        let shown = path.display();
        let file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path);
        let file = match file {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => {
                file.map_err(|error| format!("the key file {shown} cannot be read: {error}"))?
            }
        };
        let unreadable = |error: io::Error| format!("the key file {shown} cannot be read: {error}");
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(format!("the key file {shown} is not a regular file"));
        }
        let mut text = Zeroizing::new(String::new());
        file.take(MAX_FILE_BYTES)
            .read_to_string(&mut text)
            .map_err(unreadable)?;
        let key = text.trim().parse();
        let key =
            key.map_err(|error: String| format!("the key file {shown} holds no key: {error}"))?;
        // Only of a file that holds a key: who names another one chooses no command for root.
        let word = shell::path(path);
        if metadata.uid() != 0 && metadata.uid() != geteuid().as_raw() {
            return Err(format!(
                "the key file {shown} belongs to another user, who can read it: `chown root: {word}`, and better make a new key"
            ));
        }
        if metadata.mode() & OTHERS != 0 {
            return Err(format!(
                "the key file {shown} may be read or changed by others than root: `chmod 600 {word}`"
            ));
        }
        let origin = std::path::absolute(path).map_err(unreadable)?;
        check_origin(&origin).map_err(|reason| {
            format!("the key file {shown} may be replaced by others than root: {reason}")
        })?;
        Ok(Some(key))
    }

    /// Writes the key's file, as root's alone (0600), as a whole.
    ///
    /// # Errors
    /// The disk refused it; an old file is still there.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let text = Zeroizing::new(format!("{self}\n"));
        StateFile::at(path).replace_durably(|file| file.write_all(text.as_bytes()))
    }

    /// Writes the key beside its file, whose place it takes with [`Prepared::commit`]: until then the old one is there, whatever happens.
    ///
    /// # Errors
    /// A sentence: the disk refused it.
    pub fn prepare(&self, path: &Path) -> Result<Prepared, String> {
        if fs::symlink_metadata(path).is_ok_and(|file| file.is_dir()) {
            return Err(unwritable(path, &io::ErrorKind::IsADirectory.into()));
        }
        let mut beside = path.as_os_str().to_owned();
        beside.push(".joining");
        let prepared = Prepared {
            beside: beside.into(),
            path: path.to_owned(),
        };
        self.write(&prepared.beside)
            .map_err(|error| unwritable(path, &error))?;
        Ok(prepared)
    }

    /// Reads a key's file, or makes a new key and the file if there is none.
    ///
    /// # Errors
    /// A sentence, as for [`Self::read`], or that the file cannot be written.
    pub fn read_or_create(path: &Path) -> Result<Self, String> {
        if let Some(key) = Self::read(path)? {
            return Ok(key);
        }
        let key = Self::generate().map_err(|error| format!("cannot make a key: {error}"))?;
        key.write(path).map_err(|error| unwritable(path, &error))?;
        Ok(key)
    }
}

/// A key beside its file; it is removed if it does not take the file's place.
pub struct Prepared {
    beside: PathBuf,
    path: PathBuf,
}

impl Prepared {
    /// Puts it in its file's place.
    ///
    /// # Errors
    /// A sentence: the disk refused it; the old file is still there.
    pub fn commit(self) -> Result<(), String> {
        fs::rename(&self.beside, &self.path).map_err(|error| unwritable(&self.path, &error))
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // After `commit` it is not there any more.
        let _ = fs::remove_file(&self.beside);
    }
}

fn unwritable(path: &Path, error: &io::Error) -> String {
    format!("the key file {} cannot be written: {error}", path.display())
}

impl From<[u8; KEY_BYTES]> for ClusterKey {
    fn from(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }
}

impl Drop for ClusterKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(secret)")
    }
}

impl fmt::Display for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Zeroizing::new([0; KEY_BYTES + CHECKSUM_BYTES]);
        bytes[..KEY_BYTES].copy_from_slice(&self.0);
        bytes[KEY_BYTES..].copy_from_slice(&checksum(&self.0));
        f.write_str(PREFIX)?;
        // Eight digits are five bytes.
        for chunk in bytes.chunks(5) {
            let number = chunk
                .iter()
                .fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
            for place in (0..8).rev() {
                let digit = usize::try_from(number >> (5 * place) & 31).unwrap_or_default();
                write!(f, "{}", char::from(ALPHABET[digit]))?;
            }
        }
        Ok(())
    }
}

impl FromStr for ClusterKey {
    type Err = String;

    /// Reads a key's text; its case does not matter, nor do spaces, line ends and hyphens in it.
    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.trim();
        let rest = match rest.get(..PREFIX.len()) {
            Some(prefix) if prefix.eq_ignore_ascii_case(PREFIX) => &rest[PREFIX.len()..],
            _ => {
                return Err(format!(
                    "a key begins with `{PREFIX}`: `balancer-ctl node key` prints it"
                ));
            }
        };
        let mut bytes = Zeroizing::new([0; KEY_BYTES + CHECKSUM_BYTES]);
        let mut count = 0;
        let mut number = 0_u64;
        for character in rest.chars().filter(|c| !c.is_whitespace() && *c != '-') {
            let digit = digit(character).ok_or_else(|| {
                format!(
                    "a key holds digits and letters only, not `{}`",
                    character.escape_default()
                )
            })?;
            if count == DIGITS {
                return Err(format!(
                    "the key is too long: {DIGITS} letters and digits follow `{PREFIX}`"
                ));
            }
            number = number << 5 | digit;
            count += 1;
            if count % 8 == 0 {
                let end = count / 8 * 5;
                bytes[end - 5..end].copy_from_slice(&number.to_be_bytes()[3..]);
                number = 0;
            }
        }
        if count < DIGITS {
            return Err(format!(
                "the key is too short: {DIGITS} letters and digits follow `{PREFIX}`, and there are {count}"
            ));
        }
        let mut key = Self([0; KEY_BYTES]);
        key.0.copy_from_slice(&bytes[..KEY_BYTES]);
        if bytes[KEY_BYTES..] != checksum(&key.0) {
            return Err("the key has a typing error: its checksum is wrong".to_owned());
        }
        Ok(key)
    }
}

/// The value of a digit; letters that look like a digit are read as it.
fn digit(character: char) -> Option<u64> {
    let character = match character.to_ascii_lowercase() {
        'o' => '0',
        'i' | 'l' => '1',
        character => character,
    };
    let value = ALPHABET.iter().position(|c| char::from(*c) == character)?;
    u64::try_from(value).ok()
}

/// The checksum of OpenPGP (CRC-24): finds every change of up to four digits next to each other. It hides nothing.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut crc = 0x00b7_04ce_u32;
    for byte in bytes {
        crc ^= u32::from(*byte) << 16;
        for _ in 0..8 {
            crc <<= 1;
            if crc & 0x0100_0000 != 0 {
                crc ^= 0x0186_4cfb;
            }
        }
    }
    let [_, a, b, c] = crc.to_be_bytes();
    [a, b, c]
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use proptest::prelude::*;

    use super::*;

    fn key() -> ClusterKey {
        let mut bytes = [0; KEY_BYTES];
        for (at, byte) in (0..).zip(&mut bytes) {
            *byte = at * 7;
        }
        ClusterKey(bytes)
    }

    #[test]
    fn the_checksum_is_openpgp_s() {
        assert_eq!(checksum(b"123456789"), [0x21, 0xcf, 0x02]);
    }

    #[test]
    fn two_keys_differ_and_debug_shows_neither() {
        let (one, other) = (
            ClusterKey::generate().unwrap(),
            ClusterKey::generate().unwrap(),
        );
        assert_ne!(one, other);
        assert_eq!(format!("{one:?}"), "ClusterKey(secret)");
    }

    #[test]
    fn the_text_is_read_in_any_case_with_spaces_and_look_alikes() {
        let text = key().to_string();
        assert_eq!(text.len(), PREFIX.len() + DIGITS);
        assert_eq!(text.parse(), Ok(key()));
        assert_eq!(text.to_uppercase().parse(), Ok(key()));
        let broken: String = text
            .char_indices()
            .flat_map(|(at, c)| [Some(c), (at % 11 == 10).then_some('\n')])
            .flatten()
            .collect();
        assert_eq!(format!("  {broken} ").parse(), Ok(key()));
        let alike = format!(
            "{PREFIX}{}",
            text[PREFIX.len()..].replace('0', "o").replace('1', "l")
        );
        assert_eq!(alike.parse(), Ok(key()));
    }

    #[test]
    fn every_wrong_digit_and_every_swap_is_found() {
        let text = key().to_string();
        for at in PREFIX.len()..text.len() {
            for digit in ALPHABET {
                let mut wrong = text.clone().into_bytes();
                if wrong[at] == *digit {
                    continue;
                }
                wrong[at] = *digit;
                let wrong = String::from_utf8(wrong).unwrap();
                let error = wrong.parse::<ClusterKey>().unwrap_err();
                assert_eq!(error, "the key has a typing error: its checksum is wrong");
            }
            let mut swapped = text.clone().into_bytes();
            if at + 1 < text.len() && swapped[at] != swapped[at + 1] {
                swapped.swap(at, at + 1);
                let swapped = String::from_utf8(swapped).unwrap();
                assert!(swapped.parse::<ClusterKey>().is_err());
            }
        }
    }

    #[test]
    fn what_is_wrong_with_a_key_is_said_without_the_key() {
        let text = key().to_string();
        let error = |text: &str| text.parse::<ClusterKey>().unwrap_err();
        assert_eq!(
            error(""),
            "a key begins with `bk1-`: `balancer-ctl node key` prints it"
        );
        assert_eq!(error("\u{e9}\u{e9}\u{e9}"), error(""));
        assert_eq!(
            error(&text[..text.len() - 1]),
            "the key is too short: 56 letters and digits follow `bk1-`, and there are 55"
        );
        assert_eq!(
            error(&format!("{text}0")),
            "the key is too long: 56 letters and digits follow `bk1-`"
        );
        assert_eq!(
            error("bk1-\u{1b}"),
            "a key holds digits and letters only, not `\\u{1b}`"
        );
    }

    proptest! {
        #[test]
        fn every_key_is_read_as_it_is_shown(bytes: [u8; KEY_BYTES]) {
            let key = ClusterKey(bytes);
            prop_assert_eq!(key.to_string().parse(), Ok(key));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,80}") {
            let _ = text.parse::<ClusterKey>();
            let _ = format!("bk1-{text}").parse::<ClusterKey>();
        }
    }

    #[test]
    fn a_key_file_is_made_once_and_root_s_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("own/key");
        assert_eq!(ClusterKey::read(&path), Ok(None));
        let key = ClusterKey::read_or_create(&path).unwrap();
        assert_eq!(ClusterKey::read_or_create(&path).unwrap(), key);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        for mode in [0o640, 0o604, 0o620, 0o602, 0o610] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let shown = path.display();
            assert_eq!(
                ClusterKey::read(&path).unwrap_err(),
                format!(
                    "the key file {shown} may be read or changed by others than root: `chmod 600 {shown}`"
                )
            );
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let within = path.parent().unwrap();
        fs::set_permissions(within, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(
            ClusterKey::read(&path).unwrap_err(),
            format!(
                "the key file {} may be replaced by others than root: `{}` can be written by others: let only root write to \
                 it, or move the file to a folder that only root may write to",
                path.display(),
                within.display()
            )
        );
    }

    #[test]
    fn a_file_that_holds_no_key_is_refused_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for content in [&b""[..], b"secret", &[0xff; 100], &[b'a'; 10_000]] {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let error = ClusterKey::read_or_create(&path).unwrap_err();
            assert!(error.starts_with("the key file "), "{error}");
            assert!(!error.contains("secret"), "{error}");
            assert_eq!(fs::read(&path).unwrap(), content);
        }
        // Who names a file as the key's chooses no command for root.
        fs::write(&path, "a1b2c3\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = ClusterKey::read(&path).unwrap_err();
        assert!(
            error.contains("holds no key") && !error.contains("chmod"),
            "{error}"
        );
        assert!(ClusterKey::read(folder.path()).is_err());
        if geteuid().is_root() {
            key().write(&path).unwrap();
            std::os::unix::fs::chown(&path, Some(1), None).unwrap();
            let error = ClusterKey::read(&path).unwrap_err();
            assert!(error.contains("belongs to another user"), "{error}");
        }
    }
}
