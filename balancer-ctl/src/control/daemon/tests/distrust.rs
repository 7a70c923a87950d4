//! A configuration file that others than root may write: its programs do not run, and the rest does.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::config::read;

const CHECKS: &str = "check = [{ type = \"ping\" }, { type = \"exec\", run = [\"/bin/true\"] }]\n";

fn with_programs() -> String {
    let text = FILE.replace("[[service.real]]", &format!("{CHECKS}[[service.real]]"));
    format!("{text}\n[[notify]]\non = [\"real-down\"]\nrun = [\"/bin/true\"]\n")
}

impl Scene {
    fn set_mode(&self, mode: u32) {
        fs::set_permissions(self.path(), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// The checks that are not made.
    fn paused(&self) -> Vec<&'static str> {
        let state = self.checkers.state();
        let paused = state.wanted.iter().filter(|start| start.paused);
        paused
            .map(|start| start.target.check.probe.name())
            .collect()
    }

    /// The reasons in `status` that are about programs.
    fn reasons(&mut self) -> Vec<String> {
        let status = self.ask(Message::Status).unwrap();
        let reasons = status.reasons.into_iter();
        reasons
            .filter(|reason| reason.contains("programs"))
            .collect()
    }

    fn warning(&self, flaw: &str) -> String {
        let path = self.path().display().to_string();
        format!(
            "programs that {path} names are not run, and checks that run one keep their state: `{path}` {flaw} {path}`, see \
             what it says, then `balancer-ctl reload`"
        )
    }
}

fn add_program(interval: &str) -> Request {
    let check = format!("{{ type = \"exec\", run = [\"/bin/true\"], interval = \"{interval}\" }}");
    let settings = ServiceSettings {
        checks: Some(read::checks(check.parse().unwrap()).unwrap()),
        ..ServiceSettings::default()
    };
    Request::EditService(named("web"), settings)
}

#[test]
fn programs_in_a_file_that_others_may_write_do_not_run_until_it_is_loaded_again_without_that() {
    let mut scene = Scene::with_file(&with_programs());
    assert_eq!((scene.paused(), scene.reasons()), (vec![], vec![]));
    assert_eq!(scene.daemon.reported().notify.len(), 1);
    for (mode, flaw) in [
        (0o664, "can be written by its group: `chmod g-w"),
        (0o646, "can be written by others: `chmod o-w"),
    ] {
        scene.set_mode(mode);
        // What was loaded before that is still root's.
        assert_eq!((scene.paused(), scene.reasons()), (vec![], vec![]));
        scene.ask(Message::Reload).unwrap();
        assert_eq!(scene.paused(), ["exec"]);
        assert_eq!(scene.reasons(), [scene.warning(flaw)]);
        assert_eq!(scene.daemon.reported().notify, []);
        // The real server waits for its first result, as before.
        assert_eq!(scene.dataplane.state().services[0].reals[0].weight, 0);
        scene.set_mode(0o644);
        scene.ask(Message::Reload).unwrap();
        assert_eq!((scene.paused(), scene.reasons()), (vec![], vec![]));
        assert_eq!(scene.daemon.reported().notify.len(), 1);
    }
}

#[test]
fn a_file_without_programs_that_others_may_write_runs_with_a_warning() {
    let mut scene = Scene::new();
    scene.set_mode(0o666);
    scene.ask(Message::Reload).unwrap();
    let path = scene.path().display().to_string();
    let warning = format!(
        "programs that {path} comes to name are not run: `{path}` can be written by others: `chmod o-w {path}`, see what it \
         says, then `balancer-ctl reload`"
    );
    assert_eq!(scene.reasons(), [warning]);
    assert_eq!(scene.state(), ["tcp/192.0.2.80:80 10.0.0.2:80=1"]);
    // What needs no program is written to it as before.
    let weight = RealSettings {
        weight: Some(7),
        ..RealSettings::default()
    };
    let edit = Request::EditReal(named("web"), real("10.0.0.2:80"), weight);
    scene.change(edit, Scope::File).unwrap();
    assert!(scene.text().contains("weight = 7"), "{}", scene.text());
    assert_eq!(
        fs::metadata(scene.path()).unwrap().permissions().mode() & 0o777,
        0o666
    );
}

#[test]
fn no_program_is_added_to_a_file_that_others_may_write() {
    let mut scene = Scene::new();
    let path = scene.path().display().to_string();
    let refusal = format!(
        "programs that {path} names are not run: `{path}` can be written by its group: `chmod g-w {path}`, see what \
         it says, then `balancer-ctl reload`"
    );
    // Before it is loaded again, and after.
    scene.set_mode(0o664);
    assert_eq!(scene.refusal(add_program("9s"), Scope::File), refusal);
    scene.ask(Message::Reload).unwrap();
    for scope in [Scope::File, Scope::Runtime] {
        assert_eq!(scene.refusal(add_program("9s"), scope), refusal);
    }
    scene.set_mode(0o644);
    assert_eq!(scene.refusal(add_program("9s"), Scope::File), refusal);
    scene.ask(Message::Reload).unwrap();
    scene.change(add_program("9s"), Scope::File).unwrap();
    assert_eq!(scene.paused(), [""; 0]);
    // One that runs already may stay.
    scene.set_mode(0o664);
    let name = ServiceSettings {
        name: Some("shop".to_owned()),
        ..ServiceSettings::default()
    };
    scene
        .change(Request::EditService(named("web"), name), Scope::File)
        .unwrap();
    assert!(scene.text().contains("shop"), "{}", scene.text());
}

#[test]
fn programs_of_a_file_that_others_may_write_are_sent_to_no_other_node() {
    let mut scene = Scene::with_file(&with_programs());
    assert!(scene.daemon.services_to_push().is_ok());
    scene.set_mode(0o646);
    scene.ask(Message::Reload).unwrap();
    let path = scene.path().display().to_string();
    let refusal = format!(
        "services are not sent to other nodes: programs that {path} names are not run: `{path}` can be written by others: \
         `chmod o-w {path}`, see what it says, then `balancer-ctl reload`"
    );
    assert_eq!(
        scene.daemon.services_to_push().unwrap_err().sentence,
        refusal
    );
    let pushed = scene.daemon.push(Some("lb2".to_owned()));
    assert_eq!(pushed.map(drop).unwrap_err().sentence, refusal);
    // Services without programs are.
    let mut scene = Scene::new();
    scene.set_mode(0o646);
    scene.ask(Message::Reload).unwrap();
    assert!(scene.daemon.services_to_push().is_ok());
}
