//! A local directory as an object store whose writes survive a power cut.
//!
//! `object_store`'s own local store returns before the operating system has put anything on disk, and
//! an archiver that acknowledges then has lost the change. Here an object is complete, synced and
//! reachable by a synced directory entry before `put` returns; what a reader finds under its name is
//! always whole. Reads and listings are the library's.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

const STORE: &str = "DurableLocal";

/// See the module's documentation.
#[derive(Debug)]
pub struct DurableLocal {
    inner: LocalFileSystem,
}

impl DurableLocal {
    /// Opens the directory as a store, creating and syncing it where it does not exist.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn new(root: &FilePath) -> Result<DurableLocal> {
        create_synced(root).map_err(|error| failed(root, error))?;
        Ok(DurableLocal { inner: LocalFileSystem::new_with_prefix(root)? })
    }
}

impl fmt::Display for DurableLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{STORE}({})", self.inner)
    }
}

#[async_trait::async_trait]
impl ObjectStore for DurableLocal {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let create = match options.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => return Err(not_implemented("put with an expected version")),
        };
        let path = self.inner.path_to_filesystem(location)?;
        let write = move || write_synced(&path, &payload, create).map_err(|error| failed(&path, error));
        match tokio::task::spawn_blocking(write).await {
            Ok(written) => written.map(|()| PutResult { e_tag: None, version: None }),
            Err(source) => Err(object_store::Error::JoinError { source }),
        }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(not_implemented("multipart upload"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        sorted(self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        sorted(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(not_implemented("copy"))
    }
}

/// By name, as object stores list: the Delta log is read in that order.
fn sorted(listing: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
    let whole = async move {
        let mut found: Vec<ObjectMeta> = listing.try_collect().await?;
        found.sort_unstable_by(|a, b| a.location.cmp(&b.location));
        Ok::<_, object_store::Error>(stream::iter(found.into_iter().map(Ok)))
    };
    stream::once(whole).try_flatten().boxed()
}

fn not_implemented(operation: &str) -> object_store::Error {
    object_store::Error::NotImplemented { operation: operation.into(), implementer: STORE.into() }
}

fn failed(path: &FilePath, source: io::Error) -> object_store::Error {
    let shown = path.display().to_string();
    match source.kind() {
        ErrorKind::AlreadyExists => object_store::Error::AlreadyExists { path: shown, source: source.into() },
        ErrorKind::PermissionDenied => object_store::Error::PermissionDenied { path: shown, source: source.into() },
        _ => object_store::Error::Generic { store: STORE, source: format!("{shown}: {source}").into() },
    }
}

fn write_synced(path: &FilePath, payload: &PutPayload, create: bool) -> io::Result<()> {
    let directory = path.parent().ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?;
    let staging = staging_path(path);
    let mut file = match OpenOptions::new().write(true).create_new(true).open(&staging) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            create_synced(directory)?;
            OpenOptions::new().write(true).create_new(true).open(&staging)?
        }
        opened => opened?,
    };
    let placed = fill(&mut file, payload).and_then(|()| place(&staging, path, create));
    if create || placed.is_err() {
        // The link has its own name by now; a leftover only takes space, and listings hide it.
        let _ = fs::remove_file(&staging);
    }
    placed?;
    sync_directory(directory)
}

/// A name beside the target that the library's listings leave out (`#` and digits).
fn staging_path(path: &FilePath) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut name = path.as_os_str().to_owned();
    name.push(format!("#{}{:06}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    PathBuf::from(name)
}

fn fill(file: &mut File, payload: &PutPayload) -> io::Result<()> {
    payload.iter().try_for_each(|part| file.write_all(part))?;
    file.sync_all()
}

fn place(staging: &FilePath, path: &FilePath, create: bool) -> io::Result<()> {
    if create { fs::hard_link(staging, path) } else { fs::rename(staging, path) }
}

/// Creates a directory and syncs every directory that got a new entry on the way.
fn create_synced(directory: &FilePath) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        create_synced(parent)?;
    }
    match fs::create_dir(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && directory.is_dir() => {}
        created => created?,
    }
    directory.parent().map_or(Ok(()), sync_directory)
}

fn sync_directory(directory: &FilePath) -> io::Result<()> {
    let directory = if directory.as_os_str().is_empty() { FilePath::new(".") } else { directory };
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt as _;

    use super::*;

    fn store(name: &str) -> (DurableLocal, PathBuf) {
        let root = std::env::temp_dir().join(format!("afterimage-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        (DurableLocal::new(&root.join("a/b")).unwrap(), root)
    }

    async fn create(store: &DurableLocal, path: &str, bytes: &'static [u8]) -> Result<PutResult> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        store.put_opts(&Path::from(path), PutPayload::from_static(bytes), options).await
    }

    #[tokio::test]
    async fn the_second_creation_of_a_name_loses() {
        let (store, root) = store("create");
        create(&store, "x/y/1.json", b"one").await.unwrap();
        let second = create(&store, "x/y/1.json", b"two").await;
        assert!(matches!(second, Err(object_store::Error::AlreadyExists { .. })), "{second:?}");
        let kept = store.get(&Path::from("x/y/1.json")).await.unwrap().bytes().await.unwrap();
        assert_eq!(&kept[..], b"one");
        let listed: Vec<ObjectMeta> = store.list(None).try_collect().await.unwrap();
        assert_eq!(listed.len(), 1, "no staging file is left or listed");
        fs::remove_dir_all(root).unwrap();
    }

    #[tokio::test]
    async fn overwriting_replaces_whole_objects() {
        let (store, root) = store("overwrite");
        store.put(&Path::from("k"), PutPayload::from_static(b"first, longer")).await.unwrap();
        store.put(&Path::from("k"), PutPayload::from_static(b"second")).await.unwrap();
        let kept = store.get(&Path::from("k")).await.unwrap().bytes().await.unwrap();
        assert_eq!(&kept[..], b"second");
        fs::remove_dir_all(root).unwrap();
    }
}
