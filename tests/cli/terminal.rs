//! On a terminal, what is printed fits it; elsewhere nothing is shortened.

use std::{fs::File, io::Read as _, process::Stdio};

use nix::pty::{OpenptyResult, Winsize, openpty};

use crate::scene::Scene;

/// What a command line prints on a terminal with so many columns, without colours. With 0 columns, the variable `COLUMNS` says 60.
fn on_terminal(scene: &Scene, arguments: &str, columns: u16) -> String {
    let size = Winsize {
        ws_row: 24,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let OpenptyResult { master, slave } = openpty(&size, None).expect("a terminal");
    let mut command = scene.command(arguments);
    command.env("NO_COLOR", "1").stdout(Stdio::from(slave));
    if columns == 0 {
        command.env("COLUMNS", "60");
    }
    let mut child = command.spawn().expect("it runs");
    // Closes the terminal's other end here, so that reading ends with the child.
    drop(command);
    let mut text = Vec::new();
    // When the other end is closed, reading fails, after all that was written was read.
    let _ = File::from(master).read_to_end(&mut text);
    assert!(child.wait().expect("it ends").success());
    let text = String::from_utf8(text).expect("text");
    text.replace("\r\n", "\n")
}

fn scene() -> Scene {
    let scene = Scene::tutorial();
    for arguments in [
        "add-service [2001:db8::35]:443 --name shop-of-the-northern-branch -p 600",
        "add-real [2001:db8:1111:2222:3333:4444:5555:6666]:8443 --service shop-of-the-northern-branch",
        "edit-real 192.168.0.3 -w 0 --service web",
    ] {
        scene.done(arguments);
    }
    scene.dataplane.state().warnings = vec![
        "eth1 runs the packet program in generic mode, which costs more CPU time per packet"
            .to_owned(),
    ];
    scene
}

#[test]
fn a_list_fits_the_terminal_and_numbers_and_addresses_stay_whole() {
    let scene = scene();
    let whole = scene.done("list");
    assert_eq!(on_terminal(&scene, "list", 200), whole);
    assert_eq!(
        on_terminal(&scene, "list", 80),
        "\
Service                                             Sched
  -> Real                                           Fwd    Wgt  Eff  State
      Act  Inact
tcp/192.168.1.35:80 (web)                           rr
  -> 192.168.0.2:80                                 nat      1    1  up
        0      0
  -> 192.168.0.3:80                                 nat      0    0  draining
        0      0  weight 0
udp/[2001:db8::35]:53                               wrr
                  no-real drop
  -> [2001:db8:1::2]:53                             nat      1    1  up
        0      0
tcp/[2001:db8::35]:443 (shop-of-the-northern-bra…)  wrr
                  persistent 600
  -> [2001:db8:1111:2222:3333:4444:5555:6666]:8443  nat      1    1  up
        0      0
"
    );
    assert_eq!(
        on_terminal(&scene, "list", 60),
        "\
Service                                             Sched
  -> Real                                           Fwd
      Wgt  Eff  State     Act  Inact
tcp/192.168.1.35:80 (web)                           rr
  -> 192.168.0.2:80                                 nat
        1    1  up          0      0
  -> 192.168.0.3:80                                 nat
        0    0  draining    0      0  weight 0
udp/[2001:db8::35]:53                               wrr
                                      no-real drop
  -> [2001:db8:1::2]:53                             nat
        1    1  up          0      0
tcp/[2001:db8::35]:443 (shop-of-the-northern-bra…)  wrr
                                      persistent 600
  -> [2001:db8:1111:2222:3333:4444:5555:6666]:8443  nat
        1    1  up          0      0
"
    );
    assert_eq!(
        on_terminal(&scene, "list", 0),
        on_terminal(&scene, "list", 60)
    );
}

#[test]
fn the_status_fits_the_terminal() {
    let scene = scene();
    let path = scene.file().display().to_string();
    let whole = scene.done("status");
    assert_eq!(on_terminal(&scene, "status", 200), whole);
    let narrow = on_terminal(&scene, "status", 60);
    assert_eq!(
        narrow.replace(&path, "FILE"),
        "\
node         lb1, balancerd 0.1.0
overall      limited
because      eth1 runs the packet program in generic mode,
               which costs more CPU time per packet
config       FILE
interfaces   eth0 native, program 42
             eth1 native, program 43
connections  IPv4  0 of 262144  20.0 MiB of memory
             IPv6  0 of 65536   10.0 MiB of memory
services     web                          1 of 2 reals up
             udp/[2001:db8::35]:53        1 of 1 real up
             shop-of-the-northern-branch  1 of 1 real up
"
    );
}

#[test]
fn json_is_the_same_on_a_terminal() {
    let scene = scene();
    assert_eq!(
        on_terminal(&scene, "list --json", 40),
        scene.done("list --json")
    );
}
