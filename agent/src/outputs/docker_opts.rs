//! Options for Docker's daemon, as flannel's `mk-docker-opts.sh` writes them.

use ipnet::Ipv4Net;

use super::subnet_env::{EnvError, Variables};
use crate::model::net::Mtu;

/// The name of the combined variable when none is given.
pub const DEFAULT_KEY: &str = "DOCKER_OPTS";

/// What Docker needs of `subnet.env`. As with the script, what is missing there is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerEnv {
    /// Address and length of the containers' bridge.
    pub bridge: Option<Ipv4Net>,
    /// Whether the agent masquerades.
    pub ip_masq: Option<bool>,
    /// MTU of containers.
    pub mtu: Option<Mtu>,
}

impl DockerEnv {
    /// Reads the text of the file. With `skip_ipmasq` (`-m`) nobody asks what it says of
    /// masquerading.
    pub fn parse(text: &str, skip_ipmasq: bool) -> Result<Self, EnvError> {
        let variables = Variables::read(text);
        let env = Self {
            bridge: variables.range("FLANNEL_SUBNET")?,
            ip_masq: if skip_ipmasq {
                None
            } else {
                variables.truth("FLANNEL_IPMASQ")?
            },
            mtu: variables.mtu("FLANNEL_MTU")?,
        };
        match env.bridge {
            None if (env.ip_masq, env.mtu) == (None, None) => {
                Err(EnvError::Missing("FLANNEL_SUBNET"))
            }
            _ => Ok(env),
        }
    }
}

/// What to write; with neither `individual` nor `combined`, both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerOpts {
    /// One variable an option (`-i`).
    pub individual: bool,
    /// One variable with all options (`-c`).
    pub combined: bool,
    /// The name of that one (`-k`).
    pub key: String,
    /// Its value until now, which stays in front.
    pub before: String,
}

/// The key cannot be the name of a variable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` cannot name a variable: use letters, digits and `_`, for example `DOCKER_OPTS`")]
pub struct KeyError(String);

impl Default for DockerOpts {
    fn default() -> Self {
        Self {
            individual: false,
            combined: false,
            key: DEFAULT_KEY.to_owned(),
            before: String::new(),
        }
    }
}

/// The text of the file.
pub fn render(env: &DockerEnv, opts: &DockerOpts) -> Result<String, KeyError> {
    let DockerOpts {
        individual,
        combined,
        key,
        before,
    } = opts;
    let names_a_variable = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !names_a_variable {
        return Err(KeyError(key.clone()));
    }
    let both = individual == combined;
    // In the order of the alphabet, as the shell lists variables.
    let mut options = Vec::new();
    if let Some(bridge) = env.bridge {
        options.push(("BIP", format!("--bip={bridge}")));
    }
    if let Some(masquerades) = env.ip_masq {
        // When the agent masquerades, Docker must not, and the other way round.
        options.push(("IPMASQ", format!("--ip-masq={}", !masquerades)));
    }
    if let Some(mtu) = env.mtu {
        options.push(("MTU", format!("--mtu={mtu}")));
    }

    let mut text = String::new();
    if *individual || both {
        for (name, option) in &options {
            text.push_str(&format!("DOCKER_OPT_{name}=\"{option}\"\n"));
        }
    }
    if *combined || both {
        let all: String = options
            .iter()
            .map(|(_, option)| format!(" {option}"))
            .collect();
        let mut before = quoted(before);
        if !before.is_empty() {
            // One more than between options, as the script has it.
            before.push(' ');
        }
        text.push_str(&format!("{key}=\"{before}{all}\"\n"));
    }
    Ok(text)
}

/// As it must stand between double quotes for a shell to read the same again.
fn quoted(text: &str) -> String {
    let mut quoted = String::new();
    for char in text.chars() {
        if matches!(char, '"' | '\\' | '$' | '`') {
            quoted.push('\\');
        }
        quoted.push(char);
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(ip_masq: bool) -> DockerEnv {
        let text =
            format!("FLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ={ip_masq}\n");
        DockerEnv::parse(&text, false).unwrap()
    }

    const INDIVIDUAL: &str = "DOCKER_OPT_BIP=\"--bip=10.1.74.1/24\"\nDOCKER_OPT_IPMASQ=\"--ip-masq=true\"\nDOCKER_OPT_MTU=\"--mtu=1472\"\n";
    const COMBINED: &str = "DOCKER_OPTS=\" --bip=10.1.74.1/24 --ip-masq=true --mtu=1472\"\n";

    #[test]
    fn the_text_is_the_scripts() {
        let render = |opts: DockerOpts| render(&env(false), &opts).unwrap();
        let default = DockerOpts::default;
        assert_eq!(render(default()), format!("{INDIVIDUAL}{COMBINED}"));
        let both = DockerOpts {
            individual: true,
            combined: true,
            ..default()
        };
        assert_eq!(render(both), format!("{INDIVIDUAL}{COMBINED}"));
        assert_eq!(
            render(DockerOpts {
                individual: true,
                ..default()
            }),
            INDIVIDUAL
        );
        assert_eq!(
            render(DockerOpts {
                combined: true,
                ..default()
            }),
            COMBINED
        );
        let named = DockerOpts {
            combined: true,
            key: "DOCKER_NETWORK_OPTIONS".into(),
            ..default()
        };
        assert_eq!(
            render(named),
            COMBINED.replace("DOCKER_OPTS", "DOCKER_NETWORK_OPTIONS")
        );
    }

    /// Nor is anything wrong with a text that is not looked at.
    #[test]
    fn masquerading_can_be_left_out() {
        let text = "FLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=perhaps\n";
        let env = DockerEnv::parse(text, true).unwrap();
        assert_eq!(
            render(&env, &DockerOpts::default()).unwrap(),
            "DOCKER_OPT_BIP=\"--bip=10.1.74.1/24\"\nDOCKER_OPT_MTU=\"--mtu=1472\"\nDOCKER_OPTS=\" --bip=10.1.74.1/24 --mtu=1472\"\n"
        );
    }

    #[test]
    fn masquerading_is_left_to_one_of_the_two() {
        let text = render(&env(true), &DockerOpts::default()).unwrap();
        assert!(text.contains("--ip-masq=false"), "{text}");
    }

    #[test]
    fn a_value_that_is_there_stays_in_front() {
        let opts = DockerOpts {
            combined: true,
            before: "--debug --label=\"a $b\"".to_owned(),
            ..DockerOpts::default()
        };
        assert_eq!(
            render(&env(false), &opts).unwrap(),
            "DOCKER_OPTS=\"--debug --label=\\\"a \\$b\\\"  --bip=10.1.74.1/24 --ip-masq=true --mtu=1472\"\n"
        );
    }

    #[test]
    fn what_the_file_lacks_is_left_out_and_what_is_wrong_is_told() {
        let part = DockerEnv::parse("FLANNEL_SUBNET=10.1.74.1/24\nX=1\n", false).unwrap();
        assert_eq!(
            render(&part, &DockerOpts::default()).unwrap(),
            "DOCKER_OPT_BIP=\"--bip=10.1.74.1/24\"\nDOCKER_OPTS=\" --bip=10.1.74.1/24\"\n"
        );
        for (text, told) in [
            ("", "`FLANNEL_SUBNET` is missing"),
            ("FLANNEL_IPMASQ=yes", "true or false"),
            ("FLANNEL_SUBNET=10.1.74.1", "an IPv4 range"),
            ("FLANNEL_MTU=big", "a number"),
        ] {
            let why = DockerEnv::parse(text, false).unwrap_err().to_string();
            assert!(why.contains(told), "{why}");
        }
    }

    #[test]
    fn a_key_that_no_shell_takes_is_refused() {
        for key in ["", "1X", "A B", "A=B", "A\nB", "Ä"] {
            let opts = DockerOpts {
                key: key.to_owned(),
                ..DockerOpts::default()
            };
            assert_eq!(render(&env(true), &opts), Err(KeyError(key.to_owned())));
        }
    }
}
