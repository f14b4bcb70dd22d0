//! TCP streams, as fast as they go, in either direction.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Shutdown, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{CONNECT, Crew, Start, Tally, client, nanos, port, server};
use crate::slice::Cores;

const BUFFER: usize = 256 << 10;

/// The server's end: it takes what comes, or sends for as long as it is told.
pub(crate) fn host(
    at: IpAddr,
    streams: u16,
    reverse: bool,
    cores: Cores,
    length: Duration,
) -> Result<(Vec<u16>, Crew)> {
    let listener = TcpListener::bind((at, 0)).context("listen")?;
    let own = listener.local_addr()?.port();
    let mut crew = Crew::new();
    for index in 0..usize::from(streams) {
        let listener = listener.try_clone()?;
        crew.push(server(cores, index, move || {
            let (stream, _) = listener.accept().context("accept")?;
            stream.set_read_timeout(Some(CONNECT))?;
            if reverse {
                // The client says when: it waits for all its streams.
                let mut byte = [0];
                (&stream)
                    .read_exact(&mut byte)
                    .context("wait for the start")?;
                let began = Instant::now();
                send(&stream, began + length)
            } else {
                drain(&stream, None)
            }
        }));
    }
    Ok((vec![own], crew))
}

/// The client's end.
pub(crate) fn guest(
    to: IpAddr,
    ports: &[u16],
    streams: u16,
    reverse: bool,
    cores: Cores,
    start: &Start,
) -> Result<Crew> {
    let mut crew = Crew::new();
    for index in 0..usize::from(streams) {
        let target = (to, port(ports, index)?).into();
        let stream = TcpStream::connect_timeout(&target, CONNECT)
            .with_context(|| format!("connect to {target}"))?;
        stream.set_read_timeout(Some(CONNECT))?;
        let start = start.clone();
        crew.push(client(cores, index, move || {
            let (began, end) = start.together();
            if reverse {
                (&stream).write_all(&[7]).context("start the other side")?;
                drain(&stream, Some(began))
            } else {
                send(&stream, end)
            }
        }));
    }
    Ok(crew)
}

fn send(mut stream: &TcpStream, end: Instant) -> Result<Tally> {
    let buffer = vec![7; BUFFER];
    let mut tally = Tally::default();
    while Instant::now() < end {
        let sent = stream.write(&buffer).context("send")?;
        tally.sent += u64::try_from(sent)?;
    }
    stream.shutdown(Shutdown::Write).context("end a stream")?;
    Ok(tally)
}

/// Counts what comes until the other end is done.
fn drain(mut stream: &TcpStream, began: Option<Instant>) -> Result<Tally> {
    let mut buffer = vec![0; BUFFER];
    let mut tally = Tally::default();
    let mut began = began;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(bytes) => tally.count += u64::try_from(bytes)?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("receive"),
        }
        began.get_or_insert_with(Instant::now);
    }
    if let Some(began) = began {
        tally.nanos = nanos(began.elapsed());
    }
    Ok(tally)
}
