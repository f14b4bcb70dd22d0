//! A client that is told by lines what to run: it stands in its namespace before the first slice
//! and stays until the last.

use std::{
    io::{BufRead as _, Write as _, stdin, stdout},
    net::SocketAddr,
};

use anyhow::{Context as _, Result};

use crate::{client::Client, slice::Slice};

/// One slice a line in, one sample a line out. Ends with its input.
pub fn work(to: SocketAddr) -> Result<()> {
    let mut client = Client::connect(to)?;
    let mut out = stdout().lock();
    writeln!(out, "connected")?;
    out.flush()?;
    for line in stdin().lock().lines() {
        let slice: Slice = serde_json::from_str(&line?).context("a slice")?;
        writeln!(out, "{}", serde_json::to_string(&client.run(slice)?)?)?;
        out.flush()?;
    }
    Ok(())
}
