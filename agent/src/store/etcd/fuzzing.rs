//! The files' parsers under any bytes.

use super::credentials;

/// A CA, a certificate and a key as they might be written.
pub fn certificates(ca: &[u8], certificate: &[u8], key: &[u8]) {
    credentials::read_any(ca, certificate, key);
}
