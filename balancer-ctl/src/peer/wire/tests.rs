use proptest::prelude::*;
use tokio::io::{DuplexStream, ReadHalf, WriteHalf, duplex, split};

use super::*;

type Reader = MessageReader<ReadHalf<DuplexStream>>;
type Writer = MessageWriter<WriteHalf<DuplexStream>>;

fn key(byte: u8) -> ClusterKey {
    ClusterKey::from([byte; 32])
}

/// Two ends of a connection after the handshake, with so much room on the way.
async fn connected(room: usize) -> ((Reader, Writer), (Reader, Writer)) {
    let (mut near, mut far) = duplex(room);
    let (key, same) = (key(1), key(1));
    let (one, other) = tokio::join!(initiate(&mut near, &key), respond(&mut far, &same));
    let attach = |keys: Keys, stream| {
        let (reader, writer) = split(stream);
        keys.attach(reader, writer)
    };
    (attach(one.unwrap(), near), attach(other.unwrap(), far))
}

/// Runs both ends of a handshake, and returns what each side sent.
async fn recorded(message: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut near, mut tap_near) = duplex(1 << 20);
    let (mut far, mut tap_far) = duplex(1 << 20);
    let (key, same) = (key(1), key(1));
    let copy = async {
        let (mut forth, mut back) = (vec![0; 2 + HANDSHAKE], vec![0; 2 + HANDSHAKE]);
        tap_near.read_exact(&mut forth).await.unwrap();
        tap_far.write_all(&forth).await.unwrap();
        tap_far.read_exact(&mut back).await.unwrap();
        tap_near.write_all(&back).await.unwrap();
        (forth, back)
    };
    let (one, other, (mut forth, back)) =
        tokio::join!(initiate(&mut near, &key), respond(&mut far, &same), copy);
    other.unwrap();
    let (_, mut writer) = one.unwrap().attach(tokio::io::empty(), near);
    writer.write(message).await.unwrap();
    drop(writer);
    tap_near.read_to_end(&mut forth).await.unwrap();
    (forth, back)
}

#[tokio::test]
async fn messages_of_every_length_arrive_in_order() {
    let ((_, mut writer), (mut reader, _)) = connected(1000).await;
    let room = MAX_RECORD - TAG;
    let lengths = [
        0,
        1,
        4096,
        room - 5,
        room - 4,
        room - 3,
        2 * room - 4,
        2 << 20,
        MAX_MESSAGE,
    ];
    reader.allow_long_messages();
    let message = |length: usize| (0..length).map(|at| (at % 251) as u8).collect::<Vec<_>>();
    let send = async {
        for length in lengths {
            writer.write(&message(length)).await.unwrap();
        }
    };
    let receive = async {
        for length in lengths {
            let mut records = 0;
            let received = reader.read(|| records += 1).await.unwrap();
            assert!(received == message(length), "{length}");
            assert_eq!(records, (length + PREFIX).div_ceil(room));
        }
    };
    tokio::join!(send, receive);
    assert!(matches!(
        writer.write(&message(MAX_MESSAGE + 1)).await,
        Err(WireError::TooLong(MAX_MESSAGE))
    ));
}

#[tokio::test]
async fn another_key_is_refused_by_both_sides() {
    let (mut near, mut far) = duplex(1000);
    let (one, other) = (key(1), key(2));
    let dial = async move { initiate(&mut near, &one).await };
    let accept = async move { respond(&mut far, &other).await };
    let (dialled, accepted) = tokio::join!(dial, accept);
    assert!(matches!(accepted, Err(WireError::WrongKey)));
    assert!(matches!(dialled, Err(WireError::Io(_))));
}

#[tokio::test]
async fn no_garbage_of_any_length_passes_the_handshake() {
    let garbage: Vec<u8> = (0..300_u32).map(|n| ((n * 7919) >> 3) as u8).collect();
    for length in 0..garbage.len() {
        for announced in [None, Some(HANDSHAKE as u16), Some(0), Some(u16::MAX)] {
            let mut bytes = garbage[..length].to_vec();
            if let Some((place, announced)) = bytes.first_chunk_mut().zip(announced) {
                *place = announced.to_be_bytes();
            }
            let mut stream = tokio::io::join(&bytes[..], tokio::io::sink());
            assert!(respond(&mut stream, &key(1)).await.is_err());
            let mut stream = tokio::io::join(&bytes[..], tokio::io::sink());
            assert!(initiate(&mut stream, &key(1)).await.is_err());
        }
    }
}

#[tokio::test]
async fn what_was_recorded_on_another_connection_is_refused() {
    let (forth, back) = recorded(b"{\"kind\":\"hello\"}").await;
    // Replayed to the one who accepts: the handshake's first message is good, but the keys are new.
    let mut stream = tokio::io::join(&forth[..], tokio::io::sink());
    let keys = respond(&mut stream, &key(1)).await.unwrap();
    let (mut reader, _) = keys.attach(stream, tokio::io::sink());
    assert!(matches!(reader.read(|| ()).await, Err(WireError::Forged)));
    // Replayed to the one who dials: its own new key does not fit the old answer.
    let mut stream = tokio::io::join(&back[..], tokio::io::sink());
    assert!(matches!(
        initiate(&mut stream, &key(1)).await,
        Err(WireError::WrongKey)
    ));
}

#[tokio::test]
async fn records_repeated_moved_left_out_or_changed_are_refused() {
    type Change = fn(&[Vec<u8>]) -> Vec<Vec<u8>>;
    let changes: [(Change, usize); 5] = [
        (|r| vec![r[0].clone(), r[0].clone()], 1),
        (|r| vec![r[1].clone(), r[0].clone()], 0),
        (|r| vec![r[1].clone()], 0),
        (
            |r| {
                let mut changed = r[0].clone();
                changed[10] ^= 1;
                vec![changed]
            },
            0,
        ),
        (<[Vec<u8>]>::to_vec, 2),
    ];
    for (change, good) in changes {
        let (mut near, mut far) = duplex(1000);
        let (one_key, same) = (key(1), key(1));
        let (one, other) = tokio::join!(initiate(&mut near, &one_key), respond(&mut far, &same));
        let (mut tap, tapped) = duplex(1000);
        let (_, mut writer) = one.unwrap().attach(tokio::io::empty(), tapped);
        let mut records = Vec::new();
        for text in [&b"first"[..], b"other"] {
            writer.write(text).await.unwrap();
            let mut record = vec![0; 2 + PREFIX + 5 + TAG];
            tap.read_exact(&mut record).await.unwrap();
            records.push(record);
        }
        let sent = change(&records).concat();
        let (mut reader, _) = other.unwrap().attach(&sent[..], tokio::io::sink());
        for _ in 0..good {
            assert!(reader.read(|| ()).await.is_ok());
        }
        let end = reader.read(|| ()).await.unwrap_err();
        let is_whole =
            matches!(&end, WireError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof);
        assert!(matches!(end, WireError::Forged) || good == 2 && is_whole);
    }
}

#[tokio::test]
async fn huge_lengths_are_refused_before_anything_is_kept() {
    let ((_, mut writer), (mut reader, _)) = connected(1 << 20).await;
    writer.write(&vec![b'a'; MAX_HELLO + 1]).await.unwrap();
    assert!(matches!(reader.read(|| ()).await, Err(WireError::Length)));
    assert!(reader.record.capacity() < 2 * MAX_HELLO);
    for announced in [MAX_MESSAGE as u32 + 1, u32::MAX] {
        let ((_, mut writer), (mut reader, _)) = connected(1 << 20).await;
        reader.allow_long_messages();
        writer.write_record(&announced.to_be_bytes()).await.unwrap();
        assert!(matches!(
            reader.read(|| ()).await,
            Err(WireError::TooLong(MAX_MESSAGE))
        ));
    }
    // More text than was announced, and none at all.
    let ((_, mut writer), (mut reader, _)) = connected(1000).await;
    writer.write_record(b"\0\0\0\x01ab").await.unwrap();
    assert!(matches!(reader.read(|| ()).await, Err(WireError::Length)));
    let ((_, mut writer), (mut reader, _)) = connected(1000).await;
    writer.write_record(b"\0\0").await.unwrap();
    assert!(matches!(reader.read(|| ()).await, Err(WireError::Length)));
    let ((_, mut writer), (mut reader, _)) = connected(1000).await;
    writer.io.write_all(&[0, 16]).await.unwrap();
    writer.io.write_all(&[0; 16]).await.unwrap();
    assert!(matches!(reader.read(|| ()).await, Err(WireError::Length)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_garbage_after_the_handshake_is_taken_for_a_message(garbage in prop::collection::vec(any::<u8>(), 0..400)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut near, mut far) = duplex(1000);
            let (one_key, same) = (key(1), key(1));
            let (_, other) = tokio::join!(initiate(&mut near, &one_key), respond(&mut far, &same));
            let (mut reader, _) = other.unwrap().attach(&garbage[..], tokio::io::sink());
            reader.allow_long_messages();
            assert!(reader.read(|| ()).await.is_err());
        });
    }
}
