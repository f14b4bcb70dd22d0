//! What is run, and what comes of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// One byte there and one back, on TCP connections that are open already.
    TcpRr {
        /// Connections at once.
        pairs: u16,
    },
    /// The same on UDP sockets.
    UdpRr {
        /// Pairs of sockets at once.
        pairs: u16,
    },
    /// Connect, one byte there and one back, close.
    Crr,
    /// UDP packets one way as fast as they go; what arrives counts.
    Packets {
        /// Bytes of payload.
        size: u16,
    },
    /// TCP streams as fast as they go; what arrives counts.
    Bulk {
        /// Streams at once.
        streams: u16,
        /// From the server to the client.
        reverse: bool,
    },
}

/// On which cores the two ends run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cores {
    /// Wherever the scheduler puts them.
    Any,
    /// Client and server of a pair on this one: nothing is measured but the way.
    Same(usize),
    /// The client here, the server there.
    Apart(usize, usize),
    /// Pair by pair over so many cores, both ends of a pair on one.
    Spread(usize),
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// What is sent.
    pub load: Load,
    /// Where the ends run.
    pub cores: Cores,
    /// For how long, in milliseconds.
    pub millis: u64,
}

/// What one slice gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Transactions, packets that arrived, or bytes that arrived.
    pub count: u64,
    /// Time that it took, in nanoseconds.
    pub nanos: u64,
    /// CPU time of the client's machine meanwhile, in seconds, softirq included.
    pub busy: f64,
    /// The same of the server's machine.
    pub server_busy: f64,
    /// Packets sent, or requests that had no answer.
    pub sent: u64,
    /// Median time of a transaction, in microseconds; zero where there are none.
    pub p50: f64,
    /// Time that one transaction in a hundred exceeds, in microseconds.
    pub p99: f64,
}

impl Load {
    /// Pairs or streams at once.
    #[must_use]
    pub const fn width(self) -> u16 {
        match self {
            Self::TcpRr { pairs } | Self::UdpRr { pairs } => pairs,
            Self::Crr | Self::Packets { .. } => 1,
            Self::Bulk { streams, .. } => streams,
        }
    }
}

impl Cores {
    /// The core of the client of pair `index`.
    #[must_use]
    pub fn client(self, index: usize) -> Option<usize> {
        match self {
            Self::Any => None,
            Self::Same(core) | Self::Apart(core, _) => Some(core),
            Self::Spread(cores) => index.checked_rem(cores),
        }
    }

    /// The core of the server of pair `index`.
    #[must_use]
    pub fn server(self, index: usize) -> Option<usize> {
        match self {
            Self::Any => None,
            Self::Same(core) | Self::Apart(_, core) => Some(core),
            Self::Spread(cores) => index.checked_rem(cores),
        }
    }
}

impl Slice {
    /// How long it runs.
    #[must_use]
    pub const fn length(&self) -> Duration {
        Duration::from_millis(self.millis)
    }
}

impl Sample {
    /// Transactions, packets or bytes per second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "figures of a measurement")]
    pub fn rate(&self) -> f64 {
        if self.nanos == 0 {
            return 0.0;
        }
        self.count as f64 * 1e9 / self.nanos as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_spread() {
        let cores = Cores::Spread(2);
        let placed: Vec<_> = (0..4).map(|pair| cores.client(pair)).collect();
        assert_eq!(placed, [Some(0), Some(1), Some(0), Some(1)]);
        assert_eq!(Cores::Apart(0, 1).server(5), Some(1));
        assert_eq!(Cores::Any.client(0), None);
    }

    #[test]
    fn a_sample_without_time_has_no_rate() {
        assert!(Sample::default().rate() == 0.0);
        let sample = Sample {
            count: 5,
            nanos: 500_000_000,
            ..Sample::default()
        };
        assert!((sample.rate() - 10.0).abs() < 1e-9);
    }
}
