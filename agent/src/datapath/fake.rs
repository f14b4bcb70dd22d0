//! A data path in memory, for tests of pure logic.
