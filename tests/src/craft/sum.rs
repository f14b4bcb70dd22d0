//! The checksums of the Internet and of SCTP.

/// The Internet checksum (RFC 1071); zero over bytes that hold a right one.
pub fn internet(bytes: &[u8]) -> u16 {
    internet_of(&[bytes])
}

/// The same over several pieces, each but the last of an even length.
pub fn internet_of(pieces: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for pair in pieces.iter().flat_map(|piece| piece.chunks(2)) {
        let high = pair.first().copied().unwrap_or(0);
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u64::from(u16::from_be_bytes([high, low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// The Castagnoli checksum, reflected, as SCTP has it (RFC 9260 appendix A).
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let odd = crc & 1;
            crc = (crc >> 1) ^ (0x82f6_3b78 * odd);
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_sums() {
        // The example of RFC 1071 section 3.
        assert_eq!(
            internet(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            !0xddf2
        );
        assert_eq!(internet(&[1]), !0x0100);
        // The check value of CRC-32C.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
