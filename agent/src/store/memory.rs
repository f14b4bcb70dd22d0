//! Leases in memory, for tests of pure logic.
