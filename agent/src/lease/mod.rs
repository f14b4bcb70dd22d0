//! Pure lease logic: which subnet to claim, and when to renew.

use std::time::Duration;

pub mod allocate;
pub mod keeper;
pub mod ttl;

/// How long a lease lives without renewal unless we are told otherwise. flannel's number.
pub const TTL: Duration = Duration::from_secs(86_400);
