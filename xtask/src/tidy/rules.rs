//! The rules, each a function from a file or from the whole tree to what breaks it.

use super::{File, Finding, Weight};

pub(super) type FileRule = fn(&File) -> Vec<Finding>;
pub(super) type TreeRule = fn(&[File]) -> Vec<Finding>;

pub(super) const FILE: &[FileRule] = &[
    opening,
    length,
    trailing_space,
    unfinished,
    confined,
    pure_model,
    lints,
    front_door,
];
pub(super) const TREE: &[TreeRule] = &[code_map];

/// Names of crates, and the only places that may speak of them: a seam, and the tests that hold
/// the real thing to its contract.
const CONFINED: &[(&[&str], &[&str])] = &[
    (
        &["aya::", "aya_"],
        &[
            "agent/src/datapath/ebpf/",
            "agent/tests/",
            "common/src/pod.rs",
            "ebpf/",
        ],
    ),
    (&["etcd_client"], &["agent/src/store/etcd/", "agent/tests/"]),
    (
        &["rtnetlink", "netlink_packet_", "netlink_sys"],
        &["agent/src/netlink/"],
    ),
];

/// What the model may not touch: it is the same on every machine and at every time.
const IMPURE: &[&str] = &[
    "tokio",
    "std::fs",
    "std::net::TcpStream",
    "SystemTime::now",
    "Instant::now",
];

/// Work that is not done. Only an issue may hold that.
const UNFINISHED: &[&str] = &["#[ignore", "TODO", "FIXME", "todo!", "unimplemented!"];

const LONG: usize = 300;
const TOO_LONG: usize = 500;

/// Every Rust file says first what it is for.
fn opening(file: &File) -> Vec<Finding> {
    let first = file.text.trim_start();
    if !is_rust(file) || first.starts_with("//!") || first.starts_with("#![") {
        return Vec::new();
    }
    vec![whole(
        file,
        Weight::Error,
        "does not open with //! or an inner attribute",
    )]
}

fn length(file: &File) -> Vec<Finding> {
    let lines = file.text.lines().count();
    if !is_rust(file) || lines <= LONG {
        return Vec::new();
    }
    let weight = if lines <= TOO_LONG {
        Weight::Warning
    } else {
        Weight::Error
    };
    vec![whole(
        file,
        weight,
        &format!("{lines} lines; {LONG} are long, {TOO_LONG} too long"),
    )]
}

fn trailing_space(file: &File) -> Vec<Finding> {
    let ends_in_space = |line: &str| line.ends_with([' ', '\t']);
    lines_where(file, |line| {
        ends_in_space(line).then(|| "trailing white space".to_owned())
    })
}

fn unfinished(file: &File) -> Vec<Finding> {
    if !is_rust(file) || is_about_rules(file) {
        return Vec::new();
    }
    lines_where(file, |line| {
        let found = UNFINISHED.iter().find(|word| line.contains(**word))?;
        Some(format!("{found} does not belong in the tree"))
    })
}

fn confined(file: &File) -> Vec<Finding> {
    if !is_rust(file) || is_about_rules(file) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (names, places) in CONFINED {
        if places.iter().any(|place| file.path.starts_with(place)) {
            continue;
        }
        findings.extend(lines_where(file, |line| {
            let name = names
                .iter()
                .find(|name| !is_comment(line) && names_crate(line, name))?;
            Some(format!("{name} is only for {}", places.join(", ")))
        }));
    }
    findings
}

fn pure_model(file: &File) -> Vec<Finding> {
    if !file.path.starts_with("agent/src/model") {
        return Vec::new();
    }
    lines_where(file, |line| {
        let found = IMPURE
            .iter()
            .find(|word| !is_comment(line) && line.contains(**word))?;
        Some(format!(
            "{found} in the model, which does no I/O and reads no clock"
        ))
    })
}

/// Every member of the workspace takes the workspace's lints.
fn lints(file: &File) -> Vec<Finding> {
    let is_member = file.path.ends_with("/Cargo.toml");
    if !is_member || file.text.contains("[lints]\nworkspace = true") {
        return Vec::new();
    }
    vec![whole(
        file,
        Weight::Error,
        "does not say [lints] workspace = true",
    )]
}

/// CI knows one command, so that everybody can run what CI runs.
fn front_door(file: &File) -> Vec<Finding> {
    if file.path != ".ci/run" {
        return Vec::new();
    }
    let plumbing =
        |line: &&str| !line.is_empty() && !line.starts_with('#') && *line != "set -euo pipefail";
    let commands: Vec<_> = file.text.lines().map(str::trim).filter(plumbing).collect();
    if commands == ["exec cargo xtask ci"] {
        return Vec::new();
    }
    vec![whole(
        file,
        Weight::Error,
        "does more than `exec cargo xtask ci`",
    )]
}

/// Every module of the two halves has its place on the code map, once there is one.
fn code_map(files: &[File]) -> Vec<Finding> {
    let Some(map) = files.iter().find(|file| file.path == "ARCHITECTURE.md") else {
        return Vec::new();
    };
    let missing = |file: &&File| module(&file.path).is_some_and(|name| !is_named(&map.text, name));
    let finding = |file: &File| whole(file, Weight::Error, "is not named in ARCHITECTURE.md");
    files.iter().filter(missing).map(finding).collect()
}

/// The name under which the code map knows a file: `agent/src/lease/mod.rs` is `lease`.
fn module(path: &str) -> Option<&str> {
    let inner = path
        .strip_prefix("agent/src/")
        .or_else(|| path.strip_prefix("ebpf/src/"))?;
    let name = inner.strip_suffix(".rs")?;
    let name = name.strip_suffix("/mod").unwrap_or(name);
    let is_test = name.split('/').any(|part| part == "tests") || name.ends_with("_tests");
    (!matches!(name, "lib" | "main") && !is_test).then_some(name)
}

/// By its whole path, or by its own name in the code's type.
fn is_named(map: &str, module: &str) -> bool {
    let own = module.rsplit('/').next().unwrap_or(module);
    map.contains(module) || map.contains(&format!("`{own}`")) || map.contains(&format!("{own}.rs"))
}

fn is_rust(file: &File) -> bool {
    file.path.ends_with(".rs")
}

/// These files name what they forbid.
fn is_about_rules(file: &File) -> bool {
    file.path.starts_with("xtask/src/tidy/")
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

/// As a word of its own: `aya_` in `use aya_ebpf`, not in `malaya_`.
fn names_crate(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        before.is_none_or(|before| !before.is_alphanumeric() && before != '_' && before != '"')
    })
}

fn whole(file: &File, weight: Weight, text: &str) -> Finding {
    Finding {
        path: file.path.clone(),
        line: None,
        text: text.to_owned(),
        weight,
    }
}

fn lines_where(file: &File, rule: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    let finding = |(index, line): (usize, &str)| {
        let text = rule(line)?;
        let (path, line) = (file.path.clone(), Some(index + 1));
        Some(Finding {
            path,
            line,
            text,
            weight: Weight::Error,
        })
    };
    file.text.lines().enumerate().filter_map(finding).collect()
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
