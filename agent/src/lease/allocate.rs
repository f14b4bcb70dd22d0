//! Which subnet to claim, in flannel's order: our own, the previous one, a free one.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use rand::{Rng, seq::IndexedRandom};

use crate::model::{lease::Claim, net::Subnet, network::NetworkConfig};

/// How many free subnets the random choice is made from. flannel's number.
const CANDIDATES: usize = 100;

/// A record of the store, as far as the choice needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its key.
    pub key: String,
    /// What it takes.
    pub subnet: Subnet,
    /// Whose it is; `None` where the record cannot be read.
    pub holder: Option<IpAddr>,
    /// Whether its key is one that we would write: an IPv4 subnet and nothing else.
    pub ours_by_form: bool,
    /// Whether it has no end: an operator's reservation.
    pub reserved: bool,
}

/// What to do to get a subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Keys of our own records that do not fit the network config (any more), to be deleted.
    pub stale: Vec<String>,
    /// What to take; `None` where every subnet is taken.
    pub take: Option<Take>,
}

/// A subnet to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Take {
    /// It is ours already, under this key.
    Own(String),
    /// It is free.
    Free(Subnet),
}

/// Chooses among the subnets of `config`, given every record of the store in the order of keys.
pub fn choose(
    config: &NetworkConfig,
    claim: &Claim,
    taken: &[Taken],
    rng: &mut impl Rng,
) -> Choice {
    let (own, mut others): (Vec<_>, Vec<_>) = taken
        .iter()
        .partition(|record| record.holder == Some(claim.attrs.public_ip));
    let (fitting, unfit): (Vec<_>, Vec<_>) = own
        .into_iter()
        .partition(|record| record.ours_by_form && fits(config, record.subnet));
    // A reservation is the operator's to remove, even one that we cannot use.
    let (reserved, stale): (Vec<_>, Vec<_>) = unfit.into_iter().partition(|record| record.reserved);
    others.extend(reserved);
    // A dead node's address may be ours now: of several records the one that our containers have.
    let last = |record: &&&Taken| claim.previous == Some(record.subnet);
    let take = match fitting.iter().find(last).or_else(|| fitting.first()) {
        Some(record) => Some(Take::Own(record.key.clone())),
        None => {
            let others: Vec<Subnet> = others.into_iter().map(|record| record.subnet).collect();
            previous(config, claim, &others)
                .or_else(|| first_free(config, &others, CANDIDATES).choose(rng).copied())
                .map(Take::Free)
        }
    };
    Choice {
        stale: stale.into_iter().map(|record| record.key.clone()).collect(),
        take,
    }
}

/// Whether a subnet is one that the network config would hand out.
#[must_use]
pub fn fits(config: &NetworkConfig, subnet: Subnet) -> bool {
    subnet.v4().is_some_and(|net| {
        let (min, max) = bounds(config);
        net.prefix_len() == config.subnet_len && (min..=max).contains(&u32::from(net.addr()).into())
    })
}

fn previous(config: &NetworkConfig, claim: &Claim, taken: &[Subnet]) -> Option<Subnet> {
    claim
        .previous
        .filter(|&subnet| fits(config, subnet) && !taken.iter().any(|&t| t.overlaps(subnet)))
}

/// The first subnets, `limit` at most, that overlap none of `taken`.
///
/// It leaps over what is taken, so that a large range with many leases costs no more than a sort.
fn first_free(config: &NetworkConfig, taken: &[Subnet], limit: usize) -> Vec<Subnet> {
    let (min, max) = bounds(config);
    let step = 1_u64 << (32 - u32::from(config.subnet_len));
    let mut spans: Vec<(u64, u64)> = taken
        .iter()
        .filter_map(|subnet| subnet.v4())
        .map(|net| {
            (
                u32::from(net.network()).into(),
                u32::from(net.broadcast()).into(),
            )
        })
        .collect();
    spans.sort_unstable();
    // Nothing is free after the range, so the walk ends as at any other taken span.
    spans.push((max + step, u64::MAX));

    let mut free = Vec::new();
    let mut next = min;
    for (start, end) in spans {
        while next + step <= start && next <= max {
            if free.len() == limit {
                return free;
            }
            free.extend(subnet(next, config.subnet_len));
            next += step;
        }
        if end >= next {
            next = (end / step).saturating_add(1).saturating_mul(step);
        }
        if next > max {
            break;
        }
    }
    free
}

/// Addresses of the first and the last subnet, wide enough to step beyond.
fn bounds(config: &NetworkConfig) -> (u64, u64) {
    let addr = |subnet: Subnet| subnet.v4().map_or(0, |net| u32::from(net.addr()).into());
    (addr(config.subnet_min), addr(config.subnet_max))
}

fn subnet(addr: u64, len: u8) -> Option<Subnet> {
    let addr = Ipv4Addr::from(u32::try_from(addr).ok()?);
    Subnet::try_from(IpNet::V4(Ipv4Net::new(addr, len).ok()?)).ok()
}

#[cfg(test)]
mod tests;
