//! The agent's socket: whoever connects gets the status as JSON, and the end.

use std::{
    fs, io,
    io::Read as _,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::{io::AsyncWriteExt as _, net::UnixListener, sync::watch, time::timeout};
use tracing::debug;

use super::status::Status;
use crate::reconcile::pulse::Pulse;

/// A reader that takes longer is let go.
const PATIENCE: Duration = Duration::from_secs(1);
/// A status larger than this is none of ours.
const MOST: u64 = 16 << 20;

/// Binds the socket, in place of one that a dead agent left.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Answers until it is dropped.
pub async fn serve(listener: UnixListener, status: watch::Receiver<Status>, pulse: Arc<Pulse>) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            tokio::time::sleep(PATIENCE).await;
            continue;
        };
        let status = status.borrow().clone().with_tasks(&pulse.hung());
        let text = serde_json::to_vec(&status).unwrap_or_default();
        if !matches!(timeout(PATIENCE, stream.write_all(&text)).await, Ok(Ok(()))) {
            debug!("a reader of the status went away");
        }
    }
}

/// Asks a running agent.
pub fn ask(path: &Path) -> io::Result<Status> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE * 2))?;
    let mut text = Vec::new();
    stream.take(MOST).read_to_end(&mut text)?;
    serde_json::from_slice(&text).map_err(io::Error::other)
}
