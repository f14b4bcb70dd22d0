//! The order of the choice, and its promises for any state of the store.

use proptest::prelude::*;
use rand::{SeedableRng, rngs::StdRng};

use super::*;
use crate::model::lease::{Backend, LeaseAttrs};

const US: &str = "192.0.2.1";
const OTHER: &str = "192.0.2.2";

fn config(members: &str) -> NetworkConfig {
    NetworkConfig::parse(&format!(r#"{{{members},"Backend":{{"Type":"vxlan"}}}}"#)).unwrap()
}

fn sixteen() -> NetworkConfig {
    config(r#""Network":"10.3.0.0/16""#)
}

fn net(text: &str) -> Subnet {
    Subnet::try_from(text.parse::<IpNet>().unwrap()).unwrap()
}

fn claim(previous: Option<&str>) -> Claim {
    Claim {
        attrs: LeaseAttrs {
            public_ip: US.parse().unwrap(),
            backend: Backend::Other(String::new()),
        },
        previous: previous.map(net),
    }
}

fn record(subnet: &str, holder: Option<&str>) -> Taken {
    Taken {
        key: subnet.replace('/', "-"),
        subnet: net(subnet),
        holder: holder.map(|ip| ip.parse().unwrap()),
        ours_by_form: true,
        reserved: false,
    }
}

fn pick(config: &NetworkConfig, claim: &Claim, taken: &[Taken]) -> Choice {
    choose(config, claim, taken, &mut StdRng::seed_from_u64(1))
}

fn own(key: &str) -> Option<Take> {
    Some(Take::Own(key.to_owned()))
}

#[test]
fn of_several_of_our_own_the_previous_one_counts() {
    let taken = ["10.3.5.0/24", "10.3.9.0/24"].map(|net| record(net, Some(US)));
    let choice = pick(&sixteen(), &claim(Some("10.3.9.0/24")), &taken);
    assert_eq!(choice.take, own("10.3.9.0-24"));
    let choice = pick(&sixteen(), &claim(None), &taken);
    assert_eq!(choice.take, own("10.3.5.0-24"));
}

#[test]
fn our_own_comes_before_the_previous_one() {
    let taken = [
        record("10.3.5.0/24", Some(OTHER)),
        record("10.3.9.0/24", Some(US)),
    ];
    let choice = pick(&sixteen(), &claim(Some("10.3.7.0/24")), &taken);
    assert_eq!(choice.take, own("10.3.9.0-24"));
    assert!(choice.stale.is_empty());
}

#[test]
fn our_own_that_does_not_fit_is_stale_and_blocks_nothing() {
    let mut dual = record("10.3.9.0/24", Some(US));
    dual.ours_by_form = false;
    dual.key.push_str("&fd00::-64");
    for stale in [
        record("10.3.8.0/23", Some(US)),
        record("10.3.0.0/24", Some(US)),
        record("10.4.1.0/24", Some(US)),
        dual,
    ] {
        let key = stale.key.clone();
        let choice = pick(&sixteen(), &claim(Some("10.3.9.0/24")), &[stale]);
        assert_eq!(choice.stale, [key]);
        assert_eq!(choice.take, Some(Take::Free(net("10.3.9.0/24"))));
    }
    let both = [
        record("10.4.1.0/24", Some(US)),
        record("10.3.1.0/24", Some(US)),
    ];
    let choice = pick(&sixteen(), &claim(None), &both);
    assert_eq!(choice.take, own("10.3.1.0-24"));
    assert_eq!(choice.stale, ["10.4.1.0-24"]);
}

#[test]
fn a_reservation_that_does_not_fit_stays_and_blocks_its_addresses() {
    let mut reserved = record("10.3.8.0/22", Some(US));
    reserved.reserved = true;
    let choice = pick(&sixteen(), &claim(Some("10.3.9.0/24")), &[reserved]);
    assert!(choice.stale.is_empty());
    match choice.take {
        Some(Take::Free(subnet)) => assert!(!subnet.overlaps(net("10.3.8.0/22"))),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_previous_one_is_taken_only_if_free_and_fitting() {
    let previous = "10.3.9.0/24";
    let taken = [record("10.3.8.0/24", Some(OTHER))];
    let choice = pick(&sixteen(), &claim(Some(previous)), &taken);
    assert_eq!(choice.take, Some(Take::Free(net(previous))));
    for (previous, taken) in [
        (previous, record("10.3.9.0/24", Some(OTHER))),
        (previous, record("10.3.8.0/22", Some(OTHER))),
        (previous, record("10.3.9.128/25", None)),
        ("10.3.0.0/24", record("10.3.1.0/24", None)),
        ("10.3.8.0/23", record("10.3.1.0/24", None)),
        ("10.9.9.0/24", record("10.3.1.0/24", None)),
        ("fd00::/64", record("10.3.1.0/24", None)),
    ] {
        let choice = pick(
            &sixteen(),
            &claim(Some(previous)),
            std::slice::from_ref(&taken),
        );
        let Some(Take::Free(subnet)) = choice.take else {
            panic!("nothing was chosen");
        };
        assert_ne!(subnet, net(previous));
        assert!(!subnet.overlaps(taken.subnet));
    }
}

#[test]
fn one_of_the_first_hundred_is_picked_at_random() {
    let seen: std::collections::BTreeSet<Subnet> = (0..2_000)
        .filter_map(|seed| {
            let mut rng = StdRng::seed_from_u64(seed);
            match choose(&sixteen(), &claim(None), &[], &mut rng).take {
                Some(Take::Free(subnet)) => Some(subnet),
                Some(Take::Own(_)) | None => None,
            }
        })
        .collect();
    assert_eq!(seen.len(), CANDIDATES);
    assert_eq!(seen.first(), Some(&net("10.3.1.0/24")));
    assert_eq!(seen.last(), Some(&net("10.3.100.0/24")));
}

#[test]
fn the_ends_of_the_address_space_are_no_trap() {
    let top = config(r#""Network":"255.255.255.240/28""#);
    let all = first_free(&top, &[], usize::MAX);
    assert_eq!(all.len(), 3);
    assert_eq!(all.last(), Some(&net("255.255.255.252/30")));
    assert!(first_free(&top, &[net("128.0.0.0/1")], 9).is_empty());
    let half = config(r#""Network":"128.0.0.0/1","SubnetLen":3"#);
    assert_eq!(first_free(&half, &[net("255.0.0.0/8")], 9).len(), 2);
}

proptest! {
    #[test]
    fn a_free_subnet_is_found_exactly_if_there_is_one(
        prefix in 20_u8..27,
        extra in 2_u8..5,
        spans in prop::collection::vec((0_u32..4096, 18_u8..32, any::<bool>()), 0..40),
        previous in 0_u32..4096,
        seed: u64,
    ) {
        let len = (prefix + extra).min(30);
        let config = config(&format!(r#""Network":"10.3.0.0/{prefix}","SubnetLen":{len}"#));
        let at = |offset: u32, len| {
            let addr = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 3, 0, 0)) + offset);
            Subnet::try_from(IpNet::V4(Ipv4Net::new_assert(addr, len).trunc())).unwrap()
        };
        let taken: Vec<Taken> = spans
            .iter()
            .map(|&(offset, len, readable)| Taken {
                key: String::new(),
                subnet: at(offset, len),
                holder: readable.then(|| OTHER.parse().unwrap()),
                ours_by_form: true,
                reserved: false,
            })
            .collect();
        let free = |subnet: Subnet| !taken.iter().any(|t| t.subnet.overlaps(subnet));
        let all: Vec<Subnet> = (0..1 << (len - prefix))
            .map(|i| at(i << (32 - len), len))
            .filter(|&subnet| fits(&config, subnet) && free(subnet))
            .collect();
        let blocked: Vec<Subnet> = taken.iter().map(|t| t.subnet).collect();
        prop_assert_eq!(&first_free(&config, &blocked, usize::MAX), &all);

        let previous = at(previous, len);
        let claim = Claim { previous: Some(previous), ..claim(None) };
        let choice = choose(&config, &claim, &taken, &mut StdRng::seed_from_u64(seed));
        match choice.take {
            Some(Take::Free(subnet)) => {
                prop_assert!(all.contains(&subnet));
                prop_assert!(!all.contains(&previous) || subnet == previous);
            }
            Some(Take::Own(_)) => prop_assert!(false, "nothing is ours"),
            None => prop_assert!(all.is_empty()),
        }
    }
}
