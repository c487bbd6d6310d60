//! Object stores that fail, for tests.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::TryStreamExt as _;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult,
};

use super::Store;

/// The names of all objects.
pub(crate) async fn paths(objects: &InMemory) -> Vec<String> {
    objects.list(None).map_ok(|object| object.location.to_string()).try_collect().await.unwrap()
}

/// What a store does with one put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Does it and says that it failed.
    LostAnswer,
    /// Does it, fails, and does not find the answer when the client tries again: the name exists now.
    LostAnswerAndRetry,
    /// Does it and says that it failed, and refuses the read of this number after it.
    LostAnswerAndRead(usize),
    /// Does not do it.
    Refused,
    /// Does neither this nor anything later.
    Gone,
}

/// An object store whose n-th put meets a fault.
#[derive(Debug)]
pub(crate) struct Faulty {
    objects: Arc<InMemory>,
    puts: AtomicUsize,
    fault: Option<(usize, Fault)>,
    requests: AtomicUsize,
    /// Reads since the fault was met.
    reads: AtomicUsize,
    pub(super) paths: Mutex<Vec<String>>,
}

impl Faulty {
    pub(crate) fn over(objects: &Arc<InMemory>, fault: Option<(usize, Fault)>) -> Arc<Faulty> {
        let objects = Arc::clone(objects);
        Arc::new(Faulty {
            objects,
            puts: AtomicUsize::new(0),
            fault,
            requests: AtomicUsize::new(0),
            reads: AtomicUsize::new(0),
            paths: Mutex::default(),
        })
    }

    pub(crate) fn store(self: &Arc<Self>) -> Store {
        Store::new("memory://test", "memory:///".parse().unwrap(), Arc::clone(self) as Arc<dyn ObjectStore>)
    }

    /// How much was asked of it, of any kind.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    fn asked(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn was_met(&self) -> bool {
        self.fault.is_some_and(|(at, _)| self.puts.load(Ordering::Relaxed) > at)
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

fn broken() -> object_store::Error {
    object_store::Error::Generic { store: "Faulty", source: "connection reset by peer".into() }
}

#[async_trait::async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.asked();
        let number = self.puts.fetch_add(1, Ordering::Relaxed);
        self.paths.lock().unwrap().push(location.to_string());
        let fault = self.fault.filter(|(at, fault)| *at == number || (*fault == Fault::Gone && *at < number));
        match fault.map(|(_, fault)| fault) {
            None => self.objects.put_opts(location, payload, options).await,
            Some(Fault::Refused | Fault::Gone) => Err(broken()),
            Some(Fault::LostAnswer | Fault::LostAnswerAndRead(_)) => {
                self.objects.put_opts(location, payload, options).await?;
                Err(broken())
            }
            Some(Fault::LostAnswerAndRetry) => {
                self.objects.put_opts(location, payload.clone(), options.clone()).await?;
                self.objects.put_opts(location, payload, options).await
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        Err(broken())
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.asked();
        if let Some((_, Fault::LostAnswerAndRead(refused))) = self.fault
            && self.was_met()
            && self.reads.fetch_add(1, Ordering::Relaxed) == refused
        {
            return Err(broken());
        }
        self.objects.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> object_store::Result<Vec<Bytes>> {
        self.asked();
        self.objects.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.asked();
        self.objects.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.asked();
        self.objects.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.asked();
        self.objects.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.asked();
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> object_store::Result<()> {
        Err(broken())
    }
}
