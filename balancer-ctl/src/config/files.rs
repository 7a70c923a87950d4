//! The other files that a configuration names: certificates and keys, which must be readable, and programs, which nobody but root
//! and the user that they run as may be able to change. Looked at when a configuration or a change is taken. Where
//! all files are good, the probes' own test of TLS settings is run too, which the caller passes in.

use std::{collections::HashMap, path::Path};

use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject as _},
};

use super::validate::{Place, Problem};
use crate::{
    model::{
        Check, Model,
        check::{Probe, Tls},
    },
    os::{
        file::read_regular_file,
        program::{Account, trusted, trusted_with_news},
    },
};

/// Tries whether a probe could use a check's TLS settings; else the key at fault, and a sentence.
pub type TlsTest = fn(&Check) -> Option<(&'static str, String)>;

/// All that is wrong with files that a model names.
#[must_use]
pub fn problems(model: &Model, tls_test: TlsTest) -> Vec<Problem> {
    // Thousands of services may name the same file.
    let mut known: HashMap<What<'_>, Option<String>> = HashMap::new();
    let mut judged = |place, what| {
        let verdict = known.entry(what).or_insert_with(|| judge(what).err());
        verdict.clone().map(|sentence| Problem { place, sentence })
    };
    let mut made: HashMap<&Check, Option<(&'static str, String)>> = HashMap::new();
    let mut problems = Vec::new();
    for (service, of_service) in model.services.iter().enumerate() {
        for (index, check) in of_service.checks.iter().enumerate() {
            let before = problems.len();
            let named = named(check).into_iter();
            problems.extend(
                named.filter_map(|(key, what)| judged(Place::Check(service, index, key), what)),
            );
            if problems.len() > before {
                continue;
            }
            let made = made.entry(check).or_insert_with(|| tls_test(check));
            if let Some((key, sentence)) = made.clone() {
                let place = Place::Check(service, index, key);
                problems.push(Problem { place, sentence });
            }
        }
    }
    for (index, notify) in model.notify.iter().enumerate() {
        let user = notify.user.as_deref();
        problems.extend(judged(Place::Notify(index, "user"), What::User(user)));
        let run = What::Notified(&notify.run, user);
        problems.extend(judged(Place::Notify(index, "run"), run));
    }
    problems
}

/// What is wrong with the files that a check names, or with the TLS it would speak with them: the key, and a sentence.
#[must_use]
pub fn of_check(check: &Check, tls_test: TlsTest) -> Vec<(&'static str, String)> {
    let named = named(check).into_iter();
    let mut problems: Vec<_> = named
        .filter_map(|(key, what)| Some((key, judge(what).err()?)))
        .collect();
    if problems.is_empty() {
        problems.extend(tls_test(check));
    }
    problems
}

/// What a file must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum What<'a> {
    Ca(&'a Path),
    Certificate(&'a Path),
    Key(&'a Path),
    /// With its arguments, which may be files that it runs, and the user that it runs as.
    Program(&'a [String], Option<&'a str>),
    /// The same, told of events.
    Notified(&'a [String], Option<&'a str>),
    /// A user of this host; `None` = root.
    User(Option<&'a str>),
}

fn named(check: &Check) -> Vec<(&'static str, What<'_>)> {
    let mut named = Vec::new();
    if let Probe::Exec(exec) = &check.probe {
        let user = exec.user.as_deref();
        named.push(("user", What::User(user)));
        named.push(("run", What::Program(&exec.run, user)));
    }
    if let Some(Tls {
        ca, certificate, ..
    }) = check.probe.tls()
    {
        if let Some(ca) = ca {
            named.push(("ca", What::Ca(ca)));
        }
        if let Some((certificate, key)) = certificate {
            named.push(("certificate", What::Certificate(certificate)));
            named.push(("key", What::Key(key)));
        }
    }
    named
}

fn judge(what: What<'_>) -> Result<(), String> {
    let told = |key: &str, path: &Path, reason| format!("{key} {}: {reason}", path.display());
    let of_program = |run: &[String], reason| {
        let program = run.first().map_or("", String::as_str);
        told("run", Path::new(program), reason)
    };
    match what {
        What::Ca(path) => certificates(path).map_err(|reason| told("ca", path, reason)),
        What::Certificate(path) => {
            certificates(path).map_err(|reason| told("certificate", path, reason))
        }
        What::Key(path) => key(path).map_err(|reason| told("key", path, reason)),
        What::User(user) => Account::find(user).map(|_| ()),
        // A user that does not exist is told by itself.
        What::Program(run, user) => Account::find(user).map_or(Ok(()), |account| {
            trusted(run, &account).map_err(|reason| of_program(run, reason))
        }),
        What::Notified(run, user) => Account::find(user).map_or(Ok(()), |account| {
            trusted_with_news(run, &account).map_err(|reason| of_program(run, reason))
        }),
    }
}

fn certificates(path: &Path) -> Result<(), String> {
    let bytes = pem(path)?;
    let mut certificates = CertificateDer::pem_slice_iter(&bytes).peekable();
    if certificates.peek().is_none() {
        return Err(
            "there is no certificate in it: it must be in PEM, `-----BEGIN CERTIFICATE-----`"
                .to_owned(),
        );
    }
    certificates
        .find_map(Result::err)
        .map_or(Ok(()), |error| Err(broken(&error)))
}

fn key(path: &Path) -> Result<(), String> {
    match PrivateKeyDer::from_pem_slice(&pem(path)?) {
        Ok(_) => Ok(()),
        Err(pem::Error::NoItemsFound) => Err(
            "there is no private key in it: it must be in PEM without a passphrase, `-----BEGIN PRIVATE KEY-----`"
                .to_owned(),
        ),
        Err(error) => Err(broken(&error)),
    }
}

fn broken(error: &pem::Error) -> String {
    format!("it is no good PEM: {error}")
}

fn pem(path: &Path) -> Result<Vec<u8>, String> {
    read_regular_file(path).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;
    use crate::config::{file::ConfigFile, read};

    fn written(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// What is no certificate, but well-formed PEM: its content is the probe's business.
    fn pem_of(what: &str) -> String {
        format!("-----BEGIN {what}-----\nMAA=\n-----END {what}-----\n")
    }

    #[test]
    fn certificates_and_keys_are_read_as_pem() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        written(
            &path("ca.pem"),
            &format!("# ours\n{0}{0}", pem_of("CERTIFICATE")),
            0o644,
        );
        written(&path("key.pem"), &pem_of("PRIVATE KEY"), 0o600);
        written(
            &path("cut.pem"),
            "-----BEGIN CERTIFICATE-----\nMAA=\n",
            0o644,
        );
        assert_eq!(judge(What::Ca(&path("ca.pem"))), Ok(()));
        assert_eq!(judge(What::Key(&path("key.pem"))), Ok(()));
        let bad = |what: What<'_>| {
            let sentence = judge(what).unwrap_err();
            sentence.replace(&folder.path().display().to_string(), "")
        };
        assert_eq!(
            bad(What::Certificate(&path("key.pem"))),
            "certificate /key.pem: there is no certificate in it: it must be in PEM, `-----BEGIN CERTIFICATE-----`"
        );
        assert_eq!(
            bad(What::Key(&path("ca.pem"))),
            "key /ca.pem: there is no private key in it: it must be in PEM without a passphrase, `-----BEGIN PRIVATE KEY-----`"
        );
        assert_eq!(
            bad(What::Ca(&path("absent.pem"))),
            "ca /absent.pem: No such file or directory (os error 2)"
        );
        assert_eq!(bad(What::Ca(&path(""))), "ca /: it is not a regular file");
        assert!(
            bad(What::Ca(&path("cut.pem"))).starts_with("ca /cut.pem: it is no good PEM: "),
            "{}",
            bad(What::Ca(&path("cut.pem")))
        );
    }

    #[test]
    fn files_that_cannot_be_read_are_told_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        written(&path, &pem_of("CERTIFICATE"), 0);
        let shown = path.display().to_string();
        let judged = std::thread::spawn(move || {
            // SAFETY: a number; without root's rights the call does nothing, which leaves the file unreadable as well.
            // It is of this thread alone.
            unsafe { libc::setfsuid(65534) };
            judge(What::Ca(&path))
        });
        assert_eq!(
            judged.join().unwrap(),
            Err(format!("ca {shown}: Permission denied (os error 13)"))
        );
        // Nobody can read its first page.
        assert_eq!(
            judge(What::Ca(Path::new("/proc/self/mem"))),
            Err("ca /proc/self/mem: Input/output error (os error 5)".to_owned())
        );
    }

    #[test]
    fn files_of_a_configuration_are_told_with_their_place_beside_its_other_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("balancer.toml");
        let text = "dataplane.interfaces = [\"eth0\"]\n\
                    [[service]]\n\
                    address = \"192.0.2.80:80\"\n\
                    quorum = 0\n\
                    check = { type = \"https\", ca = \"/nonexistent/ca.pem\" }\n\
                    [[service]]\n\
                    address = \"192.0.2.80:81\"\n\
                    check = [{ type = \"ping\" }, { type = \"exec\", run = [\"/nonexistent/run\"] }]\n\
                    [[notify]]\n\
                    on = [\"real-down\"]\n\
                    run = [\"/nonexistent/run\"]\n\
                    [[notify]]\n\
                    on = [\"real-down\"]\n\
                    run = [\"/nonexistent/run\"]\n\
                    user = \"no-such-user\"\n\
                    [[service]]\n\
                    address = \"192.0.2.80:82\"\n\
                    check = { type = \"exec\", run = [\"/bin/true\"], user = \"\" }\n";
        fs::write(&path, text).unwrap();
        let errors = ConfigFile::load(&path, "lb1", |_| None)
            .unwrap_err()
            .to_string();
        let at = path.display();
        let gone = "No such file or directory (os error 2)";
        assert_eq!(
            errors,
            format!(
                "{at}:4:10: quorum 0 is out of range: 1..=1000000000\n\
                 {at}:5:32: ca /nonexistent/ca.pem: {gone}\n\
                 {at}:8:52: run /nonexistent/run: `/nonexistent` does not exist\n\
                 {at}:11:7: run /nonexistent/run: `/nonexistent` does not exist\n\
                 {at}:15:8: user `no-such-user` does not exist on this host\n\
                 {at}:18:54: user `` does not exist on this host"
            )
        );
        let check = read::checks(
            "{ type = \"exec\", run = [\"/nonexistent/run\"] }"
                .parse()
                .unwrap(),
        );
        let told = of_check(&check.unwrap()[0], |_| None);
        let sentence = "run /nonexistent/run: `/nonexistent` does not exist".to_owned();
        assert_eq!(told, [("run", sentence)]);
    }

    #[test]
    fn programs_that_others_can_change_are_told_with_their_place() {
        let (folder, open) = crate::os::program::open_folder();
        let path = folder.path().join("balancer.toml");
        let script = folder.path().join("x.sh");
        written(&script, "exit 0\n", 0o666);
        let script = script.display();
        let text = format!(
            "dataplane.interfaces = [\"eth0\"]\n\
             [[service]]\n\
             address = \"192.0.2.80:80\"\n\
             [service.check]\n\
             type = \"exec\"\n\
             run = [\"/bin/sh\", \"{script}\"]\n\
             [[notify]]\n\
             on = [\"real-down\"]\n  \
             run = [\"{script}\"]\n\
             [[notify]]\n\
             on = [\"real-down\"]\n\
             run = [\"/bin/sh\", \"/usr/local/bin/alert\"]\n"
        );
        fs::write(&path, text).unwrap();
        let errors = ConfigFile::load(&path, "lb1", |_| None)
            .unwrap_err()
            .to_string();
        let at = path.display();
        assert_eq!(
            errors,
            format!(
                "{at}:6:7: run /bin/sh: argument {script}: {open}\n\
                 {at}:9:9: run {script}: {open}\n\
                 {at}:12:7: run /bin/sh: it would take what it is told, `-s SERVICE -g GROUP …`, for its own \
                 arguments: name a script that begins with `#!/bin/sh`"
            )
        );
    }
}
