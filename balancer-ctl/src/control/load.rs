//! Loads a configuration file with every test that this program has, those of the probes among them.

use std::path::Path;

use crate::{
    config::{
        file::{ConfigFile, FileError},
        files,
        validate::{Problem, host_interfaces},
    },
    health::probe::tls_problem,
    model::{Check, Model},
    netlink::{Netlink, address, link},
};

/// Loads a file. `host` names the node when the file does not.
///
/// # Errors
/// It cannot be read, or something in it, or in a file that it names, is wrong.
pub fn load(path: &Path, host: &str) -> Result<ConfigFile, FileError> {
    ConfigFile::load(path, host, tls_problem)
}

/// Loads a file as [`load`], for somebody who wants to know whether it is good: that its programs do not run is an error.
///
/// # Errors
/// As [`load`]; or others than root can write the file, and it names programs.
pub fn check(path: &Path, host: &str) -> Result<ConfigFile, FileError> {
    let file = load(path, host)?;
    let Some(reason) = file.distrust().map(str::to_owned) else {
        return Ok(file);
    };
    file.source()
        .load(|model| files::distrusted_programs(model, &reason))
}

/// As [`load`], for a daemon that is about to run it on this host: virtual routers need their interfaces.
///
/// # Errors
/// As [`load`].
pub fn load_to_run(path: &Path, host: &str) -> Result<ConfigFile, FileError> {
    let file = load(path, host)?;
    if file.model().vrrp.is_empty() {
        return Ok(file);
    }
    file.source().load(|model| unusable(model, None))
}

/// The virtual routers of `wanted` that cannot run on this host as it is now, beside those that run already.
#[must_use]
pub fn unusable(wanted: &Model, running: Option<&Model>) -> Vec<Problem> {
    if wanted.vrrp.is_empty() {
        return Vec::new();
    }
    let read = || -> anyhow::Result<_> {
        let mut netlink = Netlink::open()?;
        Ok((link::list(&mut netlink)?, address::list(&mut netlink)?))
    };
    match read() {
        Ok((links, addresses)) => host_interfaces::problems(wanted, running, &links, &addresses),
        Err(error) => {
            tracing::warn!("cannot list this host's interfaces: {error:#}");
            Vec::new()
        }
    }
}

/// What is first wrong with the files that a check names, or with the TLS it would speak with them. Reads them, so that it
/// may block.
#[must_use]
pub fn check_problem(check: &Check) -> Option<String> {
    let problems = files::of_check(check, tls_problem).into_iter();
    problems.map(|(_, sentence)| sentence).next()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;
    use crate::config::read;

    fn written(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn tls_that_can_never_work_is_refused_at_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display().to_string();
        let path = |name: &str| folder.path().join(name);
        let one = rcgen::generate_simple_self_signed(["lb1".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(["lb1".to_owned()]).unwrap();
        written(
            &path("junk.pem"),
            "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
            0o644,
        );
        written(&path("one.pem"), &one.cert.pem(), 0o644);
        written(&path("one.key"), &one.signing_key.serialize_pem(), 0o600);
        written(
            &path("other.key"),
            &other.signing_key.serialize_pem(),
            0o600,
        );
        let check = |keys: &str| format!("{{ type = \"https\", {} }}", keys.replace('@', &at));
        let cases = [
            ("ca = \"@/one.pem\"", ""),
            ("certificate = \"@/one.pem\", key = \"@/one.key\"", ""),
            // Not looked into where any certificate is taken.
            ("insecure = true", ""),
            (
                "ca = \"@/junk.pem\"",
                "the certificate in @/junk.pem: certificate cannot be read",
            ),
            (
                "certificate = \"@/one.pem\", key = \"@/other.key\"",
                "the certificate @/one.pem with the key @/other.key: the key is of another certificate",
            ),
            ("server-name = \"-x\"", "`-x` is no name for a certificate"),
        ];
        let mut text = "dataplane.interfaces = [\"eth0\"]\n".to_owned();
        let mut expected = Vec::new();
        for (number, (keys, sentence)) in cases.into_iter().enumerate() {
            let check = check(keys);
            let sentence = sentence.replace('@', &at);
            let told: Vec<_> = check_problem(&read::checks(check.parse().unwrap()).unwrap()[0])
                .into_iter()
                .collect();
            assert_eq!(told.concat(), sentence, "{keys}");
            text += &format!(
                "[[service]]\naddress = \"192.0.2.80:{}\"\ncheck = {check}\n",
                number + 1
            );
            if !sentence.is_empty() {
                let column = "check = { type = \"https\", ".len() + keys.find('=').unwrap() + 3;
                let line = 4 + 3 * number;
                let file = path("balancer.toml");
                expected.push(format!("{}:{line}:{column}: {sentence}", file.display()));
            }
        }
        fs::write(path("balancer.toml"), text).unwrap();
        let errors = load(&path("balancer.toml"), "lb1").unwrap_err();
        assert_eq!(errors.to_string(), expected.join("\n"));
    }
}
