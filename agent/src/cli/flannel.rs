//! How flanneld's command line and environment are read: Go's flags, which take one dash or two,
//! and a variable for each flag that was not typed.
//!
//! Where flanneld would go on with a value that it could not read, or ignore a word, `weft run`
//! says what is wrong and ends: an operator who asked for something must not get something else.

use std::{collections::BTreeSet, ffi::OsString};

use clap::{
    ArgAction, Command,
    error::{ContextKind, ContextValue, Error, ErrorKind},
};

use super::go::truth_value;

/// Whose variables are looked at, in this order.
const PREFIXES: [&str; 2] = ["WEFT_", "FLANNELD_"];
/// The name under which the agent is started in flanneld's place.
const FLANNELD: &str = "flanneld";

/// What `--version` prints.
pub(super) const VERSION: &str = concat!("weft ", env!("CARGO_PKG_VERSION"));

/// A flag of flanneld that weft does not have.
struct Unsupported {
    name: &'static str,
    /// What flanneld takes when it is not given: asking for that asks for nothing.
    default: &'static str,
    /// Needs no value.
    truth: bool,
    /// What to do about it.
    remedy: &'static str,
}

const KUBERNETES: &str = "weft keeps its leases in etcd, not in Kubernetes: leave it out";
const LOG: &str = "use --log";

const fn text(name: &'static str, default: &'static str, remedy: &'static str) -> Unsupported {
    Unsupported {
        name,
        default,
        truth: false,
        remedy,
    }
}

const fn truth(name: &'static str, default: &'static str, remedy: &'static str) -> Unsupported {
    Unsupported {
        truth: true,
        ..text(name, default, remedy)
    }
}

const UNSUPPORTED: [Unsupported; 10] = [
    text("public-ipv6", "", "IPv6 is not supported yet: leave it out"),
    truth("kube-subnet-mgr", "false", KUBERNETES),
    text("kube-api-url", "", KUBERNETES),
    text("kubeconfig-file", "", KUBERNETES),
    text(
        "kube-annotation-prefix",
        "flannel.alpha.coreos.com",
        KUBERNETES,
    ),
    text(
        "net-config-path",
        "/etc/kube-flannel/net-conf.json",
        KUBERNETES,
    ),
    truth("set-node-network-unavailable", "true", KUBERNETES),
    text("v", "0", LOG),
    text("vmodule", "", LOG),
    text("log_backtrace_at", "", LOG),
];

/// The command line of `weft run`, with every flag in the form that clap reads.
pub(super) struct Typed {
    /// For clap.
    pub(super) args: Vec<OsString>,
    /// Names of the flags that were typed.
    given: BTreeSet<String>,
    /// Flags that come from a variable, with it.
    from: Vec<(String, String)>,
}

/// Whether this is `weft run`, also under flanneld's name, and then with the verb in its place.
pub(super) fn with_verb(mut args: Vec<OsString>) -> (Vec<OsString>, bool) {
    let program = args.first().map(std::path::Path::new);
    let name = program.and_then(|program| program.file_name());
    if name.is_some_and(|name| name == FLANNELD) {
        args.insert(1, "run".into());
    }
    let runs = args.get(1).is_some_and(|verb| verb == "run");
    (args, runs)
}

impl Typed {
    /// Reads the words after `weft run` as Go does, until one is no flag: those are left to clap,
    /// which refuses them.
    pub(super) fn read(command: &Command, args: Vec<OsString>) -> Result<Self, Error> {
        let mut typed = Self {
            args: Vec::new(),
            given: BTreeSet::new(),
            from: Vec::new(),
        };
        let mut words = args.into_iter();
        typed.args.extend(words.by_ref().take(2));
        while let Some(word) = words.next() {
            let Some((name, value)) = word.to_str().and_then(flag) else {
                typed.args.push(word);
                typed.args.extend(words);
                break;
            };
            let (name, mut value) = (name.to_owned(), value.map(OsString::from));
            if name == "version" && is_true(value.as_deref()) {
                return Err(version());
            }
            // Go knows it as a name like any other.
            let name = if name == "h" { "help".to_owned() } else { name };
            let known = Known::of(command, &name);
            if value.is_none() && known.takes_a_word() {
                value = words.next();
            }
            if let Known::Unsupported(flag) = known {
                refuse(flag, &format!("--{name}"), value.as_deref())?;
                continue;
            }
            typed.push(command, &name, value);
            typed.given.insert(name);
        }
        Ok(typed)
    }

    /// Takes from the environment what was not typed.
    pub(super) fn take_environment(
        &mut self,
        command: &Command,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<(), Error> {
        let found = |name: &str| {
            let variable = name.to_uppercase().replace('-', "_");
            let variables = PREFIXES.iter().map(|prefix| format!("{prefix}{variable}"));
            variables
                .filter_map(|variable| Some((environment(&variable)?, variable)))
                .find(|(value, _)| !value.is_empty())
        };
        for flag in &UNSUPPORTED {
            if let Some((value, variable)) = found(flag.name) {
                refuse(flag, &variable, Some(value.as_ref()))?;
            }
        }
        for name in names(command) {
            if self.given.contains(&name) {
                continue;
            }
            if let Some((value, variable)) = found(&name) {
                self.push(command, &name, Some(value.into()));
                self.from.push((name, variable));
            }
        }
        Ok(())
    }

    /// An error of clap about a flag that came from a variable names the variable.
    pub(super) fn named(&self, error: Error) -> Error {
        let Some(ContextValue::String(about)) = error.get(ContextKind::InvalidArg) else {
            return error;
        };
        // Behind it clap says what the value is called.
        let flag = about.split([' ', '[', '=']).next().unwrap_or_default();
        let mut from = self.from.iter();
        let Some((name, variable)) = from.find(|(name, _)| flag == format!("--{name}")) else {
            return error;
        };
        let why = error.to_string();
        let why = why.trim_start_matches("error: ").trim_end();
        let first = why.lines().next().unwrap_or_default();
        Error::raw(
            ErrorKind::ValueValidation,
            format!(
                "{variable} in the environment: {first}; correct it, unset it or pass --{name}\n"
            ),
        )
    }

    /// An empty value is no value: that is how flanneld's units leave a file or an address out. It
    /// takes back one that was typed before.
    fn push(&mut self, command: &Command, name: &str, value: Option<OsString>) {
        let known = command
            .get_arguments()
            .find(|arg| arg.get_long() == Some(name));
        let has_default = known.is_some_and(|arg| !arg.get_default_values().is_empty());
        let gathers = known.is_some_and(|arg| matches!(arg.get_action(), ArgAction::Append));
        let mut word = OsString::from(format!("--{name}"));
        match value {
            Some(value) if value.is_empty() && !has_default => {
                let is_other = |word: &OsString| {
                    word.to_str().and_then(flag).map(|typed| typed.0) != Some(name)
                };
                self.args.retain(|word| gathers || is_other(word));
                return;
            }
            Some(value) => {
                word.push("=");
                word.push(value);
            }
            None => {}
        }
        self.args.push(word);
    }
}

/// The words without a flag, read as [`Typed::read`] reads them, and the value that it had.
pub(super) fn without(
    command: &Command,
    args: &[OsString],
    name: &str,
) -> (Vec<OsString>, Option<OsString>) {
    let mut words = args.iter().cloned();
    let (mut rest, mut found) = (Vec::new(), None);
    // The program, and the verb unless the program's name stands for it.
    let before = if with_verb(args.to_vec()).0.len() == args.len() {
        2
    } else {
        1
    };
    rest.extend(words.by_ref().take(before));
    while let Some(word) = words.next() {
        let Some((typed, value)) = word.to_str().and_then(flag) else {
            rest.push(word);
            rest.extend(words);
            break;
        };
        let next = if value.is_none() && Known::of(command, typed).takes_a_word() {
            words.next()
        } else {
            None
        };
        if typed == name {
            found = value.map(OsString::from).or(next);
        } else {
            rest.push(word);
            rest.extend(next);
        }
    }
    (rest, found)
}

/// The name of a flag, and the value behind its equals sign.
fn flag(word: &str) -> Option<(&str, Option<&str>)> {
    let name = word.strip_prefix('-')?;
    let name = name.strip_prefix('-').unwrap_or(name);
    if !name.starts_with(|first: char| first.is_ascii_alphabetic()) {
        return None;
    }
    Some(match name.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (name, None),
    })
}

/// What is known of a flag by its name.
enum Known {
    /// Takes the next word where it has no value.
    Value,
    /// Does not: a truth value, or nothing that is known.
    Alone,
    /// flanneld's alone.
    Unsupported(&'static Unsupported),
}

impl Known {
    fn of(command: &Command, name: &str) -> Self {
        if let Some(flag) = UNSUPPORTED.iter().find(|flag| flag.name == name) {
            return Self::Unsupported(flag);
        }
        let found = command
            .get_arguments()
            .find(|arg| arg.get_long() == Some(name));
        let takes = found
            .is_some_and(|arg| arg.get_action().takes_values() && !arg.is_require_equals_set());
        if takes { Self::Value } else { Self::Alone }
    }

    const fn takes_a_word(&self) -> bool {
        match self {
            Self::Value => true,
            Self::Alone => false,
            Self::Unsupported(flag) => !flag.truth,
        }
    }
}

fn is_true(value: Option<&std::ffi::OsStr>) -> bool {
    value.is_none_or(|value| {
        value
            .to_str()
            .is_some_and(|text| truth_value(text) == Ok(true))
    })
}

/// Whatever else is typed.
fn version() -> Error {
    Error::raw(ErrorKind::DisplayVersion, VERSION)
}

fn names(command: &Command) -> Vec<String> {
    command
        .get_arguments()
        .filter_map(|arg| arg.get_long())
        .filter(|name| !matches!(*name, "help" | "version"))
        .map(str::to_owned)
        .collect()
}

/// Names what flanneld knows and weft does not, unless it asks for nothing.
fn refuse(
    flag: &Unsupported,
    as_given: &str,
    value: Option<&std::ffi::OsStr>,
) -> Result<(), Error> {
    let value = match value {
        None if flag.truth => "true",
        None => "",
        Some(value) => value.to_str().unwrap_or_default(),
    };
    let same = match truth_value(value) {
        Ok(given) if flag.truth => flag.default == given.to_string(),
        _ => value == flag.default,
    };
    if same {
        return Ok(());
    }
    Err(Error::raw(
        ErrorKind::UnknownArgument,
        format!(
            "`{as_given}` is known to flanneld, and weft does not support it; {}\n",
            flag.remedy
        ),
    ))
}
