//! What travels beside a frame: how to cut an aggregate, and where a checksum is still to be
//! computed. As words in front of the frame's line, and as the header that a packet socket reads.

use std::{fmt, str::FromStr};

use anyhow::{Context as _, Result, bail};

use super::Frame;

/// Bytes of `struct virtio_net_hdr`.
pub const VNET_LEN: usize = 10;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CSUM: u8 = 1;

/// Kinds of aggregates, by their number in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregate {
    Tcp4 = 1,
    Tcp6 = 4,
    /// Several datagrams of one flow (`UDP_SEGMENT`).
    Udp = 5,
}

/// From where to sum, and where behind that the result belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partial {
    pub start: u16,
    pub offset: u16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The kind and each segment's payload.
    pub aggregate: Option<(Aggregate, u16)>,
    pub partial: Option<Partial>,
    /// Bytes of all headers: what the kernel keeps in one piece.
    pub header: u16,
}

impl Offload {
    /// As a packet socket with `PACKET_VNET_HDR` reads it.
    pub fn vnet(&self) -> [u8; VNET_LEN] {
        let (kind, size) = self
            .aggregate
            .map_or((0, 0), |(kind, size)| (kind as u8, size));
        let partial = self.partial.unwrap_or(Partial {
            start: 0,
            offset: 0,
        });
        let flags = if self.partial.is_some() {
            NEEDS_CSUM
        } else {
            0
        };
        let [a, b] = self.header.to_ne_bytes();
        let [c, d] = size.to_ne_bytes();
        let [e, f] = partial.start.to_ne_bytes();
        let [g, h] = partial.offset.to_ne_bytes();
        [flags, kind, a, b, c, d, e, f, g, h]
    }

    /// What such a header says.
    pub fn of_vnet(header: &[u8; VNET_LEN]) -> Self {
        let [flags, kind, a, b, c, d, e, f, g, h] = *header;
        let kind = [Aggregate::Tcp4, Aggregate::Tcp6, Aggregate::Udp]
            .into_iter()
            // The highest bit says that a TCP segment has its congestion mark.
            .find(|known| *known as u8 == kind & 0x7f);
        let partial = Partial {
            start: u16::from_ne_bytes([e, f]),
            offset: u16::from_ne_bytes([g, h]),
        };
        Self {
            aggregate: kind.map(|kind| (kind, u16::from_ne_bytes([c, d]))),
            partial: (flags & NEEDS_CSUM != 0).then_some(partial),
            header: u16::from_ne_bytes([a, b]),
        }
    }

    fn add(&mut self, word: &str) -> Result<()> {
        match word.split_once('=') {
            Some(("gso", value)) => {
                let (kind, size) = value.split_once(':').context("gso=KIND:SIZE")?;
                self.aggregate = Some((kind.parse()?, size.parse().context("size of a segment")?));
            }
            Some(("csum", value)) => {
                let (start, offset) = value.split_once('+').context("csum=START+OFFSET")?;
                self.partial = Some(Partial {
                    start: start.parse().context("start of a checksum")?,
                    offset: offset.parse().context("offset of a checksum")?,
                });
            }
            Some(("header", value)) => self.header = value.parse().context("length of headers")?,
            _ => bail!("{word:?} is none of gso=KIND:SIZE, csum=START+OFFSET, header=LENGTH"),
        }
        Ok(())
    }
}

/// The words in front of the frame, each with a blank behind it.
impl fmt::Display for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((kind, size)) = self.aggregate {
            write!(f, "gso={kind}:{size} ")?;
        }
        if let Some(Partial { start, offset }) = self.partial {
            write!(f, "csum={start}+{offset} ")?;
        }
        if self.header > 0 {
            write!(f, "header={} ", self.header)?;
        }
        Ok(())
    }
}

impl fmt::Display for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp4 => "tcp4",
            Self::Tcp6 => "tcp6",
            Self::Udp => "udp",
        })
    }
}

impl FromStr for Aggregate {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "tcp4" => Self::Tcp4,
            "tcp6" => Self::Tcp6,
            "udp" => Self::Udp,
            _ => bail!("{text:?} is no kind of aggregate: tcp4, tcp6, udp"),
        })
    }
}

/// A frame from its line: words, then hexadecimal.
pub fn parse_line(line: &str) -> Result<Frame> {
    let (words, hex) = line.trim().rsplit_once(' ').unwrap_or(("", line.trim()));
    let mut offload = Offload::default();
    for word in words.split_whitespace() {
        offload.add(word)?;
    }
    let pairs = hex.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<_> = pairs.map(byte).collect();
    Ok(Frame {
        bytes: bytes.context("a frame is pairs of hexadecimal digits")?,
        offload,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read() {
        let frame = parse_line("gso=udp:1400 csum=34+6 header=42 00ff\n").unwrap();
        assert_eq!(frame.bytes, [0, 255]);
        assert_eq!(frame.offload.aggregate, Some((Aggregate::Udp, 1400)));
        assert_eq!(
            frame.offload.to_string(),
            "gso=udp:1400 csum=34+6 header=42 "
        );
        assert_eq!(frame.offload.vnet()[..2], [1, 5]);
        assert_eq!(Offload::of_vnet(&frame.offload.vnet()), frame.offload);
        assert_eq!(parse_line("0102").unwrap().offload, Offload::default());
        for wrong in ["gso=udp 00", "mtu=3 00", "gso=sctp:1 00", "0x"] {
            assert!(parse_line(wrong).is_err(), "{wrong}");
        }
    }
}
