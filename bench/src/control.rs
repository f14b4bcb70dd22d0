//! Lines of JSON between client and server beside the load.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::slice::Slice;

/// The other side is slower than any slice when it takes longer.
const PATIENCE: Duration = Duration::from_secs(30);
/// No line of ours is longer.
const MOST: u64 = 64 << 10;

/// From the client.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Get ready.
    Prepare(Slice),
    /// The client has ended.
    Done,
    /// Where is your end inside the overlay?
    Overlay,
}

/// From the server.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// These ports wait for the load, one for each pair or one for all.
    Ready(Vec<u16>),
    /// What arrived, in how many nanoseconds, and the machine's CPU time meanwhile.
    Outcome { count: u64, nanos: u64, busy: f64 },
    /// There, if anywhere.
    Overlay(Option<IpAddr>),
    /// It cannot be done.
    Refused(String),
}

/// One end of the control connection.
pub(crate) struct Control {
    reader: BufReader<TcpStream>,
}

impl Control {
    pub(crate) fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            reader: BufReader::new(stream),
        })
    }

    pub(crate) fn send(&mut self, message: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let stream = self.reader.get_mut();
        stream.write_all(&line).context("write to the other side")
    }

    /// As [`Self::receive`], for as long as the other side thinks.
    pub(crate) fn wait<T: DeserializeOwned>(&mut self) -> Result<T> {
        self.reader.get_ref().set_read_timeout(None)?;
        let answer = self.receive();
        self.reader.get_ref().set_read_timeout(Some(PATIENCE))?;
        answer
    }

    pub(crate) fn receive<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        let mut limited = std::io::Read::take(&mut self.reader, MOST);
        limited
            .read_line(&mut line)
            .context("read from the other side")?;
        ensure!(!line.is_empty(), "the other side has hung up");
        serde_json::from_str(&line).context("the other side is no server of `weft bench`")
    }
}
