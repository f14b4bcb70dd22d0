//! The address that our record is to name, as the loop finds it on the uplink.

use std::net::{IpAddr, Ipv4Addr};

use tokio::sync::watch;

use crate::{reconcile::run::Report, uplink::Uplink};

/// Tells of every one but the first, once the loop has programmed this host for it. What is connected from the
/// old one is told before. Ends with the loop.
pub async fn follow(
    mut source: Ipv4Addr,
    mut report: watch::Receiver<Report>,
    address: watch::Sender<IpAddr>,
    old_is_gone: impl Fn(),
) {
    loop {
        let uplink = report.borrow_and_update().uplink.clone();
        if let Some(Uplink {
            address: own,
            public_ip,
            ..
        }) = uplink
        {
            if std::mem::replace(&mut source, own) != own {
                old_is_gone();
            }
            let new = IpAddr::V4(public_ip);
            address.send_if_modified(|known| std::mem::replace(known, new) != new);
        }
        if report.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::task::yield_now;

    use super::*;

    fn report(own: &str, public: &str) -> Report {
        Report {
            uplink: Some(Uplink {
                link: 2.try_into().unwrap(),
                name: "eth0".to_owned(),
                mtu: 1500,
                address: own.parse().unwrap(),
                public_ip: public.parse().unwrap(),
                ethernet: true,
                mac: None,
            }),
            ..Report::default()
        }
    }

    #[tokio::test]
    async fn a_new_address_is_told_once_and_a_nat_hides_it() {
        let (loops, report_now) = watch::channel(Report::default());
        let (told, mut address) = watch::channel(IpAddr::from([192, 0, 2, 1]));
        let left = Cell::new(0);
        let steps = async {
            for (own, public, is_new, leaves) in [
                ("192.0.2.1", "192.0.2.1", false, 0),
                ("192.0.2.7", "192.0.2.7", true, 1),
                ("192.0.2.7", "192.0.2.7", false, 1),
                ("10.0.0.7", "192.0.2.7", false, 2),
            ] {
                loops.send_replace(report(own, public));
                // The two take turns at being first.
                for _ in 0..2 {
                    yield_now().await;
                }
                assert_eq!(address.has_changed().unwrap(), is_new, "{own} {public}");
                assert_eq!(address.borrow_and_update().to_string(), public);
                assert_eq!(left.get(), leaves);
            }
            drop(loops);
        };
        let first = Ipv4Addr::new(192, 0, 2, 1);
        let following = follow(first, report_now, told.clone(), || left.set(left.get() + 1));
        tokio::join!(following, steps);
    }
}
