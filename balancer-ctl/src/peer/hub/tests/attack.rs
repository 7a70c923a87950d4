//! Strangers without the key, and others who know too much.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream as StdStream},
    thread,
};

use super::*;
use crate::os::open_files;

fn connect(target: SocketAddr) -> StdStream {
    let stream = StdStream::connect(target).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Waits for the other side to end the connection, and returns what it sent.
fn rest(mut stream: StdStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("{error}"),
        _ => bytes,
    }
}

#[test]
fn another_key_lets_nobody_in_and_is_said_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (free(50), free(51));
    let first = TestNode::start(&folder.path().join("1"), settings("lb1", one, &[other]));
    let wrong = PeerSettings {
        key: Some(key(2)),
        ..settings("lb2", other, &[one])
    };
    let second = TestNode::start(&folder.path().join("2"), wrong);
    for node in [&first, &second] {
        wait_for("refusals", || node.task.refusals().wrong_key >= 2);
        wait_for("the reason", || {
            node.task.peers()[0].trouble.as_deref() == Some("it has another key")
        });
        assert_eq!(node.task.peers()[0].name, None);
    }
}

#[test]
fn garbage_of_every_length_is_counted_and_ended_and_the_cluster_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = cluster(&folder, 52, 2);
    let target = nodes[0].address;
    for length in 0..120_usize {
        for first in [[0_u8, 48], [0xff, 0xff], [0, 0]] {
            let mut stream = connect(target);
            let bytes = [&first[..], &vec![0x5a; length]].concat();
            // It may be ended already.
            let _ = stream.write_all(&bytes[..length]);
            let _ = stream.shutdown(Shutdown::Write);
            assert_eq!(rest(stream), b"");
        }
    }
    wait_for("the counts", || {
        let refusals = nodes[0].task.refusals();
        let all = [
            refusals.garbage,
            refusals.wrong_key,
            refusals.abandoned,
            refusals.crowded,
        ];
        all.iter().sum::<u64>() == 360
    });
    let refusals = nodes[0].task.refusals();
    assert!(
        refusals.garbage >= 200 && refusals.wrong_key >= 60,
        "{refusals:?}"
    );
    assert_eq!(nodes[0].peer("lb2").unwrap().counters.lost, 0);
    assert!(nodes[0].hears("lb2"));
}

#[test]
fn a_huge_length_is_ended_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let node = TestNode::start(folder.path(), settings("lb1", free(54), &[]));
    let mut stream = connect(node.address);
    stream.write_all(&[0xff, 0xff]).unwrap();
    let began = Instant::now();
    assert_eq!(rest(stream), b"");
    assert!(began.elapsed() < Duration::from_secs(1));
    wait_for("the count", || node.task.refusals().garbage == 1);
}

#[test]
fn a_recorded_session_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let target = TestNode::start(
        &folder.path().join("1"),
        settings("lb1", free(55), &[free(56)]),
    );
    // What stands between the two records the one who dials.
    let between = TcpListener::bind("127.0.0.57:0").unwrap();
    let dials = settings("lb2", free(56), &[between.local_addr().unwrap()]);
    let dialler = TestNode::start(&folder.path().join("2"), dials);
    let (mut near, _) = between.accept().unwrap();
    let far = thread::scope(|scope| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let far = runtime.block_on(async { dial("127.0.0.56", target.address).await });
        let far = far.into_std().unwrap();
        far.set_nonblocking(false).unwrap();
        let (mut from_far, mut to_near) = (far.try_clone().unwrap(), near.try_clone().unwrap());
        scope.spawn(move || std::io::copy(&mut from_far, &mut to_near));
        let mut recorded = Vec::new();
        let mut buffer = [0; 4096];
        let mut to_far = far;
        // Until some reports have passed.
        while recorded.len() < 2500 || !target.hears("lb2") {
            let read = near.read(&mut buffer).unwrap();
            assert!(read > 0);
            to_far.write_all(&buffer[..read]).unwrap();
            recorded.extend_from_slice(&buffer[..read]);
        }
        drop(dialler);
        let _ = to_far.shutdown(Shutdown::Both);
        let _ = near.shutdown(Shutdown::Both);
        recorded
    });
    wait_for("the end of lb2", || {
        !target.peer("lb2").unwrap().is_connected()
    });
    let before = target.peer("lb2").unwrap();
    for _ in 0..3 {
        let mut stream = connect(target.address);
        // It may be ended before all is written.
        let _ = stream.write_all(&far);
        rest(stream);
    }
    wait_for("the count", || target.task.refusals().forged == 3);
    let after = target.peer("lb2").unwrap();
    assert!(!after.is_connected());
    assert_eq!(after.counters.received, before.counters.received);
    assert_eq!(after.last_heard, before.last_heard);
}

#[test]
fn half_open_connections_are_ended_after_two_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let node = TestNode::start(folder.path(), settings("lb1", free(58), &[]));
    let began = Instant::now();
    let streams: Vec<_> = [&b""[..], b"\0", b"\0\x30", b"\0\x30abc"]
        .into_iter()
        .map(|bytes| {
            let mut stream = connect(node.address);
            stream.write_all(bytes).unwrap();
            stream
        })
        .collect();
    for stream in streams {
        assert_eq!(rest(stream), b"");
    }
    let took = began.elapsed();
    assert!(
        took > Duration::from_millis(1900) && took < Duration::from_secs(4),
        "{took:?}"
    );
    wait_for("the count", || node.task.refusals().silent == 4);
    // The key alone, without a hello, holds nothing for longer.
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut stream = dial("127.0.0.58", node.address).await;
        let keys = wire::initiate(&mut stream, &key(1)).await.unwrap();
        let (reader, writer) = stream.into_split();
        let (mut reader, _writer) = keys.attach(reader, writer);
        assert!(reader.read(|| ()).await.is_err());
    });
    assert!(began.elapsed() < Duration::from_secs(4));
}

#[test]
fn a_thousand_connections_that_say_nothing_keep_no_node_out() {
    // The files of the strangers and of the nodes are this process's.
    assert!(open_files::raise(8192).unwrap() >= 4096);
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (free(60), free(61));
    let first = TestNode::start(&folder.path().join("1"), settings("lb1", one, &[other]));
    let strangers: Vec<_> = (0..1000).map(|_| connect(one)).collect();
    let raw_hello = Hello {
        address: Some(other),
        ..hello("lb2", 7)
    };
    // From the strangers' own address, and from a node's.
    for from in ["127.0.0.1", "127.0.0.61"] {
        let began = Instant::now();
        let mut raw = RawNode::dial(from, one, &raw_hello);
        assert!(matches!(raw.next(), Some(Message::Hello(_))));
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{:?}",
            began.elapsed()
        );
        wait_for("lb2", || first.hears("lb2") || first.peer("lb2").is_some());
        drop(raw);
        wait_for("its end", || !first.peer("lb2").unwrap().is_connected());
    }
    assert!(first.task.refusals().crowded >= 990);
    // Those that came last wait for two seconds, and all are ended.
    for stream in strangers {
        assert_eq!(rest(stream), b"");
    }
    let second = TestNode::start(&folder.path().join("2"), settings("lb2", other, &[one]));
    wait_for("lb2 in truth", || first.hears("lb2") && second.hears("lb1"));
}

#[test]
fn who_has_the_key_and_is_not_one_of_the_cluster_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let node = TestNode::start(folder.path(), settings("lb1", free(62), &[free(63)]));
    let mut raw = RawNode::dial("127.0.0.64", node.address, &hello("lb9", 7));
    let Some(Message::Refused(refused)) = raw.next() else {
        panic!()
    };
    assert_eq!(
        refused.reason,
        "node `lb9` at 127.0.0.64 is not one of this cluster: `balancer-ctl node join` there takes it in"
    );
    assert!(!refused.removed);
    assert_eq!(raw.next(), None);
    let mut raw = RawNode::dial("127.0.0.64", node.address, &hello("a b", 7));
    assert!(matches!(raw.next(), Some(Message::Refused(_))));
    let refusals = node.task.refusals();
    assert_eq!((refusals.unknown, refusals.name), (1, 1));
    assert_eq!(node.names(), Vec::<String>::new());
}
