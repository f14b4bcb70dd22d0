//! nftables: which tables there are, and that something changed. What they hold is for nft to say.

use rtnetlink::sys::protocols::NETLINK_NETFILTER;

use super::{
    NetlinkError,
    raw::{self, Events},
};

/// `NFNL_SUBSYS_NFTABLES`, and in it `NFT_MSG_GETTABLE`.
const GET_TABLE: u16 = 10 << 8 | 1;
const NFTA_TABLE_NAME: u16 = 1;
/// What iptables of the nft kind changes shows here too.
const NFNLGRP_NFTABLES: u32 = 7;
/// Length of `struct nfgenmsg`.
const FAMILY_HEADER: usize = 4;

/// A table, by the number of its family (`NFPROTO_*`) and its name.
pub type TableName = (u8, String);

/// The tables of the calling thread's network namespace; none where the kernel has no nftables.
pub async fn tables() -> Result<Vec<TableName>, NetlinkError> {
    let any_family = [0; FAMILY_HEADER];
    let call = "read nftables' tables";
    match raw::dump(call, NETLINK_NETFILTER, GET_TABLE, &any_family).await {
        Ok(rows) => Ok(rows.iter().filter_map(|row| read(row)).collect()),
        Err(error) if raw::is_unsupported(&error) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn read(row: &[u8]) -> Option<TableName> {
    let family = *row.first()?;
    let name = raw::attributes(row.get(FAMILY_HEADER..)?)
        .into_iter()
        .find(|(kind, _)| *kind == NFTA_TABLE_NAME)?
        .1;
    let name = String::from_utf8_lossy(name);
    Some((family, name.trim_end_matches('\0').to_owned()))
}

/// Changes of tables, chains and rules. Needs a tokio runtime.
pub fn changes() -> Result<Events, NetlinkError> {
    let call = "subscribe to nftables events";
    Events::open(call, NETLINK_NETFILTER, NFNLGRP_NFTABLES)
}
