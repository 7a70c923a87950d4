//! Where a daemon's files lie: each instance has its own directory below `/run/balancer` and `/var/lib/balancer`.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// The configuration file that is read when none is named.
pub const DEFAULT_CONFIG: &str = "/etc/balancer/balancer.toml";

const RUN: &str = "/run/balancer";

/// Where the kernel tells one start of the host from another.
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Where it is noted which packet program was proved since the machine started; of all instances.
#[must_use]
pub fn proved() -> PathBuf {
    Path::new(RUN).join(".proved")
}

// systemd's `StateDirectory=balancer` is the same.
const STATE: &str = "/var/lib/balancer";

/// Which of several daemons on one host; the default instance has no name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instance(Option<String>);

impl Instance {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// The directory of its socket and lock.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.below(RUN)
    }

    /// The directory of what outlives it.
    #[must_use]
    pub fn state_directory(&self) -> PathBuf {
        self.below(STATE)
    }

    fn below(&self, directory: &str) -> PathBuf {
        let mut path = PathBuf::from(directory);
        path.extend(&self.0);
        path
    }

    /// Its control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory().join("control.sock")
    }

    /// The file that its running daemon holds locked.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.directory().join("balancerd.lock")
    }
}

impl FromStr for Instance {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let good = (1..=32).contains(&name.len())
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        if !good {
            return Err("an instance's name is 1 to 32 letters, digits, `-` or `_`".to_owned());
        }
        // An instance's directories lie beside the default instance's files.
        let is_layout = name
            .strip_prefix('v')
            .is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit()));
        if is_layout || ["neighbours", "sysctl"].contains(&name) {
            return Err(format!(
                "an instance cannot be called `{name}`, which is a file's name: choose another"
            ));
        }
        Ok(Self(Some(name.to_owned())))
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or("default"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_has_its_own_files() {
        assert_eq!(
            Instance::default().socket().to_str(),
            Some("/run/balancer/control.sock")
        );
        let named: Instance = "blue_1".parse().unwrap();
        assert_eq!(
            named.socket().to_str(),
            Some("/run/balancer/blue_1/control.sock")
        );
        assert_eq!(
            named.lock().to_str(),
            Some("/run/balancer/blue_1/balancerd.lock")
        );
        assert_eq!(
            named.state_directory().to_str(),
            Some("/var/lib/balancer/blue_1")
        );
        assert_eq!(
            Instance::default().state_directory().to_str(),
            Some("/var/lib/balancer")
        );
    }

    #[test]
    fn an_instances_name_cannot_leave_the_directory() {
        for name in ["", ".", "..", "a/b", "a.b", &"a".repeat(33)] {
            assert!(name.parse::<Instance>().is_err(), "{name}");
        }
    }

    #[test]
    fn an_instance_is_not_called_as_a_file_of_the_default_one() {
        for name in ["v", "v1", "v12", "sysctl", "neighbours"] {
            assert_eq!(
                name.parse::<Instance>(),
                Err(format!(
                    "an instance cannot be called `{name}`, which is a file's name: choose another"
                ))
            );
        }
        for name in ["v1a", "vip", "sysctl2", "w1"] {
            assert!(name.parse::<Instance>().is_ok(), "{name}");
        }
    }
}
