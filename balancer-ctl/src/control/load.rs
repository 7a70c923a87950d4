//! Loads a configuration file with every test that this program has, those of the probes among them.

use std::path::Path;

use crate::{
    config::{
        file::{ConfigFile, FileError},
        files,
    },
    health::probe::tls_problem,
    model::Check,
};

/// Loads a file. `host` names the node when the file does not.
///
/// # Errors
/// It cannot be read, or something in it, or in a file that it names, is wrong.
pub fn load(path: &Path, host: &str) -> Result<ConfigFile, FileError> {
    ConfigFile::load(path, host, tls_problem)
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
                "the certificate in @/junk.pem: invalid peer certificate: BadEncoding",
            ),
            (
                "certificate = \"@/one.pem\", key = \"@/other.key\"",
                "the certificate @/one.pem with the key @/other.key: keys may not be consistent: KeyMismatch",
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
