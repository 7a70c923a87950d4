//! Any text is read, or refused with places that are in it.

use proptest::prelude::*;

use super::*;
use crate::os::fuzz;

const FILE: &[u8] = b"[dataplane]\ninterfaces = [\"eth0\"]\nmode = \"native\"\n[timeouts]\ntcp = \"15min\"\n\
[[service]]\nname = \"web\"\naddress = \"192.0.2.80:80\"\nscheduler = \"wrr\"\ncheck = { type = \"http\", path = \"/up\" }\n\
[[service.real]]\naddress = \"192.168.0.2:80\"\nweight = 3\n\
[[notify]]\non = [\"real-down\"]\nrun = [\"/usr/local/bin/alert\"]\n\
[[vrrp]]\nname = \"outside\"\ninterface = \"eth0\"\nrouter-id = 51\naddresses = [\"192.0.2.80/24\"]\nfailback = \"after 1m\"\n\
track-ping = { targets = [\"192.0.2.1\"], timeout = \"20ms\" }\ntrack-services = [\"web\", { service = \"web2\", weight = 0 }]\n\
[[service]]\nname = \"web2\"\naddress = \"192.0.2.80:81\"\n";
const STRANGE: &[u8] = b"\"\\u001b[31m\" = 1\n[dataplane]\ninterfaces = [\"eth\\n0\"]\n";
const CHECKS: &[u8] = b"[{ type = \"tcp\", send-hex = \"0a0b\", expect = '^x' }, { type = \"dns\", name = \"a.example\" }, \
{ type = \"https\", headers = { Accept = \"a\" }, status = \"200-299\" }, { type = \"agent\", port = 8700, interval = \"2s\" }]";

#[test]
fn the_seeds_are_good() {
    let text = |bytes| str::from_utf8(bytes).unwrap();
    model(text(FILE), "lb1").unwrap();
    assert_eq!(checks(text(CHECKS).parse().unwrap()).unwrap().len(), 4);
    assert_eq!(
        errors(text(STRANGE))[0],
        "1:1: unknown key `\\u{1b}[31m`: expected `node`, `dataplane`, `timeouts`, `service`, `notify`, `vrrp` or `peers`"
    );
}

proptest! {
    #[test]
    fn any_file(text in fuzz::text(&[FILE, STRANGE])) {
        for error in model(&text, "lb1").err().into_iter().flatten() {
            let ReadError { line, column, message } = error;
            let lines: Vec<_> = text.split('\n').collect();
            prop_assert!((1..=lines.len()).contains(&line), "{line}: {message}");
            let width = lines[line - 1].chars().count();
            prop_assert!((1..=width + 1).contains(&column), "{line}:{column}: {message}");
            prop_assert!(fuzz::is_printable_line(&message), "{message:?}");
        }
    }

    #[test]
    fn any_checks(text in fuzz::text(&[CHECKS])) {
        if let Ok(value) = text.parse()
            && let Err(sentence) = checks(value)
        {
            prop_assert!(!sentence.is_empty());
        }
    }
}
