//! `weft bench`: what this host and another can send each other, over the overlay and beside it.

mod place;

use std::{
    io::{self, Write as _},
    net::{IpAddr, SocketAddr, TcpListener},
    sync::mpsc,
};

use anyhow::{Context as _, anyhow};
use serde_json::json;
use weft_bench::{
    client::Client,
    server,
    slice::{Cores, Load, Sample, Slice},
    worker,
};

use super::verbs::print;
use crate::{
    cli::{BenchArgs, Output},
    netlink::guest,
};

/// Names of the measurements, as in the lab's.
const LOADS: &[(&str, Load)] = &[
    ("tcp_rr", Load::TcpRr { pairs: 1 }),
    ("udp_rr", Load::UdpRr { pairs: 1 }),
    ("udp_rr_16", Load::UdpRr { pairs: 16 }),
    ("crr", Load::Crr),
    ("udp_pps", Load::Packets { size: 64 }),
    ("bulk", bulk(1, false)),
    ("bulk_back", bulk(1, true)),
    ("bulk_8", bulk(8, false)),
];

const fn bulk(streams: u16, reverse: bool) -> Load {
    Load::Bulk { streams, reverse }
}

/// `weft bench`.
pub fn bench(args: &BenchArgs) -> anyhow::Result<u8> {
    match args.peer {
        Some(peer) if args.worker => worker::work(SocketAddr::new(peer, args.port))?,
        Some(peer) => measure(peer, args)?,
        None => serve(args)?,
    }
    Ok(0)
}

fn serve(args: &BenchArgs) -> anyhow::Result<()> {
    let listen = |address| {
        let at = SocketAddr::new(address, args.port);
        TcpListener::bind(at).with_context(|| format!("wait at {at}"))
    };
    let listener = listen(args.bind)?;
    let overlay = if args.host_only {
        None
    } else {
        let place = place::find(&args.subnet_file)?;
        let address = IpAddr::V4(place.address.addr());
        let port = args.port;
        let (tell, ready) = mpsc::channel();
        let guest = guest::inside(place, move || {
            let at = SocketAddr::new(address, port);
            let listener = TcpListener::bind(at).with_context(|| format!("wait at {at}"))?;
            tell.send(())
                .map_err(|_gone| anyhow!("the server has ended"))?;
            server::serve(&listener, None)
        })?;
        if ready.recv().is_err() {
            guest
                .join()
                .map_err(|_panic| anyhow!("the container panicked"))??;
        }
        Some(address)
    };
    let _ = writeln!(io::stdout(), "listening");
    server::serve(&listener, overlay)
}

/// One way to the other host, with what was measured on it.
struct Way {
    client: Client,
    found: Vec<(&'static str, Vec<Sample>)>,
}

impl Way {
    fn new(to: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self {
            client: Client::connect(to)?,
            found: LOADS.iter().map(|(name, _)| (*name, Vec::new())).collect(),
        })
    }

    fn run(&mut self, number: usize, load: Load, millis: u64) -> anyhow::Result<()> {
        let slice = Slice {
            load,
            cores: Cores::Any,
            millis,
        };
        if let Some((name, samples)) = self.found.get_mut(number) {
            let sample = self.client.run(slice);
            samples.push(sample.with_context(|| (*name).to_owned())?);
        }
        Ok(())
    }

    /// The sample whose rate is the middle one.
    fn middle(&self, number: usize) -> Option<Sample> {
        let (_, samples) = self.found.get(number)?;
        let mut sorted = samples.clone();
        sorted.sort_by(|a, b| a.rate().total_cmp(&b.rate()));
        sorted.get(sorted.len() / 2).copied()
    }
}

/// Rounds of every measurement, over the overlay and beside it in turn.
fn measure(peer: IpAddr, args: &BenchArgs) -> anyhow::Result<()> {
    let mut beside = Way::new(SocketAddr::new(peer, args.port))?;
    let inside = if args.host_only {
        None
    } else {
        beside.client.overlay()?
    };
    let Some(inside) = inside else {
        rounds(&mut [&mut beside], args)?;
        return show(&[("host", &beside)], args.output);
    };
    let place = place::find(&args.subnet_file)?;
    let all = args.clone();
    let guest = guest::inside(place, move || {
        let mut overlay = Way::new(SocketAddr::new(inside, all.port))?;
        rounds(&mut [&mut beside, &mut overlay], &all)?;
        show(&[("host", &beside), ("overlay", &overlay)], all.output)
    })?;
    guest
        .join()
        .map_err(|_panic| anyhow!("the container panicked"))?
}

fn rounds(ways: &mut [&mut Way], args: &BenchArgs) -> anyhow::Result<()> {
    for _ in 0..args.rounds {
        for (number, (_, load)) in LOADS.iter().enumerate() {
            for way in &mut *ways {
                way.run(number, *load, args.millis)?;
            }
        }
    }
    Ok(())
}

fn show(ways: &[(&str, &Way)], output: Output) -> anyhow::Result<()> {
    let mut lines = Vec::new();
    let mut all = serde_json::Map::new();
    for (number, (name, load)) in LOADS.iter().enumerate() {
        let mut line = format!("{name:<10}");
        let mut of = serde_json::Map::new();
        let mut rates = Vec::new();
        for (way, found) in ways {
            let Some(sample) = found.middle(number) else {
                continue;
            };
            line.push_str(&format!("{:>28}", cell(way, *load, &sample)));
            rates.push(sample.rate());
            of.insert((*way).to_owned(), json!(sample));
        }
        if let [host, overlay] = rates[..]
            && host > 0.0
        {
            line.push_str(&format!("   overlay/host {:.2}", overlay / host));
            of.insert("overlay/host".to_owned(), json!(overlay / host));
        }
        lines.push(line);
        all.insert((*name).to_owned(), of.into());
    }
    let text = match output {
        Output::Text => lines.join("\n"),
        Output::Json => serde_json::to_string_pretty(
            &json!({ "schema": "weft/bench-pair/v1", "samples": all }),
        )?,
    };
    print(&text).map_err(Into::into)
}

fn cell(way: &str, load: Load, sample: &Sample) -> String {
    let rate = sample.rate();
    match load {
        Load::TcpRr { .. } | Load::UdpRr { .. } | Load::Crr => {
            format!("{way} {:.1} k/s", rate / 1e3)
        }
        Load::Packets { .. } => format!("{way} {:.0} k packets/s", rate / 1e3),
        Load::Bulk { .. } => format!("{way} {:.2} Gbit/s", rate * 8.0 / 1e9),
    }
}
