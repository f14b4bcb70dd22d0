//! Pure lease logic: which subnet to claim, and when to renew.

use std::time::Duration;

pub mod allocate;
pub mod keeper;

/// How long a lease lives without renewal. flannel's number, and no option of it changes that.
pub const TTL: Duration = Duration::from_secs(86_400);
