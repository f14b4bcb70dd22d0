//! How long our certificate is good for. etcd hangs up on one that has run out, mostly without a
//! word why.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustls::pki_types::CertificateDer;

/// The end of the certificate in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    path: PathBuf,
    end: SystemTime,
}

impl Validity {
    /// Of the certificate that comes first, which is ours; `None` where its dates cannot be read.
    pub(super) fn of(path: &Path, chain: &[CertificateDer<'_>]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(chain.first()?).ok()?;
        let end = certificate.validity().not_after.timestamp();
        let since = Duration::from_secs(u64::try_from(end).unwrap_or_default());
        Some(Self {
            path: path.to_path_buf(),
            end: SystemTime::UNIX_EPOCH.checked_add(since)?,
        })
    }

    /// What is wrong with it at this time.
    pub(super) fn over(&self, now: SystemTime) -> Option<String> {
        let end = humantime::format_rfc3339_seconds(self.end);
        (now > self.end).then(|| {
            format!(
                "the certificate in `{}` ran out at {end}, or this host's clock is wrong: replace it",
                self.path.display()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_the_certificates() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.not_after = rcgen::date_time_ymd(2031, 5, 17);
        let made = params.self_signed(&key).unwrap();
        let path = Path::new("/x/agent.pem");
        let validity = Validity::of(path, &[made.der().clone()]).unwrap();
        let end = SystemTime::from(rcgen::date_time_ymd(2031, 5, 17));
        assert_eq!(validity.over(end), None);
        let said = validity.over(end + Duration::from_secs(1)).unwrap();
        assert!(
            said.contains("`/x/agent.pem` ran out at 2031-05-17T00:00:00Z"),
            "{said}"
        );
        assert_eq!(Validity::of(path, &[]), None);
        assert_eq!(
            Validity::of(path, &[CertificateDer::from(vec![1, 2, 3])]),
            None
        );
    }
}
