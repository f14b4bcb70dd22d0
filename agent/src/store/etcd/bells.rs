//! Following one key: whenever it is written or deleted, it is to be read.

use std::sync::Arc;

use etcd_client::WatchStream;
use futures::{StreamExt as _, stream};

use super::{failure::is_stale, link::Link};
use crate::store::{Bells, StoreError};

/// Opens a watch and waits for the server to confirm it: whatever is written from then on rings.
pub(super) async fn open(link: &Arc<Link>, key: &str) -> Result<Bells, StoreError> {
    let opened = link.call(|client| async move {
        let mut stream = client.watch_client().watch(key, None).await?;
        let first = stream.message().await?;
        Ok((stream, first))
    });
    let (stream, first) = opened.await.map_err(|failure| link.error(failure))?;
    if let Some(first) = first.filter(etcd_client::WatchResponse::canceled) {
        if is_stale(first.cancel_reason()) {
            link.renew();
        }
        return Err(link.error(link.denied(first.cancel_reason())));
    }
    let follow = (Arc::clone(link), stream);
    Ok(stream::unfold(follow, |(link, mut stream)| async move {
        let rung = ring(&link, &mut stream).await?;
        Some((rung, (link, stream)))
    })
    .boxed())
}

/// Waits for the next change. `None` when the watch is over, whatever ended it: it is opened
/// again, and the key is read then.
async fn ring(link: &Link, stream: &mut WatchStream) -> Option<Result<(), StoreError>> {
    loop {
        match stream.message().await {
            Ok(Some(response)) if response.canceled() => return None,
            Ok(Some(response)) if response.events().is_empty() => {}
            Ok(Some(_change)) => return Some(Ok(())),
            Ok(None) => return None,
            Err(error) => return Some(Err(link.error(link.judge(&error)))),
        }
    }
}
