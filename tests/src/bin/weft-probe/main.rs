//! `weft-probe`: the measuring programs that run inside a container's namespace.
//! Each prints one line of JSON, or frames in hexadecimal, and nothing else.

mod ask;
mod brief;
mod capture;
mod datagrams;
mod frames;
mod gateway;
mod hash;
mod hooks;
mod input;
mod many;
mod ping;
mod relay;
mod revisions;
mod sys;
mod tcp;
mod transact;
mod udp;

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Args, Parser};
use serde::Serialize;

#[derive(Debug, Parser)]
#[command(name = "weft-probe")]
enum Cli {
    /// Send and receive numbered packets on one socket.
    Udp(UdpOptions),
    /// Send back every datagram to whom it came from.
    UdpEcho {
        bind: SocketAddrV4,
        /// Bytes that an answer has at least.
        #[arg(long, default_value_t = 0)]
        least: usize,
    },
    /// Ask an echo server, one question after the other.
    UdpAsk(AskOptions),
    /// Print what comes: the source and the content, a datagram a line.
    UdpListen { bind: SocketAddrV4 },
    /// Send one datagram.
    UdpSay {
        bind: SocketAddrV4,
        to: SocketAddrV4,
        text: String,
    },
    /// Accept connections: hash what comes and answer with the hash.
    TcpSink { bind: SocketAddrV4 },
    /// Send hashed content to a sink.
    TcpSend(TcpOptions),
    /// Accept connections and send back what comes, line by line.
    TcpEcho { bind: SocketAddrV4 },
    /// Send one line to an echo server and expect it back.
    TcpAsk { bind: Ipv4Addr, to: SocketAddrV4 },
    /// Accept connections, answer one line, and close before the client does.
    TcpBrief { bind: SocketAddrV4 },
    /// Talk to such a server again and again from one port.
    TcpReuse {
        bind: SocketAddrV4,
        to: SocketAddrV4,
        count: u32,
    },
    /// Hold many connections to an echo server; obeys "open NUMBER" and "round" on standard input.
    TcpMany { bind: Ipv4Addr, to: SocketAddrV4 },
    /// The same with UDP, from one port upwards.
    UdpMany {
        bind: SocketAddrV4,
        to: SocketAddrV4,
    },
    /// Echo requests with a chosen size, TTL and DF.
    Ping(PingOptions),
    /// Print the frames of one interface until killed.
    Capture { interface: String },
    /// Hash the datagrams that come.
    DatagramSink {
        bind: SocketAddrV4,
        #[arg(long)]
        count: u64,
    },
    /// Send several datagrams in each call.
    Datagrams(DatagramOptions),
    /// List the programs that hang at the devices by TCX.
    Hooks { devices: Vec<String> },
    /// Write to etcd, one revision after the other; `%` in key and value is a number.
    Revisions {
        to: SocketAddrV4,
        key: String,
        value: String,
        #[arg(long)]
        count: u32,
        /// The number goes round below this one.
        #[arg(long)]
        modulus: u32,
    },
    /// Write to etcd what standard input says, in transactions at the same time.
    Transact { to: SocketAddrV4 },
    /// Forward TCP, late, and cut when told to.
    Relay(RelayOptions),
    /// Send frames given on standard input, each line or batch of lines as it is.
    Frames(FramesOptions),
}

#[derive(Debug, Args)]
struct UdpOptions {
    #[arg(long)]
    bind: SocketAddrV4,
    #[arg(long)]
    to: SocketAddrV4,
    /// Packets per second.
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    #[arg(long, default_value_t = 1000)]
    count: u64,
    /// Bytes of payload.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// How long to wait for the other side to appear.
    #[arg(long, default_value_t = 10)]
    patience: u64,
    /// Never in fragments: the path's MTU is obeyed once it is known.
    #[arg(long)]
    df: bool,
    /// Instead of a count: until standard input ends.
    #[arg(long)]
    until_input_ends: bool,
}

#[derive(Debug, Args)]
struct AskOptions {
    #[arg(long)]
    bind: SocketAddrV4,
    #[arg(long)]
    to: SocketAddrV4,
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// Between an answer and the next question.
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
    /// Bytes of payload.
    #[arg(long, default_value_t = 16)]
    size: usize,
    /// How long to wait for each answer.
    #[arg(long, default_value_t = 1000)]
    patience_ms: u64,
}

#[derive(Debug, Args)]
struct TcpOptions {
    #[arg(long)]
    to: SocketAddrV4,
    #[arg(long)]
    bytes: u64,
    /// From a file to the socket, within the kernel.
    #[arg(long, conflicts_with = "pace")]
    sendfile: bool,
    /// Mbit per second; without it as fast as it goes.
    #[arg(long)]
    pace: Option<u32>,
    /// End when this many milliseconds have passed, however much was sent.
    #[arg(long)]
    stop_after: Option<u64>,
    /// End when standard input does.
    #[arg(long)]
    until_input_ends: bool,
    /// But not before so many bytes.
    #[arg(long, default_value_t = 0, requires = "until_input_ends")]
    at_least: u64,
}

#[derive(Debug, Args)]
struct PingOptions {
    #[arg(long)]
    to: Ipv4Addr,
    /// Bytes of the IP packet.
    #[arg(long, default_value_t = 84)]
    size: usize,
    #[arg(long, default_value_t = 64)]
    ttl: u32,
    #[arg(long)]
    df: bool,
    /// The whole TOS byte: DSCP and ECN.
    #[arg(long, default_value_t = 0)]
    tos: u8,
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// How long to wait for each reply. A neighbour that did not hear the first question for its
    /// address is asked again after a second.
    #[arg(long, default_value_t = 3000)]
    patience_ms: u64,
}

#[derive(Debug, Args)]
struct DatagramOptions {
    #[arg(long)]
    to: SocketAddrV4,
    /// Bytes of payload of each, but for the last of a call.
    #[arg(long)]
    size: usize,
    /// Datagrams of a call.
    #[arg(long)]
    segments: usize,
    #[arg(long)]
    calls: u32,
}

#[derive(Debug, Args)]
struct RelayOptions {
    bind: SocketAddrV4,
    to: SocketAddrV4,
    /// Each piece waits this many milliseconds, on both ways.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Up to as many more, at random.
    #[arg(long, default_value_t = 0)]
    jitter_ms: u64,
    /// Cut a connection that has brought this many bytes back.
    #[arg(long)]
    cut_after: Option<u64>,
    /// How many connections are cut so.
    #[arg(long, default_value_t = 1)]
    cuts: u32,
}

#[derive(Debug, Args)]
struct FramesOptions {
    interface: String,
    /// How often each batch is sent.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Instead of the batch, send random mutations of its frames; the number makes them repeatable.
    #[arg(long)]
    mutate: Option<u64>,
    /// How many milliseconds mutations are sent for.
    #[arg(long = "for", requires = "mutate")]
    time: Option<u64>,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft-probe: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli {
        Cli::Udp(options) => print(&udp::exchange(&options)?),
        Cli::UdpEcho { bind, least } => ask::echo(bind, least),
        Cli::UdpAsk(options) => print(&ask::ask(&options)?),
        Cli::UdpListen { bind } => ask::listen(bind),
        Cli::UdpSay { bind, to, text } => ask::say(bind, to, &text),
        Cli::TcpSink { bind } => tcp::sink(bind),
        Cli::TcpSend(options) => print(&tcp::send(&options)?),
        Cli::TcpEcho { bind } => tcp::echo(bind),
        Cli::TcpAsk { bind, to } => tcp::ask(bind, to),
        Cli::TcpBrief { bind } => tcp::brief(bind),
        Cli::TcpReuse { bind, to, count } => print(&brief::reuse(bind, to, count)?),
        Cli::TcpMany { bind, to } => many::tcp(bind, to),
        Cli::UdpMany { bind, to } => many::udp(bind, to),
        Cli::Ping(options) => print(&ping::ping(&options)?),
        Cli::Capture { interface } => capture::frames(&interface),
        Cli::DatagramSink { bind, count } => print(&datagrams::sink(bind, count)?),
        Cli::Datagrams(options) => print(&datagrams::send(&options)?),
        Cli::Hooks { devices } => print(&hooks::list(&devices)?),
        Cli::Revisions {
            to,
            key,
            value,
            count,
            modulus,
        } => revisions::write(to, &key, &value, count, modulus),
        Cli::Transact { to } => print(&transact::run(to)?),
        Cli::Relay(options) => relay::run(&options),
        Cli::Frames(options) => frames::run(&options),
    }
}

fn print(report: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(report)?);
    Ok(())
}
