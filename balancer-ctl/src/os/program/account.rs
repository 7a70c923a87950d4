//! The account that a program runs as.

use std::{ffi::CString, fmt};

use nix::unistd::{Gid, Uid, User, getegid, geteuid, getgrouplist};

/// A user of this host, with its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its user id.
    pub user: Uid,
    /// Its primary group.
    pub group: Gid,
    /// All its groups.
    pub groups: Vec<Gid>,
}

impl Account {
    /// Root, in no other group.
    pub fn root() -> Self {
        Self {
            name: "root".to_owned(),
            user: Uid::from_raw(0),
            group: Gid::from_raw(0),
            groups: vec![Gid::from_raw(0)],
        }
    }

    /// The account that this process runs as.
    pub fn own() -> Self {
        let user = geteuid();
        if user.is_root() {
            return Self::root();
        }
        Self {
            name: format!("user {user}"),
            user,
            group: getegid(),
            groups: vec![getegid()],
        }
    }

    /// The user with this name, as this host's user database has it now; `None` stands for root. The database may be on another
    /// host: this can take long.
    ///
    /// # Errors
    /// There is none, or the database does not answer: a sentence.
    pub fn find(name: Option<&str>) -> Result<Self, String> {
        let Some(name) = name else {
            return Ok(Self::root());
        };
        let unknown = || format!("user `{name}` does not exist on this host");
        let failed = |error| format!("user `{name}` cannot be looked up: {error}");
        let text = CString::new(name).map_err(|_| unknown())?;
        let user = User::from_name(name).map_err(failed)?.ok_or_else(unknown)?;
        // To the kernel this is "as it is".
        if user.uid.as_raw() == u32::MAX || user.gid.as_raw() == u32::MAX {
            return Err(format!("user `{name}` has an id that stands for none"));
        }
        Ok(Self {
            name: user.name,
            user: user.uid,
            group: user.gid,
            groups: getgrouplist(&text, user.gid).map_err(failed)?,
        })
    }

    /// Whether a program that runs as this account may belong to `owner`, a user id: to root, or to the account itself, which gains
    /// nothing by changing it.
    pub const fn trusts(&self, owner: u32) -> bool {
        owner == 0 || owner == self.user.as_raw()
    }

    /// `root`, and this account where it is another, with `word` between them.
    pub fn and_root(&self, word: &str) -> String {
        if self.user.is_root() {
            "root".to_owned()
        } else {
            format!("root {word} {}", self.name)
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_name() {
        assert_eq!(Account::find(None), Ok(Account::root()));
        let root = Account::find(Some("root")).unwrap();
        assert!(root.user.is_root() && root.groups.contains(&root.group));
        let daemon = Account::find(Some("daemon")).unwrap();
        assert_eq!(
            (daemon.to_string().as_str(), daemon.user.is_root()),
            ("daemon", false)
        );
        for (name, shown) in [("no-such-user", "no-such-user"), ("", ""), ("0", "0")] {
            assert_eq!(
                Account::find(Some(name)),
                Err(format!("user `{shown}` does not exist on this host"))
            );
        }
    }

    #[test]
    fn root_and_the_account_itself_are_trusted_and_nobody_else() {
        let other = Account {
            name: "monitor".to_owned(),
            user: Uid::from_raw(1000),
            ..Account::root()
        };
        assert_eq!(
            [0, 1000, 1001].map(|owner| other.trusts(owner)),
            [true, true, false]
        );
        assert_eq!(
            [0, 1000].map(|owner| Account::root().trusts(owner)),
            [true, false]
        );
        assert_eq!(other.and_root("or"), "root or monitor");
        assert_eq!(Account::root().and_root("or"), "root");
    }
}
