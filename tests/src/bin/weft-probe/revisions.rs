//! Writes many etcd keys, each in a revision of its own, over a few connections: a client program
//! for each would take minutes, and one write after the other would take longer than leases live.
//! It speaks etcd's JSON over HTTP.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddrV4, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Writes that are under way at the same time: etcd brings those to its disk together.
const WRITERS: u32 = 16;
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Puts `key` and `value` `count` times; `%` in either stands for a number that goes round below
/// `modulus`.
pub(crate) fn write(
    to: SocketAddrV4,
    key: &str,
    value: &str,
    count: u32,
    modulus: u32,
) -> Result<()> {
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|first| {
                let numbers = (first..count).step_by(WRITERS as usize);
                scope.spawn(move || one_by_one(to, key, value, numbers, modulus))
            })
            .collect();
        writers.into_iter().try_for_each(|writer| {
            let written = writer.join();
            written.unwrap_or_else(|_panic| Err(anyhow!("a writer panicked")))
        })
    })
}

fn one_by_one(
    to: SocketAddrV4,
    key: &str,
    value: &str,
    numbers: impl Iterator<Item = u32>,
    modulus: u32,
) -> Result<()> {
    let stream = TcpStream::connect(to).with_context(|| format!("connect to {to}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let mut out = stream.try_clone()?;
    let mut answers = BufReader::new(stream);
    for number in numbers {
        let number = (number % modulus.max(1)).to_string();
        let text = |of: &str| base64(of.replace('%', &number).as_bytes());
        let body = format!(r#"{{"key":"{}","value":"{}"}}"#, text(key), text(value));
        let length = body.len();
        write!(
            out,
            "POST /v3/kv/put HTTP/1.1\r\nHost: {to}\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .context("ask")?;
        answer(&mut answers).with_context(|| format!("write {number}"))?;
    }
    Ok(())
}

/// Reads an answer that is a success, and gives its body.
pub(crate) fn answer(from: &mut BufReader<TcpStream>) -> Result<Vec<u8>> {
    let mut status = String::new();
    from.read_line(&mut status).context("read the status")?;
    ensure!(status.contains(" 200 "), "{status}");
    let (mut length, mut chunked) = (0, false);
    loop {
        let mut line = String::new();
        from.read_line(&mut line).context("read a header")?;
        if line.trim().is_empty() {
            break;
        }
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().context("the length")?;
        }
        chunked |= name.eq_ignore_ascii_case("transfer-encoding");
    }
    if chunked {
        return chunks(from);
    }
    let mut body = vec![0_u8; length];
    from.read_exact(&mut body).context("read the answer")?;
    Ok(body)
}

/// A long answer: pieces with their length in front, the last of which is empty.
fn chunks(from: &mut BufReader<TcpStream>) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        from.read_line(&mut line).context("read a length")?;
        let length = u64::from_str_radix(line.trim(), 16).with_context(|| line.clone())?;
        let before = body.len();
        // With the end of the line behind it.
        from.by_ref().take(length + 2).read_to_end(&mut body)?;
        ensure!(body.ends_with(b"\r\n"), "the answer breaks off");
        body.truncate(body.len() - 2);
        if body.len() == before {
            return Ok(body);
        }
    }
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut three = [0_u8; 3];
        for (to, from) in three.iter_mut().zip(chunk) {
            *to = *from;
        }
        let [a, b, c] = three.map(u32::from);
        let bits = a << 16 | b << 8 | c;
        for position in 0..4 {
            let six = usize::try_from(bits >> (18 - 6 * position) & 63).unwrap_or_default();
            let letter = LETTERS.get(six).copied().map_or('=', char::from);
            text.push(if position <= chunk.len() { letter } else { '=' });
        }
    }
    text
}
