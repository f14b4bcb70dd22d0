//! `/healthz` and `/readyz` over HTTP, with flannel's texts and codes, and the reasons behind them.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::{net::TcpListener, sync::watch};
use tracing::warn;

use super::status::Status;
use crate::reconcile::pulse::Pulse;

type Answer = (StatusCode, String);

/// What is asked.
#[derive(Clone)]
pub struct Health {
    /// The agent's parts.
    pub status: watch::Receiver<Status>,
    /// The loop's sign of life.
    pub pulse: Arc<Pulse>,
}

/// Takes the address, before anything else is done: who asked for it must get it.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Answers until it is dropped.
pub async fn serve(listener: TcpListener, health: Health) {
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(health);
    if let Err(error) = axum::serve(listener, router).await {
        warn!(%error, "health is not told any more");
    }
}

async fn healthz(State(health): State<Health>) -> Answer {
    alive(health.pulse.stuck())
}

async fn readyz(State(health): State<Health>) -> Answer {
    ready(&health.status.borrow())
}

/// The process runs, and its loop comes round. Whether the store answers is no matter: a restart
/// would not help.
fn alive(stuck: Option<Duration>) -> Answer {
    match stuck {
        None => (StatusCode::OK, "flanneld is running".to_owned()),
        Some(age) => {
            let why = format!("reconcile: stuck for {} s", age.as_secs());
            (StatusCode::SERVICE_UNAVAILABLE, why)
        }
    }
}

/// As `weft status` has it, with what is wrong.
fn ready(status: &Status) -> Answer {
    if status.ready {
        return (StatusCode::OK, "flanneld is ready".to_owned());
    }
    let mut text = "flanneld is not ready yet".to_owned();
    for part in status.components.iter().filter(|part| !part.ok) {
        text.push_str(&format!("\n{}: {}", part.name, part.detail));
    }
    (StatusCode::SERVICE_UNAVAILABLE, text)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::admin::status::Component;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn texts_and_codes_are_flannels() {
        let (told, status) = watch::channel(Status::default());
        let health = Health {
            status,
            pulse: Arc::default(),
        };
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, health));
        let answer = get(address, "/healthz").await;
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nflanneld is running"), "{answer}");
        let lost = Component::bad("lease", "subnet_lost: told to");
        told.send_modify(|status| status.components = vec![lost]);
        for (is, code, body) in [
            (
                false,
                "503",
                "flanneld is not ready yet\nlease: subnet_lost: told to",
            ),
            (true, "200", "flanneld is ready"),
            // It goes back.
            (
                false,
                "503",
                "flanneld is not ready yet\nlease: subnet_lost: told to",
            ),
        ] {
            told.send_modify(|status| status.ready = is);
            let answer = get(address, "/readyz").await;
            assert!(answer.starts_with(&format!("HTTP/1.0 {code}")), "{answer}");
            assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{answer}");
        }
        assert!(get(address, "/").await.starts_with("HTTP/1.0 404"));
        assert_eq!(bind(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        server.abort();
    }

    #[test]
    fn a_loop_that_is_stuck_is_named() {
        let (code, text) = alive(Some(Duration::from_secs(75)));
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text, "reconcile: stuck for 75 s");
    }
}
