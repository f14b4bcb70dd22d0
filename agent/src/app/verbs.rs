//! The verbs that only read.

use std::io::{self, Write as _};

use anyhow::Context as _;

use crate::{
    admin::{dump, socket},
    cli::{DockerOptsArgs, DumpArgs, Output, StatusArgs},
    model::net::Vni,
    outputs::{docker_opts, subnet_env::SubnetEnv},
};

/// No agent answers.
const UNREACHABLE: u8 = 3;

/// `weft status`.
pub fn status(args: &StatusArgs) -> anyhow::Result<u8> {
    let status = match socket::ask(&args.socket) {
        Ok(status) => status,
        Err(error) => {
            let _ = writeln!(
                io::stderr(),
                "weft: no agent answers at {}: {error}; what it left is in `weft dump`",
                args.socket.display()
            );
            return Ok(UNREACHABLE);
        }
    };
    print(&match args.output {
        Output::Text => status.table(),
        Output::Json => serde_json::to_string_pretty(&status)?,
    })?;
    Ok(u8::from(!status.ready))
}

/// `weft dump`.
pub fn dump(args: &DumpArgs) -> anyhow::Result<u8> {
    let vni = Vni::try_from(u64::from(args.vni))?;
    let value = dump::dump(args.what, vni)?;
    print(&match args.output {
        Output::Text => dump::text(&value),
        Output::Json => serde_json::to_string_pretty(&value)?,
    })?;
    Ok(0)
}

/// `weft docker-opts`.
pub fn docker_opts(args: &DockerOptsArgs) -> anyhow::Result<u8> {
    let env = SubnetEnv::read(&args.subnet_file)
        .with_context(|| format!("read {}", args.subnet_file.display()))?;
    let options = docker_opts::DockerOpts {
        individual: args.individual,
        combined: args.combined,
        key: args.key.clone(),
        skip_ipmasq: args.no_ip_masq,
    };
    print(docker_opts::render(&env, &options)?.trim_end())?;
    Ok(0)
}

/// Prints; a reader that has seen enough is a success.
pub fn print(text: &str) -> io::Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
