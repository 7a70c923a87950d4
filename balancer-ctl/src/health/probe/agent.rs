//! Agent checks: a line from an agent on the real server, in the language of HAProxy's agent-check: `75%`, `ready`,
//! `drain`, `maint`, `up`, `down`, `fail`, `stopped`; the last three may be followed by `#` and a text. What a line does
//! not mention stays as the agent last said.

use std::sync::{Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    AgentReply, Passed, ProbeFailure,
    socket::{ConnectMode, Endpoint},
    text,
};
use crate::{
    health::RequestedWeight,
    model::{AdminState, check::AgentProbe},
};

/// Longest line of an agent, in bytes.
const MAX_LINE: usize = 1024;

#[derive(Debug)]
pub struct Agent {
    endpoint: Endpoint,
    send: Vec<u8>,
    /// All requests of the agent that hold now.
    last_reply: Mutex<AgentReply>,
}

impl Agent {
    pub fn new(endpoint: Endpoint, probe: &AgentProbe) -> Self {
        Self {
            endpoint,
            send: probe.send.clone(),
            last_reply: Mutex::default(),
        }
    }

    /// Sets what the agent said to an earlier daemon.
    pub fn set_last_reply(&mut self, reply: AgentReply) {
        self.last_reply = Mutex::new(reply);
    }

    pub async fn probe(&self) -> Result<Passed, ProbeFailure> {
        let line = self.read_line().await?;
        let words = text::quoted(line.trim_ascii());
        // A poisoned lock is safe to use: the reply is replaced as a whole.
        let mut last_reply = self
            .last_reply
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last_reply = parse_line(&line, &last_reply).map_err(|word| match word {
            Some(word) => {
                ProbeFailure::Target(format!("the agent said {words:?}: what is {word:?}?"))
            }
            None => "the agent said nothing".into(),
        })?;
        Ok(Passed {
            note: format!("agent: {words}"),
            agent_reply: last_reply.clone(),
        })
    }

    /// Reads the first line, or everything until the connection ends. What was read counts before the error that
    /// follows it: an agent may answer and close the connection without having read.
    async fn read_line(&self) -> Result<Vec<u8>, ProbeFailure> {
        let mut stream = self.endpoint.connect(ConnectMode::Full).await?;
        let mut failed = stream.write_all(&self.send).await.err();
        let mut line = Vec::new();
        let mut buffer = [0; MAX_LINE];
        loop {
            let length = stream.read(&mut buffer).await.unwrap_or_else(|error| {
                failed.get_or_insert(error);
                0
            });
            line.extend_from_slice(&buffer[..length]);
            if let Some(end) = line.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
                line.truncate(end);
                return Ok(line);
            }
            if length == 0 {
                return match failed {
                    Some(error) if line.is_empty() => Err(error.into()),
                    _ => Ok(line),
                };
            }
            if line.len() > MAX_LINE {
                return Err(format!("the agent's line is longer than {MAX_LINE} bytes").into());
            }
        }
    }
}

/// The requests that hold after a line. A line with an unknown word changes nothing: the error is that word, or `None` for
/// a line without any word.
fn parse_line(line: &[u8], before: &AgentReply) -> Result<AgentReply, Option<String>> {
    let (words, remark) = match line.iter().position(|byte| *byte == b'#') {
        Some(at) => (&line[..at], text::quoted(line[at + 1..].trim_ascii())),
        None => (line, String::new()),
    };
    let mut reply = before.clone();
    let mut words = words
        .split(|byte| matches!(byte, b' ' | b'\t' | b',' | b'\0'))
        .filter(|word| !word.is_empty())
        .peekable();
    words.peek().ok_or(None)?;
    for word in words {
        let word = text::quoted(word).to_ascii_lowercase();
        match word.as_str() {
            "ready" => reply.state = Some(AdminState::Ready),
            "drain" => reply.state = Some(AdminState::Drain),
            "maint" => reply.state = Some(AdminState::Maintenance),
            "up" => reply.down = None,
            "down" | "fail" | "failed" | "stopped" => {
                reply.down = Some(match remark.is_empty() {
                    true => word,
                    false => format!("{word}: {remark}"),
                });
            }
            _ => match word.strip_suffix('%').map(str::parse) {
                Some(Ok(percent)) => reply.weight = Some(RequestedWeight::Percent(percent)),
                // HAProxy's connection limit; ignored, so that one agent can serve both programs.
                _ if word.starts_with("maxconn:") => {}
                _ => return Err(Some(word)),
            },
        }
    }
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(weight: Option<u32>, state: Option<AdminState>, down: Option<&str>) -> AgentReply {
        AgentReply {
            weight: weight.map(RequestedWeight::Percent),
            state,
            down: down.map(str::to_owned),
        }
    }

    #[test]
    fn an_agent_speaks_haproxys_language() {
        let nothing = AgentReply::default();
        for (line, expected) in [
            ("75%", reply(Some(75), None, None)),
            ("0%", reply(Some(0), None, None)),
            ("ready", reply(None, Some(AdminState::Ready), None)),
            (
                "UP ready 100%",
                reply(Some(100), Some(AdminState::Ready), None),
            ),
            (
                "drain,\t50%",
                reply(Some(50), Some(AdminState::Drain), None),
            ),
            ("maint", reply(None, Some(AdminState::Maintenance), None)),
            (
                "down # disk full, call Ann",
                reply(None, None, Some("down: disk full, call Ann")),
            ),
            ("fail#", reply(None, None, Some("fail"))),
            ("failed", reply(None, None, Some("failed"))),
            (
                "stopped\tmaxconn:30 10%",
                reply(Some(10), None, Some("stopped")),
            ),
        ] {
            assert_eq!(
                parse_line(line.as_bytes(), &nothing),
                Ok(expected),
                "{line}"
            );
        }
    }

    #[test]
    fn what_an_agents_line_does_not_mention_stays() {
        let before = reply(Some(20), Some(AdminState::Drain), Some("stopped"));
        let after = |line: &str| parse_line(line.as_bytes(), &before).unwrap();
        assert_eq!(
            after("50%"),
            reply(Some(50), Some(AdminState::Drain), Some("stopped"))
        );
        assert_eq!(after("up"), reply(Some(20), Some(AdminState::Drain), None));
        assert_eq!(
            after("ready"),
            reply(Some(20), Some(AdminState::Ready), Some("stopped"))
        );
    }

    #[test]
    fn nonsense_changes_nothing() {
        let before = AgentReply::default();
        for (line, word) in [
            ("", None),
            (" ,\t", None),
            ("# down", None),
            ("50% sideways", Some("sideways")),
            ("%", Some("%")),
            ("-5%", Some("-5%")),
            ("4294967296%", Some("4294967296%")),
            ("HTTP/1.1 400 Bad Request", Some("http/1.1")),
        ] {
            let word = word.map(str::to_owned);
            assert_eq!(parse_line(line.as_bytes(), &before), Err(word), "{line}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_an_agent_says_its_words_can_be_shown(
            line in crate::os::fuzz::bytes(&[b"up 75%", b"drain,maxconn:3", b"down#disk full, call Ann", b"ready"]),
        ) {
            let before = AgentReply::default();
            match parse_line(&line, &before) {
                Ok(reply) => {
                    let down = reply.down.as_deref().unwrap_or("-");
                    proptest::prop_assert!(crate::os::fuzz::is_printable_line(down), "{down:?}");
                }
                Err(Some(word)) => {
                    proptest::prop_assert!(crate::os::fuzz::is_printable_line(&word), "{word:?}");
                }
                Err(None) => {}
            }
        }
    }
}
