//! Logging: to standard error, as text or JSON.

use std::io;

use tracing_subscriber::EnvFilter;

use crate::cli::LogFormat;

/// What `--log` takes beside filters by module.
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// Starts logging. A filter that cannot be read is an error with the filter in it.
pub fn start(filter: &str, format: LogFormat) -> Result<(), String> {
    let bare = filter.chars().all(|c| c.is_ascii_alphanumeric());
    if bare && !LEVELS.contains(&filter.to_ascii_lowercase().as_str()) {
        return Err(format!("--log {filter}: not one of {}", LEVELS.join(", ")));
    }
    // A bare level is meant for this program, not for the libraries under it.
    let filter = if bare {
        format!("warn,weft={filter}")
    } else {
        filter.to_owned()
    };
    let filter = EnvFilter::try_new(&filter).map_err(|error| format!("--log {filter}: {error}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(
            io::IsTerminal::is_terminal(&io::stderr()) && std::env::var_os("NO_COLOR").is_none(),
        )
        .with_writer(io::stderr);
    let started = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|error| error.to_string())
}
