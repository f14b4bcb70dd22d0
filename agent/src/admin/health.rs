//! `/healthz`, `/livez` and `/readyz` over HTTP, with flannel's texts and codes, and the reasons
//! behind them.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::debug;

use super::status::Status;
use crate::reconcile::pulse::{Hung, Pulse};

/// Connections at a time.
const MOST: usize = 64;
/// Who takes longer to ask, or to listen, is let go.
const PATIENCE: Duration = Duration::from_secs(5);

type Answer = (StatusCode, String);

/// What is asked.
#[derive(Clone)]
pub struct Health {
    /// The agent's parts.
    pub status: watch::Receiver<Status>,
    /// Signs of life of the tasks.
    pub pulse: Arc<Pulse>,
}

/// Takes the address, before anything else is done: who asked for it must get it.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Answers until it is dropped. Whoever can reach the port can ask as often as they like, and must
/// not be able to use up what the agent needs: few at a time, and none for long.
pub async fn serve(listener: TcpListener, health: Health) {
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(health);
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= MOST {
            connections.join_next().await;
        }
        let Ok((stream, _)) = listener.accept().await else {
            sleep(PATIENCE).await;
            continue;
        };
        let service = TowerToHyperService::new(router.clone());
        let answer = http1::Builder::new()
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        connections.spawn(async move {
            if !matches!(timeout(PATIENCE, answer).await, Ok(Ok(()))) {
                debug!("who asked for health went away, or was let go");
            }
        });
    }
}

/// For flannel's probes, which restart the agent: a hang that will not end.
async fn healthz(State(health): State<Health>) -> Answer {
    alive(&health.pulse.stuck())
}

/// The same within five seconds.
async fn livez(State(health): State<Health>) -> Answer {
    alive(&health.pulse.hung())
}

async fn readyz(State(health): State<Health>) -> Answer {
    ready(&health.status.borrow())
}

/// The process runs, and its tasks move. Whether the store answers is no matter: a restart would
/// not help.
fn alive(hung: &[Hung]) -> Answer {
    if hung.is_empty() {
        return (StatusCode::OK, "flanneld is running".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, named(hung))
}

/// Each with its age.
fn named(hung: &[Hung]) -> String {
    let all = hung.iter().map(ToString::to_string);
    all.collect::<Vec<_>>().join("\n")
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
    use crate::{admin::status::Component, reconcile::pulse::Task};

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    fn served() -> (
        watch::Sender<Status>,
        SocketAddr,
        tokio::task::JoinHandle<()>,
    ) {
        let (told, status) = watch::channel(Status::default());
        let health = Health {
            status,
            pulse: Arc::default(),
        };
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        (told, address, tokio::spawn(serve(listener, health)))
    }

    #[tokio::test]
    async fn texts_and_codes_are_flannels() {
        let (told, address, server) = served();
        let answer = get(address, "/livez").await;
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
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

    /// The clock is stopped: it moves when nobody has anything to do.
    #[tokio::test(start_paused = true)]
    async fn who_connects_and_says_nothing_is_let_go() {
        let (_told, address, server) = served();
        let mut idle = Vec::new();
        for _ in 0..2 * MOST {
            idle.push(tokio::net::TcpStream::connect(address).await.unwrap());
        }
        let answer = get(address, "/healthz").await;
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
        for mut stream in idle {
            assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
        }
        server.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_is_stuck_is_named() {
        let pulse = Pulse::default();
        pulse.beat(Task::Reconcile);
        assert_eq!(alive(&pulse.hung()).0, StatusCode::OK);
        tokio::time::advance(Duration::from_secs(5)).await;
        let (code, text) = alive(&pulse.hung());
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text, "reconcile: stuck for 5 s");
        assert_eq!(alive(&pulse.stuck()).0, StatusCode::OK);
    }
}
