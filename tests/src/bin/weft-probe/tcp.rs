//! Transfers over TCP whose content is hashed at both ends, and a line echo.

use std::{
    io::{self, BufRead as _, BufReader, Read, Seek as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream},
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
use weft_tests::report::{Tcp, TcpSink};

use crate::{
    TcpOptions,
    hash::{Content, Hash},
    input, sys,
};

const BLOCK: usize = 64 * 1024;
const PATIENCE: Duration = Duration::from_secs(60);
/// The sink keeps a connection open for so long after its answer: what it says of segments that it
/// had already may come later, and a closed socket does not count that.
const LINGER: Duration = Duration::from_millis(300);

/// Serves until killed, one thread a connection.
pub(crate) fn sink(bind: SocketAddrV4) -> Result<()> {
    serve(bind, |mut stream| {
        let mut hash = Hash::new();
        let mut bytes = 0;
        let mut block = vec![0_u8; BLOCK];
        loop {
            let size = fill(&mut stream, &mut block)?;
            hash.add(block.get(..size).unwrap_or_default());
            bytes += size as u64;
            if size < BLOCK {
                break;
            }
        }
        let answer = serde_json::to_string(&TcpSink {
            bytes,
            hash: hash.value(),
        })?;
        writeln!(stream, "{answer}").context("answer the sender")?;
        thread::sleep(LINGER);
        Ok(())
    })
}

pub(crate) fn send(options: &TcpOptions) -> Result<Tcp> {
    let mut stream = connect_to(options.to)?;
    let mut content = Content::new();
    let mut hash = Hash::new();
    let mut block = vec![0_u8; BLOCK];
    let (mut sent, mut longest) = (0_u64, Duration::ZERO);
    let start = Instant::now();
    let end = options
        .stop_after
        .map(|ms| start + Duration::from_millis(ms));
    if options.sendfile {
        sent = send_file(&mut stream, options.bytes, &mut hash)?;
    }
    let ended = options.until_input_ends.then(input::ended);
    if ended.is_some() {
        println!("running");
    }
    let told = |sent| {
        let ended = ended.as_ref();
        sent >= options.at_least && ended.is_some_and(|end| end.load(Ordering::Relaxed))
    };
    while sent < options.bytes && end.is_none_or(|end| Instant::now() < end) && !told(sent) {
        content.fill(&mut block);
        let left = usize::try_from(options.bytes - sent)
            .unwrap_or(BLOCK)
            .min(BLOCK);
        let piece = block.get(..left).unwrap_or_default();
        if let Some(mbit) = options.pace {
            let due = Duration::from_nanos(sent.saturating_mul(8000) / u64::from(mbit.max(1)));
            thread::sleep(due.saturating_sub(start.elapsed()));
        }
        let before = Instant::now();
        stream
            .write_all(piece)
            .with_context(|| format!("write after {sent} bytes"))?;
        longest = longest.max(before.elapsed());
        hash.add(piece);
        sent += piece.len() as u64;
    }
    stream.shutdown(Shutdown::Write).context("end the stream")?;
    let mut answer = String::new();
    BufReader::new(&stream)
        .read_line(&mut answer)
        .context("read the sink's answer")?;
    let sink: TcpSink = serde_json::from_str(&answer).context("parse the sink's answer")?;
    let took = start.elapsed();
    let again = sent_again(&stream)?;
    Ok(Tcp {
        sent,
        received: sink.bytes,
        equal: sink.hash == hash.value(),
        retransmits: again.all,
        needless: again.needless,
        milliseconds: millis(took),
        longest_stall_ms: millis(longest),
    })
}

/// What was sent again, once the other end has said of all of it that it was needless, or has had
/// the time to.
fn sent_again(stream: &TcpStream) -> Result<sys::SentAgain> {
    let until = Instant::now() + LINGER / 2;
    loop {
        let again = sys::sent_again(stream).context("read TCP_INFO")?;
        if again.all <= again.needless || Instant::now() >= until {
            return Ok(again);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Hands a file's pages to the socket: the segments' data lies in pieces of memory elsewhere.
fn send_file(stream: &mut TcpStream, bytes: u64, hash: &mut Hash) -> Result<u64> {
    let mut file = tempfile::tempfile().context("make a file")?;
    let mut content = Content::new();
    let mut block = vec![0_u8; BLOCK];
    let mut written = 0;
    while written < bytes {
        content.fill(&mut block);
        let left = usize::try_from(bytes - written).unwrap_or(BLOCK).min(BLOCK);
        let piece = block.get(..left).unwrap_or_default();
        file.write_all(piece).context("write the file")?;
        hash.add(piece);
        written += piece.len() as u64;
    }
    file.rewind().context("rewind the file")?;
    // From a file to a socket this is sendfile(2).
    io::copy(&mut file, stream).context("send the file")
}

pub(crate) fn echo(bind: SocketAddrV4) -> Result<()> {
    serve(bind, |mut stream| {
        let peer = stream.peer_addr().context("name the peer")?;
        for line in BufReader::new(stream.try_clone()?).lines() {
            writeln!(
                stream,
                "{} from {}",
                line.context("read a line")?,
                peer.ip()
            )?;
        }
        Ok(())
    })
}

/// Who closes first keeps the connection in TIME_WAIT: here it is the server.
pub(crate) fn brief(bind: SocketAddrV4) -> Result<()> {
    serve(bind, |mut stream| {
        let mut line = String::new();
        BufReader::new(stream.try_clone()?)
            .read_line(&mut line)
            .context("read a line")?;
        stream
            .write_all(line.as_bytes())
            .context("answer the client")?;
        stream.shutdown(Shutdown::Both).context("close first")
    })
}

/// Prints what the server answers: the line, and whom it saw.
pub(crate) fn ask(from: Ipv4Addr, to: SocketAddrV4) -> Result<()> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    bind(
        std::os::fd::AsRawFd::as_raw_fd(&socket),
        &SockaddrIn::from(SocketAddrV4::new(from, 0)),
    )
    .with_context(|| format!("bind {from}"))?;
    connect(
        std::os::fd::AsRawFd::as_raw_fd(&socket),
        &SockaddrIn::from(to),
    )
    .with_context(|| format!("connect to {to}"))?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    writeln!(stream, "weft").context("ask")?;
    let mut answer = String::new();
    BufReader::new(&stream)
        .read_line(&mut answer)
        .context("read the answer")?;
    ensure!(answer.starts_with("weft from "), "not an echo: {answer:?}");
    println!("{}", answer.trim());
    Ok(())
}

fn serve(bind: SocketAddrV4, handle: fn(TcpStream) -> Result<()>) -> Result<()> {
    let listener = TcpListener::bind(bind).with_context(|| format!("listen on {bind}"))?;
    println!("listening");
    for stream in listener.incoming() {
        let stream = stream.context("accept")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        thread::spawn(move || {
            if let Err(error) = handle(stream) {
                eprintln!("weft-probe: {error:#}");
            }
        });
    }
    Ok(())
}

fn connect_to(to: SocketAddrV4) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to.into(), Duration::from_secs(5))
        .with_context(|| format!("connect to {to}"))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Reads until the block is full or the stream ends.
fn fill(from: &mut impl Read, block: &mut [u8]) -> Result<usize> {
    let mut size = 0;
    while let Some(rest) = block.get_mut(size..).filter(|rest| !rest.is_empty()) {
        match from.read(rest).context("read")? {
            0 => break,
            more => size += more,
        }
    }
    Ok(size)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
