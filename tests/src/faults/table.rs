//! The rows, by the numbers of the matrix, and the table of their verdicts.

use std::{fmt::Write as _, time::Duration};

use super::{
    Most, Row, Verdict,
    auth_rows::refused,
    cluster_rows::{
        a_black_hole, a_frozen_member, a_killed_leader, a_silent_store, compaction, data_lost,
        prefix_deleted, start_without_store,
    },
    hang_rows::hung,
    host_rows::{foreign_programs, netlink_flood, strangers_delete},
    lease_rows::{a_race_for_subnets, a_stolen_subnet, an_expired_lease, one_address_twice},
    narrow_rows::a_smaller_link,
    process_rows::{killed, killed_and_restarted, killed_while_starting, terminated, two_agents},
    record_rows::{bad_records, config_changed, replaced_peer},
    upgrade_rows::{full_maps, upgraded},
    uplink_rows::{
        a_file_system_over_ours, a_flapping_uplink, a_moved_uplink, a_new_bridge, a_new_uplink,
        no_place_for_the_file,
    },
    way_rows::{a_broken_catch_up, a_slow_store, answers_lost},
};

const NOTHING: Most = Most {
    lost: 0,
    gap_ms: 100,
    settle: Duration::from_secs(5),
};
/// A member that is left alone is asked again after up to 15 s, and named until it answers.
const ASKED_AGAIN: Most = Most {
    settle: Duration::from_secs(20),
    ..NOTHING
};
const fn row(
    number: u8,
    name: &'static str,
    criterion: &'static str,
    inject: super::Inject,
) -> Row {
    Row {
        number,
        name,
        criterion,
        fast: false,
        between: (0, 1),
        most: NOTHING,
        wrecks: false,
        inject,
    }
}

/// Rows that need another build of the agent beside the one under test.
pub const OF_TWO_BUILDS: [u8; 2] = [3, 33];

/// Every fault that can be injected here.
pub const ROWS: &[Row] = &[
    Row {
        fast: true,
        ..row(
            1,
            "agent killed, not restarted",
            "nothing lost, everything still pinned, `weft status` says since when the data path is up and exits with 3",
            killed,
        )
    },
    Row {
        fast: true,
        ..row(
            2,
            "agent killed and restarted",
            "nothing lost, same links and maps, new programs, counters go on",
            killed_and_restarted,
        )
    },
    row(
        3,
        "another layout of the maps, and back",
        "nothing lost, translated flows are answered all along, nothing of the other version left",
        upgraded,
    ),
    row(
        4,
        "agent killed at random points of its start",
        "every next start is ready within 3 s, nothing left over",
        killed_while_starting,
    ),
    row(
        5,
        "agent told to stop, and cleaned up elsewhere",
        "says `STOPPING=1`, ends within 2 s with 0, data path stays; cleanup leaves nothing",
        terminated,
    ),
    row(
        6,
        "agent hangs",
        "nothing lost, `weft status` gives up within 3 s, the watchdog restarts it; a loop that is stuck is named by `/livez` and the status within 5 s",
        hung,
    ),
    Row {
        fast: true,
        ..row(
            7,
            "etcd stopped",
            "nothing lost, ready and degraded within 5 s, same subnets after it",
            a_silent_store,
        )
    },
    row(
        8,
        "etcd stopped while an agent starts",
        "the start waits and says so, the data path stays, ready 2 s after etcd",
        start_without_store,
    ),
    Row {
        fast: true,
        ..row(
            9,
            "etcd leader killed",
            "nothing lost, a change is heard within 4 s",
            a_killed_leader,
        )
    },
    Row {
        most: ASKED_AGAIN,
        ..row(
            10,
            "etcd member frozen",
            "after 3 s changes are heard within 1.5 s; the member is left alone and named",
            a_frozen_member,
        )
    },
    Row {
        most: ASKED_AGAIN,
        ..row(
            11,
            "black hole between an agent and its member",
            "another member is used within 4 s",
            a_black_hole,
        )
    },
    row(
        12,
        "answers of a member lost",
        "another member is used within 4 s; no allocation is lost or doubled",
        answers_lost,
    ),
    row(
        13,
        "slow etcd, 100 to 700 ms, 5 % of the packets lost",
        "nothing lost, the lease held, the watch broken once a minute at most",
        a_slow_store,
    ),
    Row {
        fast: true,
        ..row(
            14,
            "compaction while disconnected",
            "peers added, removed and changed meanwhile are right within 3 s",
            compaction,
        )
    },
    Row {
        most: Most {
            settle: Duration::from_secs(15),
            ..NOTHING
        },
        ..row(
            15,
            "way to etcd cut in the middle of 5,000 revisions",
            "all of them known in the end",
            a_broken_catch_up,
        )
    },
    Row {
        most: Most {
            settle: Duration::from_secs(20),
            ..NOTHING
        },
        ..row(
            16,
            "etcd's data lost, or of an earlier day",
            "nothing lost, also with an agent away and another restarted; the same subnets again; a change after it is heard",
            data_lost,
        )
    },
    row(
        17,
        "all leases deleted by hand",
        "nothing lost, every key back within 2 s",
        prefix_deleted,
    ),
    Row {
        fast: true,
        ..row(
            18,
            "bad records",
            "each named and harmless, no trace when they are gone",
            bad_records,
        )
    },
    row(
        19,
        "config changed or removed at run time",
        "said, and nothing touched",
        config_changed,
    ),
    Row {
        between: (1, 2),
        most: Most {
            settle: Duration::from_secs(4),
            ..NOTHING
        },
        ..row(
            20,
            "lease expired, nobody took the subnet",
            "ready meanwhile and `lease unconfirmed since` said, the same subnet again within 4 s",
            an_expired_lease,
        )
    },
    Row {
        fast: true,
        between: (1, 2),
        most: Most {
            settle: Duration::from_secs(15),
            ..NOTHING
        },
        wrecks: true,
        ..row(
            21,
            "lease expired, and somebody took the subnet",
            "never overwritten; the loser says subnet_lost and drops",
            a_stolen_subnet,
        )
    },
    Row {
        fast: true,
        ..row(
            22,
            "20 agents race for 16 subnets",
            "16 have one each, 4 say why not, no overlap at any revision",
            a_race_for_subnets,
        )
    },
    row(
        23,
        "a second agent on one host",
        "refused within 1 s with the first one's pid; another VNI works",
        two_agents,
    ),
    Row {
        between: (1, 2),
        wrecks: true,
        ..row(
            24,
            "two hosts publish one address",
            "both say public_ip_conflict and are not ready, nobody writes on, the data path stays",
            one_address_twice,
        )
    },
    row(
        26,
        "uplink down and up",
        "programs once each, right within 2 s of every flap",
        a_flapping_uplink,
    ),
    Row {
        between: (0, 2),
        most: Most {
            lost: 8000,
            gap_ms: 2000,
            ..NOTHING
        },
        ..row(
            27,
            "uplink's address changes",
            "same subnet, peers follow, at most 2 s without a packet",
            a_moved_uplink,
        )
    },
    row(
        28,
        "uplink made again, another MAC, another MTU",
        "right within 2 s, subnet.env has the MTU, and the status names containers that keep a wider one",
        a_new_uplink,
    ),
    row(
        29,
        "container bridge made again",
        "attached within 2 s",
        a_new_bridge,
    ),
    Row {
        fast: true,
        between: (1, 2),
        ..row(
            30,
            "strangers delete what we made",
            "each repaired within 8 s and counted, nothing lost between the others",
            strangers_delete,
        )
    },
    Row {
        // The kernel takes a device's queues away for a moment while a stranger's clsact is put on or
        // off, and drops what is sent then.
        most: Most {
            lost: 20,
            ..NOTHING
        },
        ..row(
            31,
            "programs of others, a stale copy of ours",
            "theirs untouched, the copy gone after a start",
            foreign_programs,
        )
    },
    row(
        32,
        "20,000 changes by netlink, more than a socket holds",
        "events are lost, and all is right within 5 s",
        netlink_flood,
    ),
    row(
        33,
        "100 peers where 64 have room",
        "nothing lost between the first, the rest by the kernel, all in place with more room",
        full_maps,
    ),
    row(
        35,
        "another bpffs over the old one",
        "no program twice, also after a restart",
        a_file_system_over_ours,
    ),
    row(
        36,
        "a peer returns with another MAC, and one is gone for good",
        "the old MAC unused within 1 s, nothing left of the other",
        replaced_peer,
    ),
    row(
        37,
        "a smaller link on the way, between routers that say nothing, and within a switch",
        "TCP moves data, what must stay whole arrives or is refused, the limit is named, and gone with it",
        a_smaller_link,
    ),
    Row {
        wrecks: true,
        ..row(
            38,
            "password, role, token, the server's certificate and the client's gone bad, and good again",
            "nothing lost, each said within 5 s, each well again within 5 s",
            refused,
        )
    },
    row(
        39,
        "no place for subnet.env: read-only, full, its folder gone",
        "said; what runs goes on",
        no_place_for_the_file,
    ),
];

/// Rows by their numbers; all of them for none.
pub fn chosen(numbers: &[u8]) -> Result<Vec<Row>, u8> {
    if numbers.is_empty() {
        return Ok(ROWS.to_vec());
    }
    let find = |number: &u8| ROWS.iter().find(|row| row.number == *number).copied();
    numbers
        .iter()
        .map(|number| find(number).ok_or(*number))
        .collect()
}

/// The fast subset; what takes its stage along comes last.
pub fn fast() -> Vec<Row> {
    let mut rows: Vec<_> = ROWS.iter().filter(|row| row.fast).copied().collect();
    rows.sort_by_key(|row| row.wrecks);
    rows
}

/// Rows without end, in an order that the seed gives; none that takes its stage along.
pub fn shuffled(rows: &[Row], seed: u64) -> impl Iterator<Item = Row> {
    let rows: Vec<_> = rows.iter().filter(|row| !row.wrecks).copied().collect();
    let mut state = seed;
    std::iter::from_fn(move || {
        // splitmix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let number = (mixed ^ (mixed >> 27)) >> 8;
        let count = u64::try_from(rows.len()).ok()?;
        let index = usize::try_from(number.checked_rem(count)?).ok()?;
        rows.get(index).copied()
    })
}

/// One line of the table, as Markdown.
pub fn line(verdict: &Verdict) -> String {
    let Verdict {
        row,
        toll,
        settled,
        failure,
        ..
    } = verdict;
    let lost = toll.map_or("-".to_owned(), |toll| {
        format!("{} of {}", toll.lost, toll.sent)
    });
    let gap = toll.map_or("-".to_owned(), |toll| format!("{} ms", toll.gap_ms));
    let settled = settled.map_or("-".to_owned(), |time| {
        format!("{:.1} s", time.as_secs_f64())
    });
    let pass = if failure.is_none() { "yes" } else { "NO" };
    let (number, name) = (row.number, row.name);
    format!("| {number} | {name} | {lost} | {gap} | {settled} | {pass} |")
}

pub const HEADING: &str = "| row | fault | lost | longest gap | time to converge | pass |\n\
                           | ---: | --- | ---: | ---: | ---: | --- |";

/// The whole report, as Markdown.
pub fn markdown(verdicts: &[Verdict]) -> String {
    let mut text = format!("{HEADING}\n");
    for verdict in verdicts {
        let _ = writeln!(text, "{}", line(verdict));
    }
    text.push('\n');
    for verdict in verdicts {
        let Verdict {
            row,
            notes,
            failure,
            ..
        } = verdict;
        let _ = writeln!(text, "* {}: {}.", row.number, row.criterion);
        for note in notes {
            let _ = writeln!(text, "  {note}.");
        }
        if let Some(why) = failure {
            let _ = writeln!(text, "  **Failed:** {}.", why.replace('\n', " "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_order_and_unique() {
        let numbers: Vec<_> = ROWS.iter().map(|row| row.number).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    }

    #[test]
    fn rows_are_found_by_their_numbers() {
        assert_eq!(chosen(&[]).map(|rows| rows.len()), Ok(ROWS.len()));
        assert_eq!(chosen(&[7]).map(|rows| rows.len()), Ok(1));
        assert_eq!(chosen(&[200]).map(|rows| rows.len()), Err(200));
    }
}
