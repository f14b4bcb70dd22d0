//! Pure lease logic: which subnet to claim, and when to renew.
