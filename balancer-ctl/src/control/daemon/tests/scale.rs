//! How long changes and listings take in a large configuration.

use std::{
    fmt::Write as _,
    io::Write as _,
    time::{Duration, Instant},
};

use super::*;

const SERVICES: usize = 1_000;
const REALS: usize = 10;
const ROUNDS: usize = 41;

/// A configuration of 1,000 services with 10 real servers each; each service's block begins with `settings`.
fn large(settings: &str) -> String {
    let mut text = "[dataplane]\ninterfaces = [\"eth0\"]\n".to_owned();
    for number in 0..SERVICES {
        let _ = writeln!(
            text,
            "\n[[service]]\naddress = \"192.0.2.80:{}\"{settings}",
            1_000 + number
        );
        for real in 0..REALS {
            let host = number * REALS + real;
            let _ = writeln!(
                text,
                "\n[[service.real]]\naddress = \"10.{}.{}.{}:80\"",
                host >> 16,
                host >> 8 & 255,
                host & 255
            );
        }
    }
    text
}

/// The changes that add a service with its real servers.
fn whole_service(number: usize) -> Vec<Request> {
    let key = service_key(&format!("192.0.2.80:{}", 1_000 + number)).unwrap();
    let hosts = number * REALS..(number + 1) * REALS;
    let reals = hosts.map(|host| {
        let address = format!("10.{}.{}.{}:80", host >> 16, host >> 8 & 255, host & 255);
        Request::AddReal(ServiceRef::Key(key), real(&address), weight(1))
    });
    let service = Request::AddService(key, ServiceSettings::default());
    std::iter::once(service).chain(reals).collect()
}

/// The median of what `work` takes.
fn median(mut work: impl FnMut(usize)) -> Duration {
    let mut times: Vec<_> = (0..ROUNDS)
        .map(|round| {
            let start = Instant::now();
            work(round);
            start.elapsed()
        })
        .collect();
    times.sort();
    times[ROUNDS / 2]
}

/// Prints the figures. Run it with `cargo test --release -p balancer-ctl --lib -- --ignored --nocapture figures`.
#[test]
#[ignore = "prints figures of a release build"]
fn figures_of_a_large_configuration() {
    let mut scene = Scene::with_file("[dataplane]\ninterfaces = [\"eth0\"]\n");
    let everything: Vec<_> = (0..SERVICES).flat_map(whole_service).collect();
    let start = Instant::now();
    scene.change_all(everything, Scope::File).unwrap();
    println!("all services in one batch {:?}", start.elapsed());
    for (name, settings) in [
        ("without checks", ""),
        ("with checks", "\ncheck = { type = \"tcp\" }"),
    ] {
        let text = large(settings);
        let mut scene = Scene::with_file(&text);
        let mut change = |scope| {
            median(|round| {
                let service = named(&format!("192.0.2.80:{}", 1_000 + round * 7));
                let added = Request::AddReal(service, real("10.200.0.1:80"), weight(1));
                scene.change(added, scope).unwrap();
            })
        };
        println!("{name}: add-real {:?}", change(Scope::File));
        let mut scene = Scene::with_file(&text);
        let mut change = |scope| {
            median(|round| {
                let service = named(&format!("192.0.2.80:{}", 1_000 + round * 7));
                let added = Request::AddReal(service, real("10.200.0.1:80"), weight(1));
                scene.change(added, scope).unwrap();
            })
        };
        println!("{name}: add-real --runtime {:?}", change(Scope::Runtime));
        let listed = median(|round| {
            let service = named(&format!("192.0.2.80:{}", 1_000 + round * 7));
            let listed = scene.ask(|reply| Message::Services(Some(service), reply));
            assert_eq!(listed.unwrap().services.len(), 1);
        });
        println!("{name}: list SERVICE {listed:?}");
        let folder = scene.folder.path();
        let written = median(|_| {
            let mut file = tempfile::NamedTempFile::new_in(folder).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file.as_file().sync_all().unwrap();
            file.persist(folder.join("other")).unwrap();
            fs::File::open(folder).unwrap().sync_all().unwrap();
        });
        println!(
            "{name}: the disk alone {written:?} for {} bytes",
            text.len()
        );
    }
}
