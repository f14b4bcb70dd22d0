//! etcd's JSON over HTTP, by one connection that stays.

use std::{net::SocketAddrV4, time::Duration};

use anyhow::{Context as _, Result};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;
use ureq::Agent;

const PATIENCE: Duration = Duration::from_secs(20);

/// One who asks one thing after the other.
pub(crate) struct Gateway {
    agent: Agent,
    to: SocketAddrV4,
}

impl Gateway {
    /// Connects, and sees that somebody answers.
    pub(crate) fn open(to: SocketAddrV4) -> Result<Self> {
        let agent = Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .no_delay(true)
            .build()
            .into();
        let gateway = Self { agent, to };
        gateway.ask("maintenance/status", &Value::Object(Default::default()))?;
        Ok(gateway)
    }

    /// Posts to `/v3/<path>`; answers with etcd's JSON.
    pub(crate) fn ask(&self, path: &str, body: &Value) -> Result<Value> {
        let url = format!("http://{}/v3/{path}", self.to);
        let answer = self.agent.post(&url).send(body.to_string());
        let mut answer = answer.with_context(|| format!("ask {url}"))?;
        let text = answer.body_mut().read_to_string();
        let text = text.with_context(|| format!("read the answer of {url}"))?;
        serde_json::from_str(&text).with_context(|| format!("etcd's JSON: {text}"))
    }
}

/// How keys and values stand in it.
pub(crate) fn encoded(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}
