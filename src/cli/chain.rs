//! Heads of the hash chain: kept elsewhere by `run`, and asked for by `verify --chain`.

use std::str::FromStr;
use std::time::Duration;

use super::context::Context;
use crate::archive::{Archive, Head, KeptHead, Store};
use crate::failure::{Failure, Result};
use crate::guard::post_json;
use crate::model::Lsn;

/// How often heads are kept elsewhere where the configuration does not say.
const EVERY: Duration = Duration::from_secs(600);

/// A head as somebody wrote it down: `16/B374D848:SHA-256`.
#[derive(Debug, Clone)]
pub(super) struct WrittenHead(pub(super) Head);

impl FromStr for WrittenHead {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<WrittenHead, String> {
        let wrong = || "a head is written as verify --chain shows it: 16/B374D848:SHA-256 in hexadecimal".to_owned();
        let (lsn, hash) = text.split_once(':').ok_or_else(wrong)?;
        let lsn: Lsn = lsn.parse().map_err(|_| wrong())?;
        match hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            true => Ok(WrittenHead(Head { lsn, hash: hash.to_lowercase() })),
            false => Err(wrong()),
        }
    }
}

/// Where heads are kept.
enum Anchor {
    Root(Store),
    /// Takes heads, and cannot be asked for them.
    Webhook(String),
}

impl Anchor {
    fn open(url: &str) -> Result<Anchor> {
        match url.starts_with("https://") || url.starts_with("http://") {
            true => Ok(Anchor::Webhook(url.to_owned())),
            false => Store::open(url).map(Anchor::Root),
        }
    }

    async fn keep(&self, archive: &Archive, head: &KeptHead) -> Result<()> {
        match self {
            Anchor::Root(root) => archive.keep_head(root, head).await,
            Anchor::Webhook(url) => {
                let body = serde_json::to_string(head).map_err(|error| Failure::failed(error.to_string()))?;
                post_json(url, body).await
            }
        }
    }
}

/// Whether heads are to be kept anywhere.
pub(super) fn has_anchors(context: &Context) -> bool {
    !context.config.chain.anchors.is_empty()
}

/// Keeps the newest head at every anchor, again and again, until it is aborted.
pub(super) async fn keep(context: Context) {
    let every = context.config.chain.every.map_or(EVERY, |span| span.0);
    let mut kept: Vec<Option<Head>> = vec![None; context.config.chain.anchors.len()];
    loop {
        if let Err(failure) = keep_newest(&context, &mut kept).await {
            tracing::warn!("the head of the hash chain is not kept: {failure}");
        }
        tokio::time::sleep(every).await;
    }
}

/// Keeps the newest head at every anchor where it is another than the last there.
async fn keep_newest(context: &Context, kept: &mut [Option<Head>]) -> Result<()> {
    let archive = context.archive().await?;
    let Some(newest) = archive.head().await? else { return Ok(()) };
    for (url, kept) in context.config.chain.anchors.iter().zip(kept) {
        if kept.as_ref() == Some(&newest.head) {
            continue;
        }
        let done = async { Anchor::open(url)?.keep(&archive, &newest).await };
        match done.await {
            Ok(()) => *kept = Some(newest.head.clone()),
            Err(failure) => tracing::warn!("the head of the hash chain is not kept at an anchor: {failure}"),
        }
    }
    Ok(())
}

/// The heads that anchors have of an archive.
///
/// # Errors
/// Failed where an anchor that can be asked has none: what could not be looked at is no proof.
pub(super) async fn heads_at(archive: &Archive, anchors: &[String]) -> Result<Vec<Head>> {
    let mut heads = Vec::new();
    for url in anchors {
        let Anchor::Root(root) = Anchor::open(url)? else { continue };
        let kept = archive.kept_heads(&root).await?;
        if kept.is_empty() {
            return Err(Failure::failed(format!("{url} has no head of this archive's chain"))
                .remedy("run keeps one there soon after the first transaction: [chain] anchors"));
        }
        heads.extend(kept.into_iter().map(|kept| kept.head));
    }
    Ok(heads)
}
