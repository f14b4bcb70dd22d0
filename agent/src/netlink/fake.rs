//! A host in memory, for tests of pure logic.
