//! One contract for every lease store, held to a real etcd and to the store in memory.
//!
//! Needs `/usr/bin/etcd`, or another that `WEFT_ETCD` names; run with `cargo test -p weft --features fakes --test store_contract`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is test code, which the lints see only inside of test functions"
)]

mod bench;
mod certificates;
mod claims;
mod etcd;
mod etcd_faults;
mod etcd_resume;
mod etcd_tls;
mod etcd_users;
mod etcd_way;
mod history;
mod keeping;
mod model;
mod race;
mod retaking;
mod watching;

/// Every case once for each store.
macro_rules! contract {
    ($($module:ident: $($case:ident)*;)*) => {
        mod memory_store {
            $($(
                #[tokio::test]
                async fn $case() {
                    crate::$module::$case(&crate::bench::Memory::new()).await;
                }
            )*)*
        }

        mod etcd_store {
            $($(
                #[tokio::test]
                async fn $case() {
                    crate::$module::$case(&crate::etcd::Etcd::start().await).await;
                }
            )*)*
        }
    };
}

contract! {
    claims:
        the_config_is_read_and_checked
        a_fresh_claim_writes_flannels_bytes
        our_own_lease_is_found_again
        our_own_lease_follows_our_attributes
        our_own_lease_that_does_not_fit_is_replaced
        the_previous_subnet_is_honoured
        a_reservation_is_used_and_stays_one
        concurrent_claims_never_overlap
        concurrent_claims_of_two_lengths_never_overlap
        unreadable_records_keep_their_subnet
        an_unusable_address_is_refused;
    keeping:
        a_lease_is_renewed
        a_deleted_lease_is_lost
        an_overwritten_lease_is_lost
        a_lease_attached_elsewhere_is_lost
        a_lease_is_released_if_it_is_ours
        a_reservation_is_not_released;
    retaking:
        a_free_subnet_is_taken_again
        a_subnet_that_another_has_is_left
        a_record_of_another_length_is_in_the_way
        our_own_record_is_attached_again
        a_twin_is_told_and_overwritten_only_when_asked
        a_record_follows_a_new_address_if_it_is_ours;
    watching:
        changes_are_followed
        changes_of_the_config_ring
        an_ipv4_half_is_followed
        a_bad_record_touches_no_other
        siblings_of_the_prefix_are_not_ours
        a_compacted_start_is_told
        a_future_start_is_told
        a_start_in_another_store_is_told
        a_watch_goes_on_where_the_snapshot_ends;
}
