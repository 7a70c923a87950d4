//! Real programs on the real thread.

mod queues;

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
    sync::Mutex,
};

use super::*;
use crate::model::{change::tests::model, event::EventKind, notify::Stdin};

const SERVICES: &str = r#"
    [[service]]
    name = "web"
    address = "192.0.2.80:80"
    [[service.real]]
    address = "10.0.0.2"
    [[service.real]]
    address = "10.0.0.3"
"#;

/// An alert program as people wrote them for mon: options by getopts, recipients after them, a summary to read.
const MON_ALERT: &str = r#"#!/bin/sh
set -eu
log=/nowhere up=ALERT
while getopts s:g:h:l:t:u option; do
    case $option in
        s) service=$OPTARG ;;
        g) group=$OPTARG ;;
        h) hosts=$OPTARG ;;
        l) every=$OPTARG ;;
        t) time=$OPTARG ;;
        u) up=UPALERT ;;
        *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
log=$1
shift
read -r summary
{
    echo "$up $group/$service hosts=$hosts every=$every time=$time to=$*"
    echo "$MON_ALERTTYPE $MON_OPSTATUS $MON_RETVAL $MON_GROUP/$MON_SERVICE: $MON_LAST_SUMMARY"
    echo "first=${MON_FIRST_FAILURE-} last=${MON_LAST_FAILURE-} passed=${MON_LAST_SUCCESS-} $MON_STATEDIR $MON_DESCRIPTION"
    echo "$summary"
} >> "$log"
"#;

/// A directory with programs and what they wrote.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// Writes a program. Another process does it: if ours had the file open to write while a test beside this one
    /// starts a program, that one would have it open too for a moment, and the kernel runs no file that is written to.
    fn program(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        let mut writer = Command::new("/bin/sh")
            .args(["-c", r#"cat > "$0" && chmod 755 "$0""#, &path])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = writer.stdin.take().unwrap();
        input.write_all(text.as_bytes()).unwrap();
        drop(input);
        assert!(writer.wait().unwrap().success());
        path
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Waits until a file has so many lines, and returns them.
    async fn lines(&self, name: &str, count: usize) -> Vec<String> {
        for _ in 0..1000 {
            let text = self.read(name);
            if text.lines().count() >= count && text.ends_with('\n') {
                return text.lines().map(str::to_owned).collect();
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("{name}: {}", self.read(name));
    }
}

fn entry(run: &[&str]) -> Notify {
    Notify {
        user: None,
        on: vec![EventKind::RealDown, EventKind::RealUp, EventKind::Stopping],
        services: Vec::new(),
        run: run.iter().map(ToString::to_string).collect(),
        timeout: Duration::from_secs(20),
        alert_after: Duration::ZERO,
        alert_every: None,
        always_up: false,
        stdin: Stdin::Json,
    }
}

/// Programs of tests lie where others may write.
fn started(entries: &[Notify]) -> Notifier {
    started_with(entries, |_, _| Ok(()))
}

fn started_with(entries: &[Notify], check_program: ProgramCheck) -> Notifier {
    let notifier = Notifier::start_with(Path::new("/var/lib/balancer"), check_program).unwrap();
    let mut model = model(SERVICES);
    model.notify = entries.to_vec();
    notifier.configure(&model);
    notifier
}

/// An event at so many seconds after the year 2000 began.
fn event(event: EventKind, real: &str, seconds: u64) -> EventRecord {
    let time = humantime::parse_rfc3339("2000-01-01T00:00:00Z").unwrap();
    EventRecord {
        time: humantime::format_rfc3339_millis(time + Duration::from_secs(seconds)).to_string(),
        event,
        service: Some("tcp/192.0.2.80:80".to_owned()),
        real: Some(real.parse().unwrap()),
        peer: None,
        message: "refused".to_owned(),
    }
}

fn down(real: &str, seconds: u64) -> EventRecord {
    event(EventKind::RealDown, real, seconds)
}

fn up(real: &str, seconds: u64) -> EventRecord {
    event(EventKind::RealUp, real, seconds)
}

/// Whether a process runs that was not yet reaped, or is a zombie of ours.
fn is_there(id: &str) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{id}/stat")) else {
        return false;
    };
    let mut fields = stat.rsplit(") ").next().unwrap().split(' ');
    let (state, parent) = (fields.next().unwrap(), fields.next().unwrap());
    state != "Z" || parent == std::process::id().to_string()
}

async fn is_gone(id: &str) {
    for _ in 0..300 {
        if !is_there(id) {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("process {id} is left");
}

#[tokio::test]
async fn an_alert_program_of_mon_runs_unchanged() {
    let place = Place::new();
    let alert = place.program("alert", MON_ALERT);
    let log = place.path("log");
    let mut alerted = entry(&[&alert, &log, "ops@example.org", "night shift"]);
    alerted.alert_every = Some(Duration::from_secs(300));
    let notifier = started(&[alerted]);
    notifier.handle(down("10.0.0.2:80", 1));
    notifier.handle(up("10.0.0.2:80", 61));
    let lines = place.lines("log", 8).await;
    notifier.stop().await;
    let begin = concat!(
        r#"{"summary":"10.0.0.2:80 real down: refused","time":"2000-01-01T00:00:01.000Z","event":"real-down","#,
        r#""service":"tcp/192.0.2.80:80","real":"10.0.0.2:80","message":"refused","name":"web","node":"lb1","again":0,"#,
        r#""first_failure":"2000-01-01T00:00:01.000Z","last_failure":"2000-01-01T00:00:01.000Z","last_success":null}"#,
    );
    let end = concat!(
        r#"{"summary":"10.0.0.2:80 real up: refused","time":"2000-01-01T00:01:01.000Z","event":"real-up","#,
        r#""service":"tcp/192.0.2.80:80","real":"10.0.0.2:80","message":"refused","name":"web","node":"lb1","again":0,"#,
        r#""first_failure":"2000-01-01T00:00:01.000Z","last_failure":"2000-01-01T00:00:01.000Z","#,
        r#""last_success":"2000-01-01T00:01:01.000Z"}"#,
    );
    assert_eq!(
        lines,
        [
            "ALERT web/web hosts=10.0.0.2 every=300 time=946684801 to=ops@example.org night shift",
            "failure 0 1 web/web: 10.0.0.2:80 real down: refused",
            "first=946684801 last=946684801 passed= /var/lib/balancer virtual service web on lb1",
            begin,
            "UPALERT web/web hosts=10.0.0.2 every=300 time=946684861 to=ops@example.org night shift",
            "up 1 0 web/web: 10.0.0.2:80 real up: refused",
            "first=946684801 last=946684801 passed=946684861 /var/lib/balancer virtual service web on lb1",
            end,
        ]
    );
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_and_delays_no_other() {
    let place = Place::new();
    let script = "#!/bin/sh\ntrap '' TERM\necho $$ >> \"$MON_STATEDIR/../$1\"\nwhile :; do sleep 1000; done\n";
    let script = script.replace("$MON_STATEDIR/../$1", "${11}");
    let hangs = place.program("hangs", &script);
    let quick = place.program("quick", "#!/bin/sh\necho \"$BALANCER_REAL\" >> \"${11}\"\n");
    let mut slow = entry(&[&hangs, &place.path("ids")]);
    slow.timeout = Duration::from_millis(300);
    let notifier = started(&[slow, entry(&[&quick, &place.path("log")])]);
    let begun = Instant::now();
    notifier.handle(down("10.0.0.2:80", 1));
    notifier.handle(down("10.0.0.3:80", 2));
    let log = place.lines("log", 2).await;
    assert_eq!(log, ["10.0.0.2:80", "10.0.0.3:80"]);
    // The second run of the one that hangs begins when the first was killed: no sooner than its limit and the grace.
    let ids = place.lines("ids", 2).await;
    assert!(begun.elapsed() > Duration::from_millis(1300));
    is_gone(&ids[0]).await;
    is_gone(&ids[1]).await;
    notifier.stop().await;
}

/// What is logged in a test.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn what_a_program_prints_and_how_it_fails_is_logged() {
    let place = Place::new();
    let talks = place.program(
        "talks",
        "#!/bin/sh\necho mail sent\necho\necho 'no route to pager' >&2\nexit 3\n",
    );
    let log = Log::default();
    let theirs = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || theirs.clone())
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .finish();
    let _logged = tracing::subscriber::set_default(subscriber);
    // Runs the task on this thread, whose log the test reads.
    let (messages, inbox) = mpsc::unbounded_channel();
    let mut model = model(SERVICES);
    model.notify = vec![entry(&[&talks])];
    messages.send(Message::Configure(Box::new(model))).unwrap();
    messages
        .send(Message::Event(down("10.0.0.2:80", 1)))
        .unwrap();
    drop(messages);
    let shared = Arc::new(Shared::default());
    shared.queued.fetch_add(1, Ordering::Relaxed);
    let mut task = Task::new(inbox, shared, "/var/lib/balancer".into(), |_, _| Ok(()));
    task.run().await;
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    assert_eq!(
        lines,
        [
            format!("INFO notify program says program={talks:?} line=\"mail sent\""),
            format!("INFO notify program says program={talks:?} line=\"no route to pager\""),
            format!(
                "WARN notify program failed program={talks:?} event=\"real-down\" end=exit status 3"
            ),
        ]
    );
}

#[tokio::test]
async fn failed_runs_do_not_affect_later_ones() {
    let place = Place::new();
    let script = "#!/bin/sh\necho \"$BALANCER_EVENT\" >> \"$MON_LOG\"\n";
    let fails = place.program(
        "fails",
        &format!("{}exit 3\n", script.replace("$MON_LOG", &place.path("log"))),
    );
    let dies = place.program("dies", "#!/bin/sh\nkill -9 $$\n");
    let notifier = started(&[
        entry(&[&place.path("missing")]),
        entry(&[&dies]),
        entry(&[&fails]),
    ]);
    for second in 0..3 {
        notifier.handle(down("10.0.0.2:80", 2 * second));
        notifier.handle(up("10.0.0.2:80", 2 * second + 1));
    }
    let log = place.lines("log", 6).await;
    assert_eq!(log, ["real-down", "real-up"].repeat(3));
    notifier.stop().await;
}

#[tokio::test]
async fn a_program_that_others_can_change_by_now_is_not_run_and_counted() {
    let place = Place::new();
    let script = "#!/bin/sh\necho \"$BALANCER_REAL\" >> \"${11}\"\n";
    let (open, good) = (place.program("open", script), place.program("good", script));
    // Its event is first, so that it would have run before the other.
    let entries = [
        entry(&[&open, &place.path("no")]),
        entry(&[&good, &place.path("yes")]),
    ];
    let check_program: ProgramCheck = |run, _| match run {
        [program, log] if program.ends_with("/open") && log.ends_with("/no") => {
            Err("others can write to it".to_owned())
        }
        _ => Ok(()),
    };
    let notifier = started_with(&entries, check_program);
    notifier.handle(down("10.0.0.2:80", 1));
    notifier.handle(down("10.0.0.3:80", 2));
    assert_eq!(place.lines("yes", 2).await, ["10.0.0.2:80", "10.0.0.3:80"]);
    notifier.stop().await;
    assert_eq!(place.read("no"), "");
}

#[tokio::test]
async fn a_program_that_could_not_be_run_is_counted_with_the_reason() {
    let mut model = model(SERVICES);
    model.notify = vec![entry(&["/nowhere/alert"])];
    let (_messages, inbox) = mpsc::unbounded_channel();
    let mut task = Task::new(
        inbox,
        Arc::default(),
        "/var/lib/balancer".into(),
        trusted_for_notify,
    );
    task.handle(Message::Configure(Box::new(model)));
    for second in 1..=2 {
        task.shared.queued.fetch_add(1, Ordering::Relaxed);
        task.handle(Message::Event(down("10.0.0.2:80", 2 * second)));
        task.shared.queued.fetch_add(1, Ordering::Relaxed);
        task.handle(Message::Event(up("10.0.0.2:80", 2 * second + 1)));
    }
    for _ in 0..4 {
        task.start_programs();
        let ended = task.running.join_next_with_id().await.unwrap();
        task.ended(ended);
    }
    let DroppedCounts {
        failed_starts,
        reason,
        ..
    } = &task.dropped;
    assert_eq!(
        (*failed_starts, reason.as_str()),
        (4, "run /nowhere/alert: `/nowhere` does not exist")
    );
    task.dropped.log(Instant::now());
    assert_eq!(
        (task.dropped.failed_starts, task.dropped.next_log()),
        (0, None)
    );
}

#[tokio::test]
async fn an_entry_runs_one_at_a_time_in_order_and_all_together_a_few() {
    let place = Place::new();
    // It would find the directory of another run of the same entry.
    let script = r#"#!/bin/sh
        directory=${11}
        mkdir "$directory/run" || echo "two at once" >> "$directory/log"
        mkdir "$directory/../all/$$"
        ls "$directory/../all" | wc -l >> "$directory/../counts"
        sleep 0.02
        rmdir "$directory/../all/$$"
        rmdir "$directory/run"
        echo "$BALANCER_REAL" >> "$directory/log"
    "#;
    let program = place.program("program", script);
    fs::create_dir(place.path("all")).unwrap();
    let names: Vec<_> = (0..MAX_RUNNING + 4)
        .map(|number| format!("e{number}"))
        .collect();
    let entries: Vec<_> = names
        .iter()
        .map(|name| {
            let directory = place.path(name);
            fs::create_dir(&directory).unwrap();
            entry(&[&program, &directory])
        })
        .collect();
    let notifier = started(&entries);
    let reals: Vec<_> = (1..=10).map(|host| format!("10.0.0.{host}:80")).collect();
    for (second, real) in (1..).zip(&reals) {
        notifier.handle(down(real, second));
    }
    for name in &names {
        let log = place.lines(&format!("{name}/log"), reals.len()).await;
        assert_eq!(log, reals, "{name}");
    }
    notifier.stop().await;
    let counts = place.read("counts");
    let most = counts
        .lines()
        .map(|line| line.trim().parse::<usize>().unwrap());
    let most = most.max().unwrap();
    assert!((2..=MAX_RUNNING).contains(&most), "{most} at once");
}

#[tokio::test]
async fn a_late_alert_has_the_time_of_its_event() {
    let place = Place::new();
    let program = place.program(
        "program",
        "#!/bin/sh\necho \"$BALANCER_REAL $BALANCER_AGAIN\" >> \"${11}\"\n",
    );
    let mut late = entry(&[&program, &place.path("log")]);
    late.alert_after = Duration::from_millis(100);
    late.alert_every = Some(Duration::from_millis(100));
    let notifier = started(&[late]);
    notifier.handle(down("10.0.0.2:80", 1));
    let log = place.lines("log", 3).await;
    assert_eq!(
        log[..3],
        ["10.0.0.2:80 0", "10.0.0.2:80 1", "10.0.0.2:80 2"]
    );
    notifier.stop().await;
}

#[tokio::test]
async fn at_the_end_queued_programs_are_run() {
    let place = Place::new();
    let program = place.program(
        "program",
        "#!/bin/sh\nsleep 0.2\necho \"$BALANCER_EVENT\" >> \"${11}\"\n",
    );
    let notifier = started(&[entry(&[&program, &place.path("log")])]);
    notifier.handle(down("10.0.0.2:80", 1));
    let mut stopping = event(EventKind::Stopping, "10.0.0.2:80", 2);
    (stopping.service, stopping.real) = (None, None);
    notifier.handle(stopping);
    notifier.stop().await;
    assert_eq!(place.read("log"), "real-down\nstopping\n");
}

#[tokio::test]
async fn at_the_end_programs_that_take_too_long_are_killed() {
    let place = Place::new();
    let program = place.program(
        "program",
        "#!/bin/sh\ntrap '' TERM\necho $$ >> \"${11}\"\nwhile :; do sleep 1000; done\n",
    );
    let notifier = started(&[entry(&[&program, &place.path("ids")])]);
    notifier.handle(down("10.0.0.2:80", 1));
    notifier.handle(down("10.0.0.3:80", 2));
    let ids = place.lines("ids", 1).await;
    let begun = Instant::now();
    notifier.stop().await;
    assert!(begun.elapsed() >= DRAIN_TIMEOUT);
    assert!(!is_there(&ids[0]), "its process is left, or not reaped");
    assert_eq!(place.read("ids").lines().count(), 1, "the second waited");
}

#[test]
fn output_is_cut_and_cleaned_for_the_log() {
    assert_eq!(printable(b""), (vec![], false));
    let (lines, is_short) = printable(b"one\n\n  \ntwo\x1b[2Jthree\xff\r\nfour");
    assert_eq!(lines, ["one", "two [2Jthree\u{fffd}", "four"]);
    assert!(!is_short);
    let long = "ß".repeat(MAX_LINE_BYTES);
    let (lines, is_short) = printable(long.as_bytes());
    assert_eq!((lines[0].len(), is_short), (MAX_LINE_BYTES, true));
    let many = "x\n".repeat(MAX_LINES);
    assert_eq!(
        printable(many.as_bytes()),
        (vec!["x".to_owned(); MAX_LINES], false)
    );
    let more = "x\n".repeat(MAX_LINES + 1);
    assert_eq!(
        printable(more.as_bytes()),
        (vec!["x".to_owned(); MAX_LINES], true)
    );
}
