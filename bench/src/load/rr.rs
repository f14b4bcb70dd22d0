//! Request and response: one byte each way, on open connections, on UDP, or on a new connection
//! each time.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{CONNECT, Crew, LOOK, Over, Start, Tally, any, client, is_over, nanos, port, server};
use crate::slice::Cores;

/// A request that is not answered by then is lost; the next one follows.
const LOST: Duration = Duration::from_millis(200);
/// Connections close at the client, which keeps their port for a minute: more listeners, more room.
const LISTENERS: usize = 8;

/// The server's end of open TCP connections.
pub(crate) fn tcp_server(at: IpAddr, pairs: u16, cores: Cores) -> Result<(Vec<u16>, Crew)> {
    let listener = TcpListener::bind((at, 0)).context("listen")?;
    let own = listener.local_addr()?.port();
    let mut crew = Crew::new();
    for index in 0..usize::from(pairs) {
        let listener = listener.try_clone()?;
        crew.push(server(cores, index, move || {
            let (mut stream, _) = listener.accept().context("accept")?;
            stream.set_nodelay(true)?;
            let mut byte = [0];
            while matches!(stream.read(&mut byte), Ok(1)) {
                if stream.write_all(&byte).is_err() {
                    break;
                }
            }
            Ok(Tally::default())
        }));
    }
    Ok((vec![own], crew))
}

/// The client's end.
pub(crate) fn tcp_client(
    to: IpAddr,
    ports: &[u16],
    pairs: u16,
    cores: Cores,
    start: &Start,
) -> Result<Crew> {
    let mut crew = Crew::new();
    for index in 0..usize::from(pairs) {
        let mut stream = connect((to, port(ports, index)?).into())?;
        let start = start.clone();
        crew.push(client(cores, index, move || {
            transact(&start, || {
                let mut byte = [7];
                stream.write_all(&byte)?;
                stream.read_exact(&mut byte)
            })
        }));
    }
    Ok(crew)
}

/// The server's end of UDP pairs.
pub(crate) fn udp_server(
    at: IpAddr,
    pairs: u16,
    cores: Cores,
    over: &Over,
) -> Result<(Vec<u16>, Crew)> {
    let mut ports = Vec::new();
    let mut crew = Crew::new();
    for index in 0..usize::from(pairs) {
        let socket = UdpSocket::bind((at, 0)).context("bind")?;
        socket.set_read_timeout(Some(LOOK))?;
        ports.push(socket.local_addr()?.port());
        let over = Over::clone(over);
        crew.push(server(cores, index, move || {
            let mut byte = [0];
            // Connected after the first packet: the answer's way is then known to the socket.
            while !is_over(&over) {
                if let Ok((_, from)) = socket.recv_from(&mut byte) {
                    socket.connect(from)?;
                    let _ = socket.send(&byte);
                    break;
                }
            }
            while !is_over(&over) {
                if socket.recv(&mut byte).is_ok() {
                    let _ = socket.send(&byte);
                }
            }
            Ok(Tally::default())
        }));
    }
    Ok((ports, crew))
}

/// The client's end.
pub(crate) fn udp_client(
    to: IpAddr,
    ports: &[u16],
    pairs: u16,
    cores: Cores,
    start: &Start,
) -> Result<Crew> {
    let mut crew = Crew::new();
    for index in 0..usize::from(pairs) {
        let socket = UdpSocket::bind((any(to), 0)).context("bind")?;
        socket.connect((to, port(ports, index)?))?;
        socket.set_read_timeout(Some(LOST))?;
        let start = start.clone();
        crew.push(client(cores, index, move || {
            transact(&start, || {
                let mut byte = [7];
                socket.send(&byte)?;
                socket.recv(&mut byte).map(drop)
            })
        }));
    }
    Ok(crew)
}

/// The server's end of connections that live for one transaction.
pub(crate) fn crr_server(at: IpAddr, cores: Cores, over: &Over) -> Result<(Vec<u16>, Crew)> {
    let mut ports = Vec::new();
    let mut listeners = Vec::new();
    for _ in 0..LISTENERS {
        let listener = TcpListener::bind((at, 0)).context("listen")?;
        ports.push(listener.local_addr()?.port());
        listeners.push(listener);
    }
    let over = Over::clone(over);
    // One listener after the other, as the client does.
    let thread = server(cores, 0, move || {
        for listener in listeners.iter().cycle() {
            let (mut stream, _) = listener.accept().context("accept")?;
            if is_over(&over) {
                break;
            }
            let mut byte = [0];
            if matches!(stream.read(&mut byte), Ok(1)) {
                let _ = stream.write_all(&byte);
                // The client closes first.
                let _ = stream.read(&mut byte);
            }
        }
        Ok(Tally::default())
    });
    Ok((ports, vec![thread]))
}

/// The client's end.
pub(crate) fn crr_client(to: IpAddr, ports: &[u16], cores: Cores, start: &Start) -> Crew {
    let targets: Vec<SocketAddr> = ports.iter().map(|port| (to, *port).into()).collect();
    let start = start.clone();
    vec![client(cores, 0, move || {
        let mut next = targets.iter().cycle();
        transact(&start, || {
            let Some(target) = next.next() else {
                return Err(ErrorKind::AddrNotAvailable.into());
            };
            let mut stream = TcpStream::connect(target)?;
            let mut byte = [7];
            stream.write_all(&byte)?;
            stream.read_exact(&mut byte)
        })
    })]
}

/// Lets our own end, which waits for a connection, see that the slice is over.
pub(crate) fn crr_wake(to: IpAddr, ports: &[u16]) {
    for port in ports {
        drop(TcpStream::connect_timeout(&(to, *port).into(), LOST));
    }
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream =
        TcpStream::connect_timeout(&to, CONNECT).with_context(|| format!("connect to {to}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(CONNECT))?;
    Ok(stream)
}

/// One transaction after the other until the slice is over.
fn transact(start: &Start, mut once: impl FnMut() -> io::Result<()>) -> Result<Tally> {
    let mut tally = Tally::default();
    let (began, end) = start.together();
    let mut last = began;
    while last < end {
        let answer = once();
        let now = Instant::now();
        match answer {
            Ok(()) => {
                tally.count += 1;
                let time = nanos(now - last);
                tally.times.push(u32::try_from(time).unwrap_or(u32::MAX));
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                tally.sent += 1;
            }
            Err(error) => return Err(error).context("a transaction"),
        }
        last = now;
    }
    tally.nanos = nanos(last - began);
    Ok(tally)
}
