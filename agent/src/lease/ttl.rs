//! How long a lease lives, as it is typed.

use std::time::Duration;

/// A store needs seconds to elect a leader, and a lease must outlive that.
const LEAST: Duration = Duration::from_secs(5);
/// A dead host keeps its subnet for as long.
const MOST: Duration = Duration::from_secs(30 * 86_400);

/// Reads `15s`, `10m`, `24h` or `1h30m`; whole seconds, which is what etcd counts in.
pub fn parse(text: &str) -> Result<Duration, String> {
    let ttl = humantime::parse_duration(text)
        .map_err(|error| format!("{error}: write it as 15s, 10m or 24h"))?;
    if ttl < LEAST || ttl > MOST {
        return Err(format!(
            "it must be from {} to {}",
            humantime::format_duration(LEAST),
            humantime::format_duration(MOST)
        ));
    }
    if ttl.subsec_nanos() != 0 {
        return Err("etcd counts in whole seconds".to_owned());
    }
    Ok(ttl)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_they_are_written() {
        for (text, seconds) in [
            ("5s", 5),
            ("15s", 15),
            ("10m", 600),
            ("24h", 86_400),
            ("1h30m", 5400),
            ("24h0m0s", 86_400),
            ("720h", 2_592_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_a_ttl_is_refused_with_the_remedy() {
        for (text, said) in [
            ("", "15s"),
            ("soon", "15s"),
            ("15", "15s"),
            ("-15s", "15s"),
            ("0s", "from 5s"),
            ("4999ms", "from 5s"),
            ("721h", "to 30days"),
            ("99999999999999999999h", "15s"),
            ("5500ms", "whole seconds"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
