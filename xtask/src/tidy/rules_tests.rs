//! One case for each rule: what it lets pass and what it finds.

use super::*;

fn file(path: &str, text: &str) -> File {
    File {
        path: path.to_owned(),
        text: text.to_owned(),
    }
}

#[track_caller]
fn passes(rule: FileRule, path: &str, text: &str) {
    assert_eq!(rule(&file(path, text)), [], "{path}: {text}");
}

#[track_caller]
fn finds(rule: FileRule, path: &str, text: &str) {
    assert_eq!(rule(&file(path, text)).len(), 1, "{path}: {text}");
}

#[test]
fn files_open_with_what_they_are_for() {
    passes(opening, "a.rs", "//! Something.\n");
    passes(opening, "a.rs", "#![no_std]\n");
    passes(opening, "a.toml", "[package]\n");
    finds(opening, "a.rs", "use std::fs;\n");
}

#[test]
fn long_files_warn_and_longer_ones_fail() {
    passes(length, "a.rs", &"x\n".repeat(LONG));
    let weight = |lines| {
        length(&file("a.rs", &"x\n".repeat(lines)))
            .first()
            .map(|f| f.weight)
    };
    assert_eq!(weight(LONG + 1), Some(Weight::Warning));
    assert_eq!(weight(TOO_LONG + 1), Some(Weight::Error));
}

#[test]
fn lines_do_not_end_in_space() {
    passes(trailing_space, "a.md", "a b\n");
    finds(trailing_space, "a.md", "a b \n");
}

#[test]
fn unfinished_work_is_found() {
    passes(unfinished, "a.rs", "done();\n");
    for word in UNFINISHED {
        finds(unfinished, "a.rs", &format!("    {word}\n"));
    }
}

#[test]
fn crates_stay_where_they_belong() {
    passes(
        confined,
        "agent/src/datapath/ebpf/load.rs",
        "use aya::Ebpf;\n",
    );
    passes(
        confined,
        "ebpf/src/main.rs",
        "use aya_ebpf::macros::classifier;\n",
    );
    passes(
        confined,
        "agent/src/store/mod.rs",
        "// etcd_client is elsewhere\n",
    );
    passes(confined, "agent/src/app.rs", "let malaya_x = 1;\n");
    finds(confined, "agent/src/app.rs", "use aya::Ebpf;\n");
    finds(confined, "agent/src/app.rs", "use etcd_client::Client;\n");
    finds(
        confined,
        "agent/src/app.rs",
        "    rtnetlink::new_connection();\n",
    );
    finds(
        confined,
        "agent/src/sysctl.rs",
        "use netlink_packet_route::link;\n",
    );
}

#[test]
fn the_model_is_pure() {
    passes(
        pure_model,
        "agent/src/model/net.rs",
        "use std::net::Ipv4Addr;\n",
    );
    passes(
        pure_model,
        "agent/src/app.rs",
        "let now = Instant::now();\n",
    );
    for word in IMPURE {
        finds(pure_model, "agent/src/model/net.rs", &format!("{word}\n"));
    }
}

#[test]
fn members_take_the_workspace_lints() {
    passes(lints, "agent/Cargo.toml", "[lints]\nworkspace = true\n");
    passes(lints, "Cargo.toml", "[workspace]\n");
    finds(lints, "agent/Cargo.toml", "[package]\n");
}

#[test]
fn ci_is_one_command() {
    passes(
        front_door,
        ".ci/run",
        "#!/usr/bin/env bash\nset -euo pipefail\nexec cargo xtask ci\n",
    );
    finds(front_door, ".ci/run", "cargo test\nexec cargo xtask ci\n");
}

#[test]
fn modules_are_on_the_code_map() {
    let module = file("agent/src/lease/mod.rs", "");
    let named = [
        file("ARCHITECTURE.md", "`lease`: holds the subnet"),
        module.clone(),
    ];
    assert_eq!(code_map(&named), []);
    assert_eq!(
        code_map(&[file("ARCHITECTURE.md", "nothing"), module.clone()]).len(),
        1
    );
    assert_eq!(code_map(&[module]), []);
}
