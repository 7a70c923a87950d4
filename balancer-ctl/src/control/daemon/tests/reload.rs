//! What goes on while the file is loaded again.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::*;

/// Whether the disk with the files of checks does not answer.
static IS_STUCK: AtomicBool = AtomicBool::new(false);

fn read_files(_: &Check) -> Option<(&'static str, String)> {
    while IS_STUCK.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(5));
    }
    None
}

async fn sent<T>(
    messages: &mpsc::Sender<Message>,
    message: impl FnOnce(Reply<T>) -> Message,
) -> oneshot::Receiver<Result<T, ApiError>> {
    let (reply, answer) = oneshot::channel();
    messages.send(message(reply)).await.unwrap();
    answer
}

/// Sends a message of somebody who has given up waiting for the answer by the time that it arrives.
async fn given_up<T>(messages: &mpsc::Sender<Message>, message: impl FnOnce(Reply<T>) -> Message) {
    let (reply, answer) = oneshot::channel();
    drop(answer);
    messages.send(message(reply)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_whose_files_take_long_keeps_only_changes_waiting() {
    let (scene, text) = Scene::with_check(read_files);
    let path = scene.path();
    fs::write(&path, text.replace("web", "shop")).unwrap();
    let (messages, inbox) = mpsc::channel(MAX_QUEUED_MESSAGES);
    let mut events = scene.events;
    let daemon = tokio::spawn(scene.daemon.run(inbox));

    let names = async |messages: &mpsc::Sender<Message>| -> Vec<String> {
        let services = sent(messages, |reply| Message::Services(None, reply)).await;
        let services = services.await.unwrap().unwrap().services;
        services
            .into_iter()
            .filter_map(|service| service.name)
            .collect()
    };
    IS_STUCK.store(true, Ordering::Relaxed);
    let mut reloaded = sent(&messages, Message::Reload).await;
    let request = Request::DelService("web".parse().unwrap());
    let mut refused = sent(&messages, |reply| {
        Message::Change(vec![request], Scope::File, reply)
    })
    .await;
    let request = Request::AddService(
        service_key("tcp/192.0.2.80:81").unwrap(),
        ServiceSettings::default(),
    );
    let mut added = sent(&messages, |reply| {
        Message::Change(vec![request], Scope::File, reply)
    })
    .await;
    let mut again = sent(&messages, Message::Reload).await;
    // Who has given up waiting, and signals, for which one reload is enough.
    let request = Request::AddService(
        service_key("tcp/192.0.2.80:82").unwrap(),
        ServiceSettings::default(),
    );
    given_up(&messages, |reply| {
        Message::Change(vec![request], Scope::File, reply)
    })
    .await;
    for _ in 0..3 {
        given_up(&messages, Message::Reload).await;
    }
    let mut waiting = Vec::new();
    for _ in 4..=64 {
        let request = Request::DelService("nothing".parse().unwrap());
        let change = |reply| Message::Change(vec![request], Scope::File, reply);
        waiting.push(sent(&messages, change).await);
    }
    assert_eq!(
        waiting.pop().unwrap().await.unwrap().unwrap_err().sentence,
        "the configuration file is being loaded, and too many changes wait for that: try again"
    );
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(5200) {
        assert_eq!(names(&messages).await, ["web"]);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let status = sent(&messages, Message::Status)
        .await
        .await
        .unwrap()
        .unwrap();
    let reason = "the configuration file has been loading for 5 s, and changes wait for it: it, or a file or user that \
                  it names, does not answer";
    assert!(
        status.reasons.iter().any(|found| found == reason),
        "{:?}",
        status.reasons
    );
    assert!(reloaded.try_recv().is_err() && again.try_recv().is_err());
    assert!(refused.try_recv().is_err() && added.try_recv().is_err());
    IS_STUCK.store(false, Ordering::Relaxed);
    reloaded.await.unwrap().unwrap();
    let refusal = refused.await.unwrap().unwrap_err();
    assert_eq!(
        refusal.sentence,
        "there is no service `web`: `list` shows all"
    );
    added.await.unwrap().unwrap();
    again.await.unwrap().unwrap();
    assert_eq!(names(&messages).await, ["shop"]);
    assert!(!fs::read_to_string(&path).unwrap().contains("192.0.2.80:82"));
    let written = fs::read_to_string(&path).unwrap();
    assert!(
        written.contains("shop") && written.contains("192.0.2.80:81"),
        "{written}"
    );

    for change in waiting {
        let refusal = change.await.unwrap().unwrap_err();
        assert_eq!(
            refusal.sentence,
            "there is no service `nothing`: `list` shows all"
        );
    }
    // The first, the one that was waited for, and one for all signals.
    let mut reloads = 0;
    while let Ok(event) = tokio::time::timeout(Duration::from_secs(2), events.recv()).await {
        reloads += usize::from(event.unwrap().event == EventKind::Reloaded);
    }
    assert_eq!(reloads, 3);
    let status = sent(&messages, Message::Status)
        .await
        .await
        .unwrap()
        .unwrap();
    assert!(
        !status
            .reasons
            .iter()
            .any(|reason| reason.contains("loading"))
    );

    messages.send(Message::Stop).await.unwrap();
    daemon.await.unwrap();
}
