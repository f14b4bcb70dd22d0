//! The verbs that only read.

use std::io::{self, Write as _};

use anyhow::Context as _;

use super::lock;
use crate::{
    admin::{dump, socket, status::Status},
    cli::{DockerOptsArgs, DumpArgs, Output, StatusArgs},
    datapath::ebpf::age::{self, AtWork},
    model::net::Vni,
    netlink::{Netlink as _, kernel::Rtnetlink},
    outputs::{
        docker_opts::{self, DockerEnv, DockerOpts},
        subnet_env,
    },
};

/// No agent answers.
const UNREACHABLE: u8 = 3;
/// The caller may not see it.
const FORBIDDEN: u8 = 4;

/// `weft status`.
pub fn status(args: &StatusArgs) -> anyhow::Result<u8> {
    let socket = args.socket.display();
    let (status, code) = match socket::ask(&args.socket) {
        Ok(status) => {
            let code = u8::from(!status.ready);
            (status, code)
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            complain(&format!(
                "{socket}: {error}: `weft status` needs root; try sudo"
            ));
            return Ok(FORBIDDEN);
        }
        Err(error) => {
            let agent = match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "agent hangs",
                _ => "agent down",
            };
            let (works, left) = at_work(lock::network_at(&args.socket));
            let why = format!("no agent answers at {socket}: {error}");
            complain(&format!(
                "{agent}, {left}: {why}; what it left is in `weft dump`"
            ));
            let status = Status::of_nobody(format!("{agent}: {why}"));
            (status.with_data_path(works, left), UNREACHABLE)
        }
    };
    match args.output {
        Output::Text if code == UNREACHABLE => {}
        Output::Text => print(&status.table())?,
        Output::Json => print(&serde_json::to_string_pretty(&status)?)?,
    }
    Ok(code)
}

/// What goes on without an agent, and whether anything of its network does.
fn at_work(network: Option<Vni>) -> (bool, String) {
    match age::at_work() {
        Ok(all) => of_network(network, &all),
        Err(error) => (false, format!("data path unknown ({error})")),
    }
}

fn of_network(network: Option<Vni>, all: &[AtWork]) -> (bool, String) {
    let since = |at_work: &AtWork| {
        let since = at_work.since.map(humantime::format_rfc3339_seconds);
        since.map_or_else(String::new, |since| format!(" since {since}"))
    };
    if let Some(vni) = network {
        return match all.iter().find(|at_work| at_work.vni == vni) {
            Some(found) => (
                true,
                format!(
                    "data path up{} (VNI {vni}, {} programs)",
                    since(found),
                    found.programs
                ),
            ),
            None => (
                false,
                format!("no programs of VNI {vni} at work, only what the kernel has"),
            ),
        };
    }
    if all.is_empty() {
        let none = "no programs at work, only what the kernel has";
        return (false, none.to_owned());
    }
    let others = all.iter().map(|at_work| {
        let AtWork { vni, programs, .. } = at_work;
        format!("VNI {vni}{} ({programs} programs)", since(at_work))
    });
    let others = others.collect::<Vec<_>>().join(", ");
    (
        false,
        format!("data path unknown (no network is known to answer there; at work: {others})"),
    )
}

fn complain(what: &str) {
    // Nobody is left to tell when standard error is gone.
    let _ = writeln!(io::stderr(), "weft: {what}");
}

/// `weft dump`.
pub fn dump(args: &DumpArgs) -> anyhow::Result<u8> {
    let vni = Vni::try_from(u64::from(args.vni))?;
    if !nix::unistd::geteuid().is_root() {
        complain("`weft dump` needs root: it reads the pinned maps; try sudo");
        return Ok(FORBIDDEN);
    }
    let value = dump::dump(args.what, vni)?;
    print(&match args.output {
        Output::Text => dump::text(&value),
        Output::Json => serde_json::to_string_pretty(&value)?,
    })?;
    Ok(0)
}

/// `weft docker-opts`.
pub fn docker_opts(args: &DockerOptsArgs) -> anyhow::Result<u8> {
    let text = subnet_env::read(&args.subnet_file).context("is the agent running?")?;
    let env = DockerEnv::parse(&text, args.no_ip_masq)?;
    let options = DockerOpts {
        individual: args.individual,
        combined: args.combined,
        key: args.key.clone(),
        before: std::env::var(&args.key).unwrap_or_default(),
    };
    let text = docker_opts::render(&env, &options)?;
    match &args.output {
        Some(path) => {
            subnet_env::put(path, &text).with_context(|| path.display().to_string())?;
        }
        None => print(text.trim_end())?,
    }
    if let Some(bridge) = env.bridge {
        refuse_routed(bridge.trunc())?;
    }
    Ok(0)
}

/// What is behind a gateway cannot be on a bridge of this host: Docker would take it off the net.
fn refuse_routed(subnet: ipnet::Ipv4Net) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let host = runtime.block_on(async { Rtnetlink::new()?.observe().await })?;
    let mut routes = host.routes.iter();
    let taken = routes.find_map(|route| {
        let same = route.destination == ipnet::IpNet::V4(subnet);
        route.gateway.filter(|_| same)
    });
    match taken {
        None => Ok(()),
        Some(gateway) => anyhow::bail!(
            "{subnet} is routed by the gateway {gateway} on this host: Docker cannot have it"
        ),
    }
}

/// Prints; a reader that has seen enough is a success.
pub fn print(text: &str) -> io::Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_of_another_network_say_nothing_of_this_one() {
        let vni = |number: u64| Vni::try_from(number).unwrap();
        let one = AtWork {
            vni: vni(1),
            programs: 9,
            since: Some(std::time::SystemTime::UNIX_EPOCH),
        };
        let since = "data path up since 1970-01-01T00:00:00Z (VNI 1, 9 programs)";
        assert_eq!(of_network(Some(vni(1)), &[one]), (true, since.to_owned()));
        let (works, text) = of_network(Some(vni(2)), &[one]);
        assert!(!works && text.starts_with("no programs of VNI 2"), "{text}");
        let (works, text) = of_network(None, &[one]);
        assert!(!works && text.starts_with("data path unknown"), "{text}");
        assert!(text.contains("VNI 1 since 1970"), "{text}");
        assert!(!of_network(None, &[]).0);
    }
}
