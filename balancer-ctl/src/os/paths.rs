//! Paths of the daemon's files. Each named instance has directories of its own below `/run/balancer` and
//! `/var/lib/balancer`.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// The default configuration file.
pub const DEFAULT_CONFIG: &str = "/etc/balancer/balancer.toml";

const RUN: &str = "/run/balancer";

/// The file of the kernel with an id that is new at each boot.
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The lock file, shared by all instances, that a daemon holds while it mounts bpffs.
#[must_use]
pub fn mount_lock() -> PathBuf {
    Path::new(RUN).join(".mount.lock")
}

/// The file, shared by all instances, that says which packet program passed its self-test since the machine booted.
#[must_use]
pub fn proved() -> PathBuf {
    Path::new(RUN).join(".proved")
}

// The same as `StateDirectory=balancer` of systemd.
const STATE: &str = "/var/lib/balancer";

/// The directory of an instance's files that outlive the daemon; `None` = the default instance.
#[must_use]
pub fn state_directory(instance: Option<&str>) -> PathBuf {
    below(STATE, instance)
}

fn below(directory: &str, instance: Option<&str>) -> PathBuf {
    let mut path = PathBuf::from(directory);
    path.extend(instance);
    path
}

/// One of several daemons on a host; the default instance has no name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instance(Option<String>);

impl Instance {
    /// The name; `None` for the default instance.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// The directory of the control socket and the lock file.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        below(RUN, self.name())
    }

    /// The directory of files that outlive the daemon.
    #[must_use]
    pub fn state_directory(&self) -> PathBuf {
        state_directory(self.name())
    }

    /// The control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory().join("control.sock")
    }

    /// The file that the running daemon keeps locked.
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
        // Directories of named instances lie beside files of the default instance.
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
