//! Checks the other files that a configuration names, before a configuration or a change is applied: certificates and keys
//! must be readable, and programs must be writable only by root and by the user that they run as. If all files of a check are
//! good, its TLS settings are tried as well, by a function that the caller passes in.

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
        program::{Account, trusted, trusted_for_notify},
    },
};

/// Tries whether a probe can use a check's TLS settings; if not, returns the key at fault and a sentence.
pub type TlsTest = fn(&Check) -> Option<(&'static str, String)>;

/// Returns all problems with files that a model names.
#[must_use]
pub fn problems(model: &Model, tls_test: TlsTest) -> Vec<Problem> {
    // Each file is checked once, though thousands of services may name it.
    let mut results: HashMap<NamedFile<'_>, Option<String>> = HashMap::new();
    let mut check_once = |place, file| {
        let result = results
            .entry(file)
            .or_insert_with(|| check_file(file).err());
        result.clone().map(|sentence| Problem { place, sentence })
    };
    let mut tls_results: HashMap<&Check, Option<(&'static str, String)>> = HashMap::new();
    let mut problems = Vec::new();
    for (service, of_service) in model.services.iter().enumerate() {
        for (index, check) in of_service.checks.iter().enumerate() {
            let before = problems.len();
            let files = files_of(check).into_iter();
            problems.extend(
                files.filter_map(|(key, file)| check_once(Place::Check(service, index, key), file)),
            );
            if problems.len() > before {
                continue;
            }
            let tls_result = tls_results.entry(check).or_insert_with(|| tls_test(check));
            if let Some((key, sentence)) = tls_result.clone() {
                let place = Place::Check(service, index, key);
                problems.push(Problem { place, sentence });
            }
        }
    }
    for (index, notify) in model.notify.iter().enumerate() {
        let user = notify.user.as_deref();
        problems.extend(check_once(
            Place::Notify(index, "user"),
            NamedFile::User(user),
        ));
        let run = NamedFile::NotifyProgram(&notify.run, user);
        problems.extend(check_once(Place::Notify(index, "run"), run));
    }
    for (index, router) in model.vrrp.iter().enumerate() {
        for (number, exec) in router.track_exec.iter().enumerate() {
            let place = |key| Place::VrrpTrack(index, "track-exec", number, key);
            let user = exec.user.as_deref();
            problems.extend(check_once(place("user"), NamedFile::User(user)));
            let run = NamedFile::CheckProgram(&exec.run, user);
            problems.extend(check_once(place("run"), run));
        }
    }
    problems
}

/// A problem for each program that a model names, since nobody knows who has named it: `reason` says who may have, with the remedy.
#[must_use]
pub fn distrusted_programs(model: &Model, reason: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |place, run: &[String]| {
        let program = run.first().map_or("", String::as_str);
        let sentence = format!("run {program}: it is not run, since {reason}");
        problems.push(Problem { place, sentence });
    };
    for (service, of_service) in model.services.iter().enumerate() {
        for (index, check) in of_service.checks.iter().enumerate() {
            if let Probe::Exec(exec) = &check.probe {
                add(Place::Check(service, index, "run"), &exec.run);
            }
        }
    }
    for (index, notify) in model.notify.iter().enumerate() {
        add(Place::Notify(index, "run"), &notify.run);
    }
    for (index, router) in model.vrrp.iter().enumerate() {
        for (number, exec) in router.track_exec.iter().enumerate() {
            add(
                Place::VrrpTrack(index, "track-exec", number, "run"),
                &exec.run,
            );
        }
    }
    problems
}

/// Returns the problems with the files that a check names, or with its TLS settings: each key, with a sentence.
#[must_use]
pub fn of_check(check: &Check, tls_test: TlsTest) -> Vec<(&'static str, String)> {
    let files = files_of(check).into_iter();
    let mut problems: Vec<_> = files
        .filter_map(|(key, file)| Some((key, check_file(file).err()?)))
        .collect();
    if problems.is_empty() {
        problems.extend(tls_test(check));
    }
    problems
}

/// A file that a configuration names, by what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum NamedFile<'a> {
    Ca(&'a Path),
    Certificate(&'a Path),
    Key(&'a Path),
    /// The program of an `exec` check or of `track-exec`, with its arguments, which may be files that it runs, and the user that it runs as.
    CheckProgram(&'a [String], Option<&'a str>),
    /// The program of a `[[notify]]` entry, with its arguments and user.
    NotifyProgram(&'a [String], Option<&'a str>),
    /// A user of this host; `None` = root.
    User(Option<&'a str>),
}

fn files_of(check: &Check) -> Vec<(&'static str, NamedFile<'_>)> {
    let mut files = Vec::new();
    if let Probe::Exec(exec) = &check.probe {
        let user = exec.user.as_deref();
        files.push(("user", NamedFile::User(user)));
        files.push(("run", NamedFile::CheckProgram(&exec.run, user)));
    }
    if let Some(Tls {
        ca, certificate, ..
    }) = check.probe.tls()
    {
        if let Some(ca) = ca {
            files.push(("ca", NamedFile::Ca(ca)));
        }
        if let Some((certificate, key)) = certificate {
            files.push(("certificate", NamedFile::Certificate(certificate)));
            files.push(("key", NamedFile::Key(key)));
        }
    }
    files
}

fn check_file(file: NamedFile<'_>) -> Result<(), String> {
    let sentence = |key: &str, path: &Path, reason| format!("{key} {}: {reason}", path.display());
    let program_sentence = |run: &[String], reason| {
        let program = run.first().map_or("", String::as_str);
        sentence("run", Path::new(program), reason)
    };
    match file {
        NamedFile::Ca(path) => certificates(path).map_err(|reason| sentence("ca", path, reason)),
        NamedFile::Certificate(path) => {
            certificates(path).map_err(|reason| sentence("certificate", path, reason))
        }
        NamedFile::Key(path) => key(path).map_err(|reason| sentence("key", path, reason)),
        NamedFile::User(user) => Account::find(user).map(|_| ()),
        // A user that does not exist is reported by itself.
        NamedFile::CheckProgram(run, user) => Account::find(user).map_or(Ok(()), |account| {
            trusted(run, &account).map_err(|reason| program_sentence(run, reason))
        }),
        NamedFile::NotifyProgram(run, user) => Account::find(user).map_or(Ok(()), |account| {
            trusted_for_notify(run, &account).map_err(|reason| program_sentence(run, reason))
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

    /// Well-formed PEM that contains no certificate: its content is tested by the probe.
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
        assert_eq!(check_file(NamedFile::Ca(&path("ca.pem"))), Ok(()));
        assert_eq!(check_file(NamedFile::Key(&path("key.pem"))), Ok(()));
        let bad = |file: NamedFile<'_>| {
            let sentence = check_file(file).unwrap_err();
            sentence.replace(&folder.path().display().to_string(), "")
        };
        assert_eq!(
            bad(NamedFile::Certificate(&path("key.pem"))),
            "certificate /key.pem: there is no certificate in it: it must be in PEM, `-----BEGIN CERTIFICATE-----`"
        );
        assert_eq!(
            bad(NamedFile::Key(&path("ca.pem"))),
            "key /ca.pem: there is no private key in it: it must be in PEM without a passphrase, `-----BEGIN PRIVATE KEY-----`"
        );
        assert_eq!(
            bad(NamedFile::Ca(&path("absent.pem"))),
            "ca /absent.pem: No such file or directory (os error 2)"
        );
        assert_eq!(
            bad(NamedFile::Ca(&path(""))),
            "ca /: it is not a regular file"
        );
        assert!(
            bad(NamedFile::Ca(&path("cut.pem"))).starts_with("ca /cut.pem: it is no good PEM: "),
            "{}",
            bad(NamedFile::Ca(&path("cut.pem")))
        );
    }

    #[test]
    fn files_that_cannot_be_read_are_reported_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        written(&path, &pem_of("CERTIFICATE"), 0);
        let shown = path.display().to_string();
        let result = std::thread::spawn(move || {
            // SAFETY: the argument is a number. The call changes this thread only; without root's rights it does nothing,
            // and the file is unreadable as well.
            unsafe { libc::setfsuid(65534) };
            check_file(NamedFile::Ca(&path))
        });
        assert_eq!(
            result.join().unwrap(),
            Err(format!("ca {shown}: Permission denied (os error 13)"))
        );
        // Reading its first page fails, also for root.
        assert_eq!(
            check_file(NamedFile::Ca(Path::new("/proc/self/mem"))),
            Err("ca /proc/self/mem: Input/output error (os error 5)".to_owned())
        );
    }

    #[test]
    fn files_of_a_configuration_are_reported_with_their_place_among_its_other_errors() {
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
                    check = { type = \"exec\", run = [\"/bin/true\"], user = \"\" }\n\
                    [[vrrp]]\n\
                    name = \"outside\"\n\
                    interface = \"eth0\"\n\
                    router-id = 51\n\
                    addresses = [\"192.0.2.80\"]\n\
                    track-exec = [{ run = [\"/bin/true\"] }, { run = [\"/nonexistent/run\"] }, { run = [\"/bin/true\"], user = \"no-such-user\" }]\n";
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
                 {at}:18:54: user `` does not exist on this host\n\
                 {at}:24:48: run /nonexistent/run: `/nonexistent` does not exist\n\
                 {at}:24:102: user `no-such-user` does not exist on this host"
            )
        );
        let check = read::checks(
            "{ type = \"exec\", run = [\"/nonexistent/run\"] }"
                .parse()
                .unwrap(),
        );
        let problems = of_check(&check.unwrap()[0], |_| None);
        let sentence = "run /nonexistent/run: `/nonexistent` does not exist".to_owned();
        assert_eq!(problems, [("run", sentence)]);
    }

    #[test]
    fn programs_that_others_can_change_are_reported_with_their_place() {
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
                 {at}:12:7: run /bin/sh: a shell would take the options of a notify program, `-s SERVICE -g GROUP \
                 …`, for its own: name a script that begins with `#!/bin/sh`"
            )
        );
    }
}
