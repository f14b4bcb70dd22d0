//! What the data path seam promises, held against the one in memory and against the kernel.
//! The kernel's half needs root.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "all of this file is tests, which clippy sees only of functions marked so"
)]

#[path = "netns/mod.rs"]
mod netns;

#[path = "datapath_contract/filters.rs"]
mod filters;
#[path = "datapath_contract/kernel.rs"]
mod kernel;
#[path = "datapath_contract/links.rs"]
mod links;
#[path = "datapath_contract/maps.rs"]
mod maps;
#[path = "datapath_contract/strays.rs"]
mod strays;
#[path = "datapath_contract/suite.rs"]
mod suite;

use weft::datapath::{
    ebpf::{EbpfDatapath, Way},
    fake::FakeDatapath,
};

use self::{
    kernel::{device, each_way, network, open_by, overflow},
    suite::World,
};

fn in_memory() -> World<FakeDatapath> {
    let number = |number: u32| number.try_into().unwrap();
    World {
        datapath: FakeDatapath::default(),
        devices: [("one0", number(7)), ("two0", number(8))],
        overflow: |fake| fake.full = true,
    }
}

fn in_kernel(way: Way) -> World<EbpfDatapath> {
    World {
        datapath: open_by(way, 1),
        devices: [device("one0"), device("two0")],
        overflow: |_| overflow(network(1)),
    }
}

macro_rules! contract {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(
                #[test]
                fn $name() {
                    super::suite::$name(super::in_memory());
                }
            )*
        }
        mod real {
            $(
                #[test]
                fn $name() {
                    super::each_way(|way| super::suite::$name(super::in_kernel(way)));
                }
            )*
        }
    };
}

contract![
    it_starts_empty,
    everything_put_reads_back,
    a_near_look_sees_all_that_others_change,
    settings_that_are_not_ready_are_none,
    a_second_put_replaces,
    deletes_take_one_away,
    deleting_what_is_gone_succeeds,
    programs_are_attached_and_detached,
    attaching_twice_is_attaching_once,
    a_sweep_leaves_what_this_run_attached,
    flows_are_recorded_and_forgotten,
    a_record_of_nat_is_never_weakened,
    an_overflow_lasts_until_it_is_cleared,
];
