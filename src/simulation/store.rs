//! The simulated object store: slow, failing, and forgetting to answer.
//!
//! What becomes of a request is decided by the seed, its kind, its path, and how often it was made: so it is the same
//! however tasks interleave.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use chrono::TimeDelta;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt as _,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use regex::Regex;
use serde_json::Value as Json;

use super::process::Process;
use super::world::{World, hash_of, locked};
use crate::archive::Store;
use crate::machine;
use crate::model::Lsn;

/// The store as one process reaches it; as it is, without faults, where there is none.
pub(super) struct SimulatedStore {
    world: Arc<World>,
    process: Option<Arc<Process>>,
}

/// The store of an archiver, or of somebody who only looks.
pub(super) fn open(world: &Arc<World>, process: Option<&Arc<Process>>) -> Store {
    let objects = SimulatedStore { world: Arc::clone(world), process: process.cloned() };
    Store::new("memory://simulated", "memory:///".parse().unwrap(), Arc::new(objects))
}

impl fmt::Debug for SimulatedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimulatedStore")
    }
}

impl fmt::Display for SimulatedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimulatedStore")
    }
}

/// A commit of a Delta log without the time of day, which the Delta library asks the system for by itself.
fn in_simulated_time(bytes: Vec<u8>) -> Vec<u8> {
    static STAMPS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r#""(deletionTimestamp|timestamp)":\d+"#).unwrap());
    match String::from_utf8(bytes) {
        Ok(text) => {
            let stamp = format!("\"$1\":{}", machine::now().timestamp_millis());
            STAMPS.replace_all(&text, stamp).into_owned().into_bytes()
        }
        // A checkpoint.
        Err(other) => other.into_bytes(),
    }
}

/// What a request meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    /// It is not done.
    Refused,
    /// It is not done, and that is the store's wish.
    SlowDown,
    /// It is done, and the answer is lost.
    LostAnswer,
    /// The answer is lost, and the client asks again: what was to be new exists now.
    LostAnswerAndRetry,
    /// What was written a moment ago may be missing in the answer.
    Stale,
}

/// How long a list can lack what was written.
const STALE_FOR: TimeDelta = TimeDelta::milliseconds(700);

fn broken(why: &'static str) -> object_store::Error {
    object_store::Error::Generic { store: "simulated", source: why.into() }
}

impl SimulatedStore {
    /// Lets time pass, and decides.
    async fn fate(&self, operation: &'static str, path: &str) -> object_store::Result<Fate> {
        let Some(process) = &self.process else { return Ok(Fate::Done) };
        let world = &self.world;
        if !process.step() {
            return self.gone().await;
        }
        let times = {
            let mut requests = locked(&world.requests);
            requests.count += 1;
            let times = requests.seen.entry((operation, path.to_owned())).or_default();
            *times += 1;
            *times
        };
        let chance = hash_of(world.seed, &[operation.as_bytes(), path.as_bytes(), &times.to_le_bytes()]);
        let (latency, fault, kind) = (chance & 0xffff, (chance >> 16) & 0xffff, (chance >> 32) & 0xff);
        machine::spend(self.latency(latency)).await;
        if process.is_dead() {
            return self.gone().await;
        }
        let often = if world.faults.store && !world.is_calm() { world.knobs.store_faults } else { 0 };
        let fate = match (fault % 1000 < often, operation, kind % 8) {
            (false, ..) => Fate::Done,
            (true, "put", 0..3) => Fate::LostAnswer,
            (true, "put", 3) => Fate::LostAnswerAndRetry,
            (true, "list", 5..) if world.knobs.stale_lists => Fate::Stale,
            (true, _, 4) => Fate::SlowDown,
            (true, ..) => Fate::Refused,
        };
        if fate != Fate::Done {
            locked(&world.requests).failed += 1;
        }
        world.trace(operation, format!("{} {path} {fate:?}", process.number).as_bytes());
        Ok(fate)
    }

    fn latency(&self, chance: u64) -> Duration {
        let most = if self.world.is_calm() { 5 } else { self.world.knobs.store_ms };
        let ms = if chance.is_multiple_of(97) { most * 40 } else { chance % (most + 1) };
        Duration::from_millis(ms)
    }

    /// Of a process that is no more nothing reaches the store, and it hears nothing.
    async fn gone<T>(&self) -> object_store::Result<T> {
        if machine::is_in_place() {
            return Err(broken("the process is no more"));
        }
        std::future::pending().await
    }

    fn refusal(fate: Fate) -> object_store::Error {
        match fate {
            Fate::SlowDown => broken("503 Service Unavailable: SlowDown"),
            _ => broken("connection reset by peer"),
        }
    }

    async fn really_put(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        let bytes: Vec<u8> = payload.iter().flat_map(|part| part.iter().copied()).collect();
        let bytes = if location.as_ref().contains("/_delta_log/") { in_simulated_time(bytes) } else { bytes };
        let done = self.world.objects.put_opts(location, bytes.clone().into(), options).await?;
        locked(&self.world.requests).written.insert(location.to_string(), machine::now());
        self.look_at_commit(location, &bytes).await;
        Ok(done)
    }

    /// Looks at what is being committed: files must be there before they are referred to, and the watermark is known to
    /// the world from here.
    async fn look_at_commit(&self, location: &Path, bytes: &[u8]) {
        let Some((table, name)) = location.as_ref().split_once("/_delta_log/") else { return };
        if !name.ends_with(".json") || name.len() != 25 {
            return;
        }
        let actions = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        for action in actions.filter_map(|line| serde_json::from_slice::<Json>(line).ok()) {
            if let Some(path) = action["add"]["path"].as_str() {
                let whole = Path::from(format!("{table}/{}", Path::from_url_path(path).unwrap()));
                if self.world.objects.head(&whole).await.is_err() {
                    self.world.violation(format!("3: {location} refers to {whole}, which is not there"));
                }
            }
            if table == "log/transactions" && action["txn"]["appId"] == "afterimage.watermark" {
                self.world.published(Lsn(action["txn"]["version"].as_u64().unwrap_or(0)));
            }
        }
    }

    fn dated(&self, mut meta: ObjectMeta) -> ObjectMeta {
        if let Some(time) = locked(&self.world.requests).written.get(meta.location.as_ref()) {
            meta.last_modified = *time;
        }
        meta
    }
}

#[async_trait::async_trait]
impl ObjectStore for SimulatedStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        let fate = self.fate("put", location.as_ref()).await?;
        let done = match fate {
            Fate::Done => self.really_put(location, payload, options).await,
            Fate::Refused | Fate::SlowDown | Fate::Stale => Err(Self::refusal(fate)),
            Fate::LostAnswer => {
                self.really_put(location, payload, options).await?;
                Err(Self::refusal(fate))
            }
            Fate::LostAnswerAndRetry => {
                self.really_put(location, payload.clone(), options.clone()).await?;
                self.really_put(location, payload, options).await
            }
        };
        // Whoever is killed while the answer is on its way has written it all the same.
        match &self.process {
            Some(process) if !process.step() => self.gone().await,
            _ => done,
        }
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        Err(broken("the simulated store has no uploads in parts"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        match self.fate("get", location.as_ref()).await? {
            Fate::Done => {
                let mut found = self.world.objects.get_opts(location, options).await?;
                found.meta = self.dated(found.meta);
                Ok(found)
            }
            fate => Err(Self::refusal(fate)),
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> object_store::Result<Vec<Bytes>> {
        match self.fate("get", location.as_ref()).await? {
            Fate::Done => self.world.objects.get_ranges(location, ranges).await,
            fate => Err(Self::refusal(fate)),
        }
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        let this = self.clone();
        let each = move |location: object_store::Result<Path>| {
            let this = this.clone();
            async move {
                let location = location?;
                match this.fate("delete", location.as_ref()).await? {
                    Fate::Done => this.world.objects.delete(&location).await.map(|()| location),
                    fate => Err(Self::refusal(fate)),
                }
            }
        };
        locations.then(each).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.listed(prefix.cloned(), None)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.listed(prefix.cloned(), Some(offset.clone()))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        match self.fate("list", prefix.map_or("", Path::as_ref)).await? {
            Fate::Done | Fate::Stale => self.world.objects.list_with_delimiter(prefix).await,
            fate => Err(Self::refusal(fate)),
        }
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> object_store::Result<()> {
        Err(broken("the simulated store copies nothing"))
    }
}

impl Clone for SimulatedStore {
    fn clone(&self) -> Self {
        SimulatedStore { world: Arc::clone(&self.world), process: self.process.clone() }
    }
}

impl SimulatedStore {
    fn listed(
        &self,
        prefix: Option<Path>,
        offset: Option<Path>,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let this = self.clone();
        let listing = async move {
            match this.fate("list", prefix.as_ref().map_or("", Path::as_ref)).await? {
                fate @ (Fate::Done | Fate::Stale) => {
                    let objects = &this.world.objects;
                    let listed = match &offset {
                        Some(offset) => objects.list_with_offset(prefix.as_ref(), offset),
                        None => objects.list(prefix.as_ref()),
                    };
                    let mut found: Vec<ObjectMeta> = listed.try_collect().await?;
                    found.iter_mut().for_each(|meta| *meta = this.dated(meta.clone()));
                    if fate == Fate::Stale {
                        let since = machine::now() - STALE_FOR;
                        let shown = |meta: &ObjectMeta| {
                            hash_of(this.world.seed, &[meta.location.as_ref().as_bytes()]).is_multiple_of(2)
                        };
                        found.retain(|meta| meta.last_modified < since || shown(meta));
                    }
                    Ok(futures::stream::iter(found.into_iter().map(Ok)))
                }
                fate => Err(Self::refusal(fate)),
            }
        };
        futures::stream::once(listing).try_flatten().boxed()
    }
}
