//! `weft bench`: what this host and another can send each other.

use std::{
    io::{self, Write as _},
    net::{IpAddr, SocketAddr, TcpListener},
};

use anyhow::Context as _;
use serde_json::json;
use weft_bench::{
    client::Client,
    server,
    slice::{Cores, Load, Sample, Slice},
    worker,
};

use super::verbs::print;
use crate::cli::{BenchArgs, Output};

/// Names of the measurements, as in the lab's.
const LOADS: &[(&str, Load)] = &[
    ("tcp_rr", Load::TcpRr { pairs: 1 }),
    ("udp_rr", Load::UdpRr { pairs: 1 }),
    ("udp_rr_16", Load::UdpRr { pairs: 16 }),
    ("crr", Load::Crr),
    ("udp_pps", Load::Packets { size: 64 }),
    (
        "bulk",
        Load::Bulk {
            streams: 1,
            reverse: false,
        },
    ),
    (
        "bulk_8",
        Load::Bulk {
            streams: 8,
            reverse: false,
        },
    ),
    (
        "bulk_back",
        Load::Bulk {
            streams: 1,
            reverse: true,
        },
    ),
];

/// `weft bench`.
pub fn bench(args: &BenchArgs) -> anyhow::Result<u8> {
    match args.peer {
        Some(peer) if args.worker => worker::work(SocketAddr::new(peer, args.port))?,
        Some(peer) => measure(peer, args)?,
        None => {
            let at = SocketAddr::new(args.bind, args.port);
            let listener = TcpListener::bind(at).with_context(|| format!("wait at {at}"))?;
            let _ = writeln!(io::stdout(), "listening");
            server::serve(&listener)?;
        }
    }
    Ok(0)
}

fn measure(peer: IpAddr, args: &BenchArgs) -> anyhow::Result<()> {
    let mut client = Client::connect(SocketAddr::new(peer, args.port))?;
    let mut found = Vec::new();
    for (name, load) in LOADS {
        let slice = Slice {
            load: *load,
            cores: Cores::Any,
            millis: args.millis,
        };
        let sample = client.run(slice).with_context(|| (*name).to_owned())?;
        if args.output == Output::Text {
            print(&line(name, *load, &sample))?;
        }
        found.push((*name, sample));
    }
    if args.output == Output::Json {
        let all: serde_json::Map<_, _> = found
            .into_iter()
            .map(|(name, sample)| (name.to_owned(), json!(sample)))
            .collect();
        print(&serde_json::to_string_pretty(
            &json!({ "schema": "weft/bench-pair/v1", "samples": all }),
        )?)?;
    }
    Ok(())
}

fn line(name: &str, load: Load, sample: &Sample) -> String {
    let rate = sample.rate();
    let Sample { p50, p99, .. } = sample;
    match load {
        Load::TcpRr { .. } | Load::UdpRr { .. } | Load::Crr => {
            format!("{name:<10} {rate:>10.0} /s   median {p50:.1} us, 99 % below {p99:.1} us")
        }
        Load::Packets { .. } => format!("{name:<10} {rate:>10.0} packets/s arrive"),
        Load::Bulk { .. } => format!("{name:<10} {:>10.2} Gbit/s", rate * 8.0 / 1e9),
    }
}
